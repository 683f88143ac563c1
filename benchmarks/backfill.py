"""A backfill of many tenants from the UI, against one run a tenant with Dagster's default launcher.

The tenants have no posts, so that all time is overhead: planning, runs, event writes. Both sides are asked for by
GraphQL of the same webserver, with the same daemon, on Postgres. Three tenants have a wrong policy: their partitions
alone must fail, and a retry must run them alone.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from psycopg2 import sql
from rich.console import Console
from rich.table import Table

from benchmarks._database import execute, server_facts
from benchmarks._machine import cpu_seconds, machine
from benchmarks._memory import write_result
from tests.devstack import own_data_dir
from tests.graphql import Dagster, Run
from vision_assets.devstack import dagster, postgres, processes
from vision_assets.devstack.parts import migrate_database, start_parts
from vision_assets.settings import Settings

ASSET = "vision_results"
JOB = "tenant_pipeline"
FAILING = 3
GOAL_SECONDS_A_TENANT = 0.15
GOAL_RATIO = 40
PATIENCE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Stage:
    """What both sides run on."""

    dagster: Dagster
    database_url: str
    servers: dict[str, psutil.Process]

    def cpu_seconds(self) -> dict[str, float]:
        """Tell the CPU time of each server, its children and the runs that it started."""
        return {name: cpu_seconds([process]) for name, process in self.servers.items()}

    def partitions(self, count: int) -> list[str]:
        """Wait until the sensor has made all tenants' partitions; gives them in their order."""
        deadline = time.monotonic() + 300
        while len(keys := set().union(*self.dagster.partitions(ASSET).values())) < count:
            assert time.monotonic() < deadline, f"{len(keys)} of {count} partitions"
            time.sleep(2)
        return sorted(keys)  # the sensor adds them so


@contextmanager
def started() -> Iterator[Stage]:
    """Have parts, webserver and daemon of the benchmark's own."""
    with own_data_dir():
        start_parts()
        migrate_database()
        url = Settings().database_url
        assert url
        webserver, _ = dagster.start(processes.free_port())
        names = {"daemon": dagster.DAEMON, "runs": dagster.CODE_SERVER, "postgres": postgres.NAME}
        children = {"webserver": webserver, **{name: processes.find(part) for name, part in names.items()}}
        try:
            yield Stage(
                Dagster(dagster.ui_url(webserver)),
                url.get_secret_value(),
                {name: psutil.Process(child.pid) for name, child in children.items() if child},
            )
        finally:
            dagster.end()


def backfill(stage: Stage, partitions: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Measure a backfill; gives its id and the figures."""
    before, asked_at = stage.cpu_seconds(), time.time()
    backfill_id = stage.dagster.backfill([ASSET], partitions)
    status = stage.dagster.wait(backfill_id, seconds=PATIENCE_SECONDS)
    told_at = time.time()
    runs = stage.dagster.runs(backfill_id)
    began_at, ended_at = span(runs)
    return backfill_id, {
        "tenants": len(partitions),
        "status": status,
        "runs": len(runs),
        "seconds": round(ended_at - began_at, 1),
        "seconds_a_tenant": round((ended_at - began_at) / len(partitions), 4),
        "from_the_click_to_the_last_run_seconds": round(ended_at - asked_at, 1),
        "from_the_click_to_the_backfills_end_seconds": round(told_at - asked_at, 1),
        **cpu(stage, before, len(partitions)),
    }


def single_runs(stage: Stage, partitions: Sequence[str]) -> dict[str, Any]:
    """Measure one run a tenant."""
    before = stage.cpu_seconds()
    run_ids = [stage.dagster.run(JOB, [ASSET], partition) for partition in partitions]
    runs = stage.dagster.wait_for_runs(run_ids, seconds=PATIENCE_SECONDS)
    assert {run.status for run in runs} == {"SUCCESS"}, runs
    began_at, ended_at = span(runs)
    return {
        "tenants": len(partitions),
        "runs": len(runs),
        "seconds": round(ended_at - began_at, 1),
        "seconds_a_tenant": round((ended_at - began_at) / len(partitions), 3),
        **cpu(stage, before, len(partitions)),
    }


def span(runs: Sequence[Run]) -> tuple[float, float]:
    """Tell when the first run was made, and when the last one ended."""
    return min(run.created_at for run in runs), max(run.ended_at or 0 for run in runs)


def cpu(stage: Stage, before: dict[str, float], tenants: int) -> dict[str, Any]:
    """Tell the CPU time since then."""
    spent = {name: seconds - before[name] for name, seconds in stage.cpu_seconds().items()}
    return {"cpu_milliseconds_a_tenant": {name: round(1000 * one / tenants, 1) for name, one in spent.items()}}


def spoil(stage: Stage, partitions: Sequence[str]) -> list[str]:
    """Give tenants, spread over the ranges, a policy that cannot be; tells whom."""
    spoilt = [partitions[len(partitions) * (2 * number + 1) // (2 * FAILING)] for number in range(FAILING)]
    execute(
        stage.database_url,
        sql.SQL("UPDATE tenants SET settings = {} WHERE id::text IN ({})").format(
            sql.Literal('{"vision": {"provider": "claude"}}'), sql.SQL(", ").join(map(sql.Literal, spoilt))
        ),
    )
    return spoilt


def check_isolation(stage: Stage, backfill_id: str, partitions: Sequence[str], spoilt: Sequence[str]) -> dict[str, Any]:
    """Make sure that the spoilt tenants alone failed, mend them, and that a retry runs them alone."""
    found = stage.dagster.partitions(ASSET)
    assert found["failed"] == set(spoilt), found["failed"]
    assert found["materialized"] == set(partitions) - set(spoilt)
    execute(stage.database_url, "UPDATE tenants SET settings = '{}'")
    retried = stage.dagster.retry(backfill_id)
    status = stage.dagster.wait(retried, seconds=PATIENCE_SECONDS)
    runs = stage.dagster.runs(retried)
    taken = sorted(run.partitions for run in runs)
    assert taken == sorted((partition, partition) for partition in spoilt), taken
    found = stage.dagster.partitions(ASSET)
    assert found["materialized"] == set(partitions), found["failed"] | found["unmaterialized"]
    return {
        "made_to_fail": len(spoilt),
        "failed": len(spoilt),
        "materialized": len(partitions) - len(spoilt),
        "retry": {"status": status, "runs": len(runs), "partitions": len(taken)},
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides."""
    facts = machine()
    with started() as stage:
        execute(
            stage.database_url,
            sql.SQL(
                "INSERT INTO tenants (id, name) SELECT gen_random_uuid(), 'Tenant ' || number "
                "FROM generate_series(1, {}) AS number"
            ).format(sql.Literal(options.tenants)),
        )
        partitions = stage.partitions(options.tenants)
        spoilt = spoil(stage, partitions)
        backfill_id, ours = backfill(stage, partitions)
        isolation = check_isolation(stage, backfill_id, partitions, spoilt)
        peer = single_runs(stage, partitions[: options.single_runs])
        database = server_facts(stage.database_url)
    return {
        "what": f"{ASSET} of {options.tenants} tenants that have nothing to do: a backfill, against one run a tenant",
        "machine": facts,
        "postgres": database,
        "ours": ours,
        "one_run_a_tenant": peer,
        "ratio": round(peer["seconds_a_tenant"] / ours["seconds_a_tenant"], 1),
        "cpu_ratio": round(total_cpu(peer) / total_cpu(ours), 1),
        "isolation": isolation,
        "extrapolated": f"one run a tenant was measured on {options.single_runs} tenants; the ratios take it that the "
        "others take as long",
        "goal": f"ours: seconds_a_tenant <= {GOAL_SECONDS_A_TENANT}, ratio >= {GOAL_RATIO}; exactly {FAILING} "
        "partitions failed, and the retry ran those alone",
    }


def total_cpu(figures: dict[str, Any]) -> float:
    """Tell the CPU time of a tenant, in milliseconds, of all servers and runs."""
    return float(sum(figures["cpu_milliseconds_a_tenant"].values()))


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(*("", "runs", "seconds a tenant", "CPU ms a tenant"), title=str(result["what"]))
    for side in ("ours", "one_run_a_tenant"):
        figures = result[side]
        spent = figures["cpu_milliseconds_a_tenant"]
        table.add_row(
            side,
            str(figures["runs"]),
            f"{figures['seconds_a_tenant']:g}",
            ", ".join(f"{server} {milliseconds:g}" for server, milliseconds in spent.items()),
        )
    console = Console()
    console.print(table)
    console.print(f"Ratio {result['ratio']:g}, of CPU {result['cpu_ratio']:g}.")
    console.print(f"Goal: {result['goal']}.")


def main() -> None:
    """Measure both sides, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--single-runs", type=int, default=20)
    result = measure(parser.parse_args())
    write_result("backfill", result)
    show(result)


if __name__ == "__main__":
    main()
