"""Reconciliation of a million objects, against a plain paginator that only adds up sizes, on the same S3 server.

The paginator is what `aws s3 ls --summarize` does. It compares nothing: the ledger's part of the work is ours alone.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks._bucket import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, Server, fill, objects, served
from benchmarks._database import scratch_database, server_facts, url_of
from benchmarks._machine import cpu_seconds, machine
from benchmarks._memory import MIB, measure, memory_bytes, quarters, tell, write_result
from benchmarks._object_ledger import drift, fill_ledger
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.usage import PostgresReconciliation
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.quota import StorageLimits
from vision_assets.core.reconcile import DRIFT_CLASSES, Reconciliation
from vision_assets.core.storage import CONTENT_TYPES, PREFIXES
from vision_assets.core.tenants import TenantId
from vision_assets.devstack import postgres, processes
from vision_assets.devstack.parts import running_parts

TENANT = TenantId(UUID("2f6f3f1f-7c1d-4f55-9d2a-0b9f2a4e0001"))
DRIFT_OBJECTS = 250
"""Of each class."""

LIMITS = StorageLimits(bucket_bytes=2**60, tenant_bytes=2**60, type_bytes=dict.fromkeys(CONTENT_TYPES, 2**60))
SIDES = {"peer": "boto3's paginator and a sum", "ours": "compared with the object ledger, drift looked at and booked"}
GOAL_CPU_RATIO = 10
GOAL_RSS_GROWTH = 1.1


async def ours(endpoint_url: str, database_name: str) -> dict[str, Any]:
    """Reconcile the tenant."""
    samples = [memory_bytes("VmRSS")]
    listed_cpu_seconds = 0.0

    async def sample() -> None:
        while True:
            await asyncio.sleep(0.25)
            samples.append(memory_bytes("VmRSS"))

    def on_listed(_: int) -> None:
        nonlocal listed_cpu_seconds
        listed_cpu_seconds = time.process_time()

    bucket = S3Bucket.connect(
        BUCKET, endpoint_url=endpoint_url, access_key_id=ACCESS_KEY_ID, secret_access_key=SECRET_ACCESS_KEY
    )
    async with Database.open(url_of(database_name)) as database:
        started, cpu_before = time.perf_counter(), time.process_time()
        sampling = asyncio.create_task(sample())
        report = await Reconciliation(
            tenant_id=TENANT,
            store=bucket,
            guard=QuotaGuardedStore(store=bucket, ledger=PostgresStorage(database), limits=LIMITS),
            ledger=PostgresReconciliation(database),
            on_listed=on_listed,
        ).run()
        cpu_after, seconds = time.process_time(), time.perf_counter() - started
        sampling.cancel()
    usage = report.usage.types["media"]
    return {
        "objects": usage.objects_count,
        "bytes": usage.total_bytes,
        "drift": {name: report.drift[name].objects for name in DRIFT_CLASSES},
        "client_cpu_seconds": cpu_after - cpu_before,
        "of_which_listing_and_copying": listed_cpu_seconds - cpu_before,
        "seconds": seconds,
        "rss_bytes_at_quarters": quarters(samples),
    }


async def prepare(database_name: str, *, count: int | None = None) -> None:
    """Bring the ledger out of step with the bucket; with a count, book all objects first."""
    async with Database.open(url_of(database_name)) as database:
        if count is not None:
            await fill_ledger(database, TENANT, count)
        await drift(database, TENANT, DRIFT_OBJECTS)


def run_round(server: Server, database_name: str) -> dict[str, dict[str, Any]]:
    """Run each side in a process of its own, one after the other."""
    child = processes.find(postgres.NAME)
    ends = {"s3": server.process, **({"postgres": psutil.Process(child.pid)} if child else {})}
    access = (server.endpoint_url, ACCESS_KEY_ID, SECRET_ACCESS_KEY, BUCKET)
    commands = {
        "peer": ("benchmarks._paginator", *access, *(f"{folder}/{TENANT}/" for folder in PREFIXES)),
        "ours": ("benchmarks.reconcile", "--ours", server.endpoint_url, database_name),
    }
    figures = {}
    for side, command in commands.items():
        before = {name: cpu_seconds([process]) for name, process in ends.items()}
        figures[side] = measure(*command)
        for name, process in ends.items():
            figures[side][f"{name}_cpu_seconds"] = cpu_seconds([process]) - before[name]
    return figures


def check(figures: dict[str, dict[str, Any]], *, count: int) -> None:
    """Make sure that both sides did their work before anybody looks at the figures."""
    truth = count, sum(size for _, size in objects(TENANT, count))
    for side, found in figures.items():
        assert (found["objects"], found["bytes"]) == truth, f"{side} counted {found}, there are {truth}"
    assert figures["ours"]["drift"] == dict.fromkeys(DRIFT_CLASSES, DRIFT_OBJECTS)


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up a side's rounds: medians, but the memory of the worst one."""
    names = [name for name, figure in rounds[0].items() if isinstance(figure, float)]
    worst = max(rounds, key=lambda one: int(one["peak_rss_bytes"]))
    return {
        **{name: round(statistics.median(one[name] for one in rounds), 2) for name in names},
        **{name: worst[name] for name in ("peak_rss_bytes", "rss_bytes_at_quarters")},
        "client_cpu_seconds_of_rounds": [round(one["client_cpu_seconds"], 2) for one in rounds],
    }


def measure_sides(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fill bucket and ledger, and let the sides take turns."""
    facts = machine()
    fill(folder, TENANT, options.objects)
    with scratch_database() as name, served(folder) as server:
        asyncio.run(prepare(name, count=options.objects))
        rounds = []
        for number in range(options.rounds):
            if number:
                asyncio.run(prepare(name))
            rounds.append(run_round(server, name))
            check(rounds[-1], count=options.objects)
        database = server_facts(url_of(name))
    sides = {side: {"what": what} | summary([one[side] for one in rounds]) for side, what in SIDES.items()}
    ratio = statistics.median(one["peer"]["client_cpu_seconds"] / one["ours"]["client_cpu_seconds"] for one in rounds)
    rss = sides["ours"]["rss_bytes_at_quarters"]
    return {
        "what": f"reconciliation of {options.objects} objects, {DRIFT_OBJECTS} of each class of drift among them, "
        "against a paginator that adds up",
        "rounds": options.rounds,
        "server": "rclone serve s3, 256 folders",
        "machine": facts,
        "postgres": database,
        **sides,
        "client_cpu_ratio": round(ratio, 1),
        "rss_growth": round(rss[-1] / rss[1], 3),
        "goal": f"client_cpu_ratio >= {GOAL_CPU_RATIO}, rss_growth (from 25 % of the time to the end) "
        f"<= {GOAL_RSS_GROWTH}",
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        *("", "client CPU, s", "wall, s", "CPU of S3, s", "of Postgres, s", "peak RSS, MiB", "RSS at quarters, MiB"),
        title=result["what"],
    )
    for figures in (result[side] for side in SIDES):
        table.add_row(
            figures["what"],
            f"{figures['client_cpu_seconds']:.1f}",
            f"{figures['seconds']:.0f}",
            f"{figures['s3_cpu_seconds']:.0f}",
            f"{figures.get('postgres_cpu_seconds', float('nan')):.1f}",
            f"{figures['peak_rss_bytes'] / MIB:.0f}",
            ", ".join(f"{rss / MIB:.0f}" for rss in figures["rss_bytes_at_quarters"]),
        )
    console = Console()
    console.print(table)
    console.print(f"Client CPU ratio {result['client_cpu_ratio']}, RSS growth {result['rss_growth']}.")
    console.print(f"Goal: {result['goal']}.")


def main() -> None:
    """Measure both sides, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1, help="in which the sides take turns; one takes minutes")
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        tell(asyncio.run(ours(*options.ours)))
        return
    with running_parts(), TemporaryDirectory() as folder:
        result = measure_sides(options, Path(folder))
    write_result("reconcile", result)
    show(result)


if __name__ == "__main__":
    main()
