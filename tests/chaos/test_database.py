"""The database is stopped, and killed, and started again in the middle of both kinds of work.

What is not here: S3 that fails (`test_s3_faults.py`).
"""

import asyncio
import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.chaos import budget_books, storage_books
from tests.chaos.biller import Biller, biller
from tests.chaos.conftest import Run
from tests.chaos.crew import COROUTINES, PROCESSES, crew
from tests.chaos.postgres import OwnPostgres
from tests.chaos.storage_recovery import Reconciler
from tests.chaos.tally import total
from tests.chaos.test_budget import limit, over_limit, sweep
from tests.chaos.test_budget import orders as budget_orders
from tests.chaos.test_budget import watch_over as watch_budget
from tests.chaos.test_storage import add_tenants, bucket_orders
from tests.chaos.test_storage import orders as storage_orders
from tests.chaos.test_storage import watch_over as watch_storage
from vision_assets.clients.postgres import Database
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.errors import DatabaseUnavailable
from vision_assets.settings import Settings

pytestmark = pytest.mark.chaos

UNCHECKED_BYTES = 50_000
"""That one process may put while the ledger is away."""

GRACE_SECONDS = 0.5
"""After which the last call whose hold was granted before has been sent."""


@pytest.mark.timeout(1200)
async def test_database_away(run: Run, parts: Settings, postgres: OwnPostgres, bucket: str) -> None:
    """While it is away no call is paid for, uploads go on up to the cap, and afterwards all books are right."""
    size, calm_seconds, away_seconds = run.choose(2, PROCESSES // 2), run.choose(2, 15), run.choose(1, 10)
    slot_seconds = hold_seconds = run.choose(8, 20)
    connection = await asyncpg.connect(postgres.url)
    tenants = await add_tenants(connection, 3)
    with biller() as provider:
        limits = await limit(connection, tenants, tokens=10**8)
        spending = budget_orders(postgres.url, provider, tenants, hold_seconds=hold_seconds)
        storing = storage_orders(
            postgres.url,
            bucket_orders(parts, bucket),
            tenants,
            unchecked_bytes=UNCHECKED_BYTES,
            slot_seconds=slot_seconds,
            patience_seconds=1,
            sweeps=True,
        )
        budget = await watch_budget(connection, provider)
        storage = await watch_storage(connection, storing, slack_bytes=size * UNCHECKED_BYTES)
        await connection.close()
        outages = []
        with (
            crew("budget", spending, run.folder / "budget", run.seed) as spenders,
            crew("storage", storing, run.folder / "storage", run.seed) as keepers,
        ):
            async with budget.beside(postgres.url), storage.beside(postgres.url):
                spenders.start(size)
                keepers.start(size)
                for end in (postgres.stop, postgres.kill):
                    await run_for(calm_seconds, spenders, keepers)
                    unchecked = keepers.counts["unchecked bytes"]
                    await asyncio.to_thread(end)
                    gone = time.monotonic()
                    await run_for(away_seconds, spenders, keepers)
                    back = time.monotonic()
                    outages.append(
                        {
                            "how": end.__name__,
                            "seconds": round(back - gone, 1),
                            "calls_paid_meanwhile": calls_between(provider, gone + GRACE_SECONDS, back),
                            "unchecked_bytes": keepers.counts["unchecked bytes"] - unchecked,
                        }
                    )
                    await asyncio.to_thread(postgres.start)
                await run_for(calm_seconds, spenders, keepers)
                await spenders.stop()
                await keepers.stop()
            counts = spenders.counts + keepers.counts
            unchecked_by_process = [total([path])["unchecked bytes"] for path in keepers.folder.glob("*.tally")]
        reconciler, swept = await recover(postgres.url, storing, tenants)
        connection = await asyncpg.connect(postgres.url)
        await budget.look(connection)
        await storage.look(connection)
        books = await budget_books.read_books(connection)
        listing = await storage_books.list_bucket(reconciler.store.store)
        wrong = [
            *over_limit(provider, limits),
            *budget_books.misbilled(books, provider.bills),
            *budget_books.ends(books),
            *await storage_books.differences(connection, listing),
        ]
        failed_checks = await connection.fetchval(
            "SELECT coalesce(sum(value), 0) FROM counters WHERE name = 'storage_quota_check_failures_total'"
        )
        await connection.close()
    run.figures |= {
        "processes": 2 * size,
        "coroutines": 2 * size * COROUTINES,
        "outages": outages,
        "operations": dict(sorted(counts.items())),
        "billed_calls": len(provider.bills),
        "charged_for_expired_holds_tokens": books.used().total() - provider.billed().total(),
        "unchecked_limit_bytes": UNCHECKED_BYTES,
        "most_unchecked_bytes_of_a_process": max(unchecked_by_process),
        "failed_checks_counted": int(failed_checks),
        "slots_left": swept,
        "differences_that_reconciliation_found": dict(reconciler.drift),
        "invariant_checks": budget.checks + storage.checks,
        "violations": len(budget.violations) + len(storage.violations) + len(wrong),
    }
    assert not budget.violations
    assert not storage.violations
    assert not wrong
    assert all(outage["calls_paid_meanwhile"] == 0 for outage in outages)
    assert counts["deferred DatabaseUnavailable"]
    assert outages[0]["unchecked_bytes"]
    assert max(unchecked_by_process) <= len(outages) * UNCHECKED_BYTES
    assert counts["failed DatabaseUnavailable"], "the cap was reached"
    assert failed_checks == counts["unchecked puts"]


async def recover(url: str, storing: dict[str, Any], tenants: list[UUID]) -> tuple[Reconciler, int]:
    """Charge what has expired, look after slots that were left, and reconcile every tenant once.

    Returns:
        The reconciler with what it found, and the number of slots.
    """
    await sweep(url, ahead_seconds=storing["slot_seconds"])
    async with Database.open(url, max_size=4) as pool:
        reconciler = Reconciler(pool, storing, S3Bucket.connect(**storing["s3"]), ahead_seconds=storing["slot_seconds"])
        swept = await reconciler.sweep(tenants)
        for tenant in tenants:
            await reconciler.reconcile(tenant)
    return reconciler, swept


def calls_between(provider: Biller, begin: float, end: float) -> int:
    """Count the calls that were billed in a span of `time.monotonic()`."""
    return sum(begin < bill.at < end for bill in list(provider.bills))


async def run_for(seconds: float, *crews: Any) -> None:
    """Let several crews work."""
    await asyncio.gather(*(one.run(seconds=seconds) for one in crews))


@pytest.mark.parametrize("brief", [True, False])
async def test_a_silent_database_counts_as_away(postgres: OwnPostgres, brief: bool) -> None:
    """A server that keeps its connections and says nothing holds nobody up for longer than his patience."""
    async with Database.open(postgres.url, max_size=1, brief=brief, patience_seconds=1) as database:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
        with postgres.silent():
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                async with database.connection() as connection:
                    await connection.execute("SELECT 1")
            assert time.monotonic() - started < 20
        async with asyncio.timeout(30), database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
