"""New posts with a real webserver and daemon: nobody launches anything, and runs are killed."""

import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from tests.acceptance.commands import Machine, Up
from tests.graphql import Dagster

EXAMPLE = Path(__file__).parents[2] / "examples" / "dev_digest"
ASSETS = ("media_objects", "phash_index", "vision_results", "post_enrichment", "qdrant_collection")
AT_WORK = "SELECT count(*) > 0 FROM tenant_turns WHERE run_id IS NOT NULL"
ALL_DONE = """
SELECT NOT EXISTS (SELECT FROM tenant_changes) AND NOT EXISTS (SELECT FROM tenant_turns WHERE run_id IS NOT NULL)
   AND (SELECT count(*) FROM posts) = (SELECT count(*) FROM search_index)
   AND (SELECT count(*) FROM media_objects) = (SELECT count(*) FROM vision_results WHERE result IS NOT NULL)
"""


def until(machine: Machine, query: str, *, seconds: float) -> None:
    """Wait until the project's database says yes."""
    deadline = time.monotonic() + seconds
    with closing(psycopg2.connect(machine.endpoints()["database_url"])) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while True:
            cursor.execute(query)
            [answer] = cursor.fetchone() or (False,)
            if answer:
                return
            assert time.monotonic() < deadline, query
            time.sleep(0.1)


def kill_workers(up: Up) -> int:
    """Kill all code servers with the runs that they have started, without warning; tells how many."""
    victims = set[Any]()
    for one in psutil.Process(up.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # some of them live for a moment only
            if "grpc" in one.cmdline():
                victims |= {one, *one.children(recursive=True)}
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    return len(victims)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_import_is_worked_on_although_its_run_is_killed(machine: Machine) -> None:
    """It is enough to import; another run takes what the killed one had, and everything is there once and in the UI."""
    with machine.up() as up:
        dagster = Dagster(up.ui_url)
        machine.run("import", str(EXAMPLE), "--tenant", "Dev Digest")
        until(machine, AT_WORK, seconds=180)
        killed = [run.id for run in dagster.under_way("new_posts")]
        assert killed
        assert kill_workers(up) > 2
        until(machine, ALL_DONE, seconds=420)
        assert {run.status for run in dagster.wait_for_runs(killed, seconds=180)} == {"FAILURE"}
        for asset in ASSETS:
            assert len(dagster.partitions(asset)["materialized"]) == 1
        assert "STS-63" in machine.run("search", "шаттл", "--tenant", "Dev Digest")
