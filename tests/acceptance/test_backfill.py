"""A backfill as the UI launches it: a real webserver and daemon, two assets of a chain, and a tenant that fails."""

import time
from contextlib import closing

import psycopg2
import pytest

from tests.acceptance.commands import Machine
from tests.graphql import Dagster

CHAIN = ("vision_results", "post_enrichment")
WRONG = """UPDATE tenants SET settings = '{"vision": {"provider": "claude"}}' WHERE name = 'Tenant 3'"""


def execute(machine: Machine, statement: str) -> None:
    """Change the project's database."""
    with closing(psycopg2.connect(machine.endpoints()["database_url"])) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        connection.commit()


def partitions(dagster: Dagster, count: int) -> list[str]:
    """Wait until the sensor has made so many partitions; gives them in their order."""
    for _ in range(90):
        keys = set[str]().union(*dagster.partitions(CHAIN[0]).values())
        if len(keys) == count:
            return sorted(keys)
        time.sleep(1)
    raise AssertionError(keys)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_backfill_fails_for_one_tenant_and_its_retry_runs_that_one_alone(machine: Machine) -> None:
    """The others go through the whole chain; what failed and what comes after it is red, and green after the retry."""
    with machine.up() as up:
        dagster = Dagster(up.ui_url)
        execute(
            machine,
            "INSERT INTO tenants (id, name) SELECT gen_random_uuid(), 'Tenant ' || n FROM generate_series(1, 5) n",
        )
        execute(machine, WRONG)
        keys = partitions(dagster, 5)
        backfill = dagster.backfill(CHAIN, keys)
        assert dagster.wait(backfill, seconds=300) == "COMPLETED_FAILED"
        found = dagster.partitions("vision_results")
        [wrong] = found["failed"]
        assert found["materialized"] == set(keys) - {wrong}
        found = dagster.partitions("post_enrichment")
        assert found["materialized"] == set(keys) - {wrong}
        assert found["unmaterialized"] == {wrong}

        execute(machine, "UPDATE tenants SET settings = '{}'")
        retry = dagster.retry(backfill)
        assert dagster.wait(retry, seconds=300) == "COMPLETED_SUCCESS"
        assert {run.partitions for run in dagster.runs(retry)} == {(wrong, wrong)}
        for asset in CHAIN:
            assert dagster.partitions(asset)["materialized"] == set(keys)
