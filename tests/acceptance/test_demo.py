"""The demo as a new user runs it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.acceptance.commands import Machine

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.timeout(900)
def test_demo_does_everything_once(machine: Machine) -> None:
    """The first run does the work and shows it; the second finds nothing to do; the searches find what they should."""
    output = machine.run("demo")
    figures = machine.figures()
    tenants = figures["tenants"]
    assert set(tenants) == {"City Walks", "Dev Digest"}
    for name, tenant in tenants.items():
        assert name in output
        assert tenant["posts"] > 0
        assert tenant["results"] == tenant["media_objects"]
        assert tenant["reused"] >= 1
        assert tenant["this_run"]["analyses"] == tenant["results"] - tenant["reused"]
        assert tenant["this_run"]["upserts"] == tenant["points"]
        assert tenant["bytes_by_type"]["media"] > tenant["bytes_by_type"]["vision"] > 0
    messages = {
        name: {
            message["id"]: "".join(part if isinstance(part, str) else part["text"] for part in message["text"])
            for message in json.loads((EXAMPLES / folder / "result.json").read_text())["messages"]
            if message["type"] == "message"
        }
        for name, folder in (("City Walks", "city_walks"), ("Dev Digest", "dev_digest"))
    }
    for name, queries in json.loads((EXAMPLES / "queries.json").read_text()).items():
        shown = [query for query in queries if query["query"] in tenants[name]["searches"]]
        assert len(shown) == 3
        for query in shown:
            if query.get("needs_ocr") and shutil.which("tesseract") is None:
                continue
            hits = tenants[name]["searches"][query["query"]]
            assert hits[0] == messages[name][query["expect_message_id"]], query

    again = machine.run("demo")
    assert machine.figures()["this_run"] == {"puts": 0, "analyses": 0, "reused": 0, "upserts": 0}
    assert "0 puts, 0 analyses, 0 reused, 0 upserts" in again


def test_demo_names_unknown_tenants(machine: Machine) -> None:
    """A tenant that is not among the examples is named, with those that are."""
    process = machine.start("demo", "--tenants", "Nobody")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Nobody" in output
    assert "City Walks" in output
