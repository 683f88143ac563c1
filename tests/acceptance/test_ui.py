"""The Dagster UI in a real browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.acceptance.commands import Machine
from tests.graphql import Dagster

EXAMPLES = Path(__file__).parents[2] / "examples"
ARTEFACTS = Path(__file__).parents[2] / ".artifacts"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
ASSETS = (
    "media_objects",
    "phash_index",
    "vision_results",
    "post_enrichment",
    "tenant_storage_usage",
    "qdrant_collection",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; .ci/run installs it"),
]


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def tenants(machine: Machine) -> dict[str, str]:
    """Name → id."""
    connection = psycopg2.connect(machine.endpoints()["database_url"])
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, id::text FROM tenants")
            return dict(cursor.fetchall())
    finally:
        connection.close()


def test_materialize_a_partition_by_clicking(machine: Machine, page: Page) -> None:
    """The UI shows the assets and both tenants; one that was only imported turns green by a few clicks."""
    ARTEFACTS.mkdir(exist_ok=True)
    machine.run("demo", "--tenants", "City Walks")
    with machine.up() as up:
        url = up.ui_url
        Dagster(url).stop_sensor("new_posts")  # it would be faster than the clicks
        machine.run("import", str(EXAMPLES / "dev_digest"), "--tenant", "Dev Digest")
        ids = tenants(machine)

        page.goto(f"{url}/assets")
        for asset in ASSETS:
            expect(page.get_by_text(asset, exact=True).first).to_be_visible()
        page.screenshot(path=ARTEFACTS / "assets.png")

        # The sensor makes the new tenant's partition within its interval.
        _until(page, f"{url}/assets/media_objects?view=partitions", "Missing (1)")
        expect(page.get_by_text("Materialized (1)")).to_be_visible()
        page.screenshot(path=ARTEFACTS / "partition-missing.png")
        page.get_by_role("button", name="Materialize").first.click()
        dialog: Any = page.get_by_role("dialog")
        dialog.get_by_text("Select a partition or create one").click()
        for tenant_id in ids.values():
            expect(page.get_by_role("menuitem").filter(has_text=tenant_id)).to_be_visible()
        page.get_by_role("menuitem").filter(has_text=ids["Dev Digest"]).click()
        page.keyboard.press("Escape")
        expect(page.get_by_role("menuitem")).to_have_count(0)
        page.screenshot(path=ARTEFACTS / "launch.png")
        page.get_by_role("button", name="Launch 1 run").click()
        expect(dialog).to_have_count(0)  # it closes when the run is launched; leaving earlier would break that off

        _until(page, f"{url}/assets/media_objects?view=partitions", "Materialized (2)")
        page.screenshot(path=ARTEFACTS / "partition-green.png")
        page.goto(f"{url}/assets/media_objects?view=events&partition={ids['Dev Digest']}")
        expect(page.get_by_text("Dev Digest")).to_be_visible()
        page.screenshot(path=ARTEFACTS / "materialization.png")

        page.goto(f"{url}/asset-groups")
        expect(page.get_by_text("Materialize all")).to_be_visible()
        page.keyboard.press("Alt+e")  # all groups are unfolded
        for asset in ("media_objects", "vision_results", "qdrant_collection"):
            expect(page.get_by_text(asset, exact=True).filter(visible=True).first).to_be_visible()
        page.screenshot(path=ARTEFACTS / "graph.png")

        page.goto(f"{url}/assets/vision_results?view=partitions&partition={ids['City Walks']}")
        row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="pictures", exact=True))
        row.get_by_text("[Show Markdown]").click()
        thumbnails = page.get_by_role("dialog").get_by_role("img")
        expect(thumbnails.first).to_be_visible()
        page.wait_for_function("[...document.querySelectorAll('[role=dialog] img')].every(one => one.naturalWidth > 0)")
        assert thumbnails.count() > 10
        page.screenshot(path=ARTEFACTS / "thumbnails.png")

        machine.run("quota", "set", "--tenant", "City Walks", "--limit", "1KiB")
        dagster = Dagster(url)
        dagster.wait_for_runs(
            [dagster.run("tenant_pipeline", ["tenant_storage_usage"], ids["City Walks"])], seconds=180
        )
        page.goto(f"{url}/assets/tenant_storage_usage?view=checks&checkDetail=quota_below_limit")
        expect(page.get_by_text("of 1,024 bytes").first).to_be_visible()
        expect(page.get_by_text('vision-assets quota set --tenant "City Walks"').first).to_be_visible()
        page.screenshot(path=ARTEFACTS / "failing-check.png")


def _until(page: Page, url: str, text: str) -> None:
    """Load a page until it shows a text."""
    for _ in range(20):
        page.goto(url)
        try:
            expect(page.get_by_text(text)).to_be_visible(timeout=6_000)
        except AssertionError:
            continue
        return
    raise AssertionError(f"{url} never showed {text!r}")
