"""The dashboards for Grafana: every query is asked of a real Prometheus that scrapes a real exporter over real ledgers.

What is not here: the alerts (`unit/test_prometheus_rules.py`).
"""

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.bench import Bench, NewBench
from tests.lookalikes import Posts
from tests.pictures import photo
from tests.recorded import record_materializations
from tests.scraped import metric_names
from vision_assets.clients.postgres.ledger import raise_counter
from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.policy import VisionPolicy
from vision_assets.devstack.processes import free_port
from vision_assets.service.catalogue import CATALOGUE
from vision_assets.settings import Settings

ROOT = Path(__file__).parents[2]
PROMETHEUS = shutil.which("prometheus")
COMMAND = str(Path(sys.executable).with_name("vision-assets"))
BOARDS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text()) for file in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
}
VARIABLES = {"$tenant": ".*", "$__rate_interval": "1m"}


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Each query as (dashboard, panel, PromQL), the variables filled in as Grafana does."""
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                query = target["expr"]
                for variable, value in VARIABLES.items():
                    query = query.replace(variable, value)
                yield name, panel["title"], query


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def ask(self, query: str) -> list[float]:
        """Ask for the present values of a query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return [float(one["value"][1]) for one in answer["data"]["result"]]

    def wait_for(self, query: str) -> None:
        """Wait until a query has an answer."""
        deadline = time.monotonic() + 60
        while not self.ask(query):
            assert time.monotonic() < deadline, f"no answer to {query}"
            time.sleep(0.2)

    def wait_for_scrapes(self, count: int) -> None:
        """Wait until the exporter was scraped so many times more."""
        scrapes = 'count_over_time(up{job="vision-assets"}[1h])'
        self.wait_for(scrapes)
        [before] = self.ask(scrapes)
        self.wait_for(f"{scrapes} >= {before + count}")


@contextmanager
def running(command: list[str], url: str, **variables: str) -> Iterator[None]:
    """Run a server until the block is left; it is there when it answers."""
    process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            try:
                if httpx.get(url).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def prometheus(folder: Path, exporter_port: int) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration, but for the times and the exporter's port."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms", "scrape_timeout": "500ms"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus/rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{exporter_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    assert PROMETHEUS
    command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=error"]
    with running(command, f"{url}/-/ready"):
        yield Prometheus(url)


@pytest.fixture
async def bench(new_bench: NewBench) -> Bench:
    """A tenant without pictures, all of whose pictures the policy lets through."""
    bench = await new_bench("Payer")
    bench.policy = VisionPolicy(max_pictures_per_post=100)
    return bench


async def work(bench: Bench, posts: Posts, *, seed: int) -> None:
    """Let everything happen that is counted: by the passes themselves, and what is seldom straight in the books.

    In the end one picture waits for its first look, and one for the budget.
    """
    limits = bench.limits
    await posts.show(photo(320, 240, seed=seed))
    await bench.analyse()
    await posts.show(photo(320, 240, seed=seed).resize((280, 210)))
    await bench.analyse()
    bench.limits = BudgetLimits(tenant={"day": Allowance(0)})
    await posts.show(photo(320, 240, seed=100 + seed))
    await bench.analyse()
    bench.limits = limits
    await bench.world.enrich(bench.tenant)
    await bench.world.reconcile(bench.tenant)
    await posts.show(photo(320, 240, seed=200 + seed))
    async with bench.world.database.transaction() as connection:
        for name, labels in (
            ("storage_quota_violations_total", {"reason": "tenant_limit"}),
            ("storage_cleanup_objects_total", {"content_type": "media", "occasion": "ttl"}),
            ("storage_cleanup_freed_bytes_total", {"content_type": "media", "occasion": "ttl"}),
            ("search_upserts_total", {}),
        ):
            await raise_counter(connection, bench.tenant.id, name, {tuple(sorted(labels.items())): 1})


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed; .ci/run installs it")
async def test_every_query_returns_data(bench: Bench, database: str, tmp_path: Path) -> None:
    """A panel without data is a panel whose query is wrong: here all that it counts has happened."""
    posts = Posts(bench, tmp_path)
    await work(bench, posts, seed=1)
    await bench.world.database.pool.execute(
        "INSERT INTO dead_letters (tenant_id, stage, item, error_class, reason, message)"
        " SELECT id, 'media_objects', 'item', 'E', 'r', 'm' FROM tenants"
    )
    home = tmp_path / "home"
    home.mkdir()
    await asyncio.to_thread(record_materializations, home, database, [(bench.tenant, "media_objects")])
    port = free_port()
    serve = [COMMAND, "serve", "--port", str(port)]
    with (
        running(serve, f"http://127.0.0.1:{port}/healthz", DATABASE_URL=database, DAGSTER_POSTGRES_URL=database),
        prometheus(tmp_path, port) as server,
    ):
        server.wait_for_scrapes(2)
        await work(bench, posts, seed=2)
        server.wait_for_scrapes(4)
        assert_all_answered(server)


def assert_all_answered(server: Prometheus) -> None:
    """Each query of a dashboard has a number, and each rule could be evaluated."""
    for name, panel, query in queries():
        values = server.ask(query)
        assert values, f"{name}: {panel} has no data: {query}"
        assert not all(map(math.isnan, values)), f"{name}: {panel} has no number: {query}"
    groups = httpx.get(f"{server.url}/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 30
    assert [rule for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize(("board", "panel", "query"), list(queries()))
def test_queries_ask_for_what_is_exported(board: str, panel: str, query: str) -> None:
    """Each metric is the exporter's, recorded by the rules, or Prometheus' own `up`."""
    exported = {metric.name for metric in CATALOGUE} | {f"{m.name}_bucket" for m in CATALOGUE if m.kind == "histogram"}
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"] if "record" in rule}
    assert metric_names(query) <= exported | recorded | {"up"}


@pytest.mark.parametrize("name", BOARDS)
def test_grafana_knows_every_field(name: str) -> None:
    """Read and written again by Grafana's own model of a dashboard, nothing of the file is lost."""
    register_default_plugins()
    board = BOARDS[name]
    known = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    assert lost(board, known) == []


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """List what is in one JSON value and not in another."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [found for key in given for found in lost(given[key], kept.get(key, ...), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [found for i, one in enumerate(given) for found in lost(one, kept[i], f"{path}[{i}]")]
    return [] if given == kept else [f"{path}: {given!r}"]


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_provisioned(name: str) -> None:
    """Its uid is its own, it names no data source, and panels have ids, places, units and queries."""
    board = BOARDS[name]
    assert board["uid"] == f"vision-assets-{name}"
    assert board["title"].startswith("Vision assets: ")
    assert "id" not in board
    variables = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert variables == {"datasource": "datasource", "tenant": "query"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    known_units = {value for value in vars(units).values() if isinstance(value, str)}
    for panel in panels(board):
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in known_units, panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCD")[: len(panel["targets"])]
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    taken = [cell for panel in board["panels"] for cell in cells(panel["gridPos"])]
    assert len(set(taken)) == len(taken), "panels lie over each other"
    assert max(x for x, _ in taken) < 24
    asked = set(re.findall(r"\$(\w+)", json.dumps([panel["targets"] for panel in panels(board)])))
    assert asked <= {"tenant", "__rate_interval"}


def cells(place: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """The cells of Grafana's grid that a panel covers."""
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def test_provisioning_points_at_the_dashboards() -> None:
    """Grafana reads the files as they are shipped."""
    folder = ROOT / "deploy/grafana/provisioning"
    providers = yaml.safe_load((folder / "dashboards/vision-assets.yml").read_text())
    sources = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())
    assert providers["apiVersion"] == sources["apiVersion"] == 1
    assert [provider["type"] for provider in providers["providers"]] == ["file"]
    assert [source["type"] for source in sources["datasources"]] == ["prometheus"]
    assert Settings.model_fields["service_port"].default == 9464
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["127.0.0.1:9464"]
