"""Uploads, overwrites, deletes and reconciliations together, undisturbed and while workers are killed.

What is not here: a listing that fails (`test_s3_faults.py`).
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from uuid import UUID

import asyncpg
import pytest

from tests.chaos.conftest import Run
from tests.chaos.crew import COROUTINES, PROCESSES, crew, deaths
from tests.chaos.storage_books import differences, false_entry, list_bucket
from tests.chaos.storage_recovery import Reconciler
from tests.chaos.storing import STEPS
from tests.chaos.test_storage import add_tenants, bucket_orders, orders, watch_over
from tests.chaos.watch import Connection, Watch
from tests.faulty_s3 import faulty_s3
from vision_assets.clients.postgres import Database
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import TenantId
from vision_assets.settings import Settings

pytestmark = pytest.mark.chaos

OUTSIDE = "outside"
"""In the names of objects that the workers leave alone and that are changed behind everybody's back."""

OUTSIDERS = 10
"""Of each class of drift and tenant."""

_SAMPLE = "SELECT s3_key FROM storage_objects WHERE op_id IS NULL AND s3_key NOT LIKE $1 ORDER BY random() LIMIT 20"


def outside_key(tenant: UUID, number: int) -> str:
    """Name an object that the workers leave alone."""
    return f"vision/{tenant}/{OUTSIDE}-{number}.json.gz"


async def put_outsiders(reconciler: Reconciler, tenants: Sequence[UUID]) -> None:
    """Put the objects that will be changed later."""
    for tenant in tenants:
        for number in range(2 * OUTSIDERS):
            await reconciler.guard.put(
                TenantId(tenant), outside_key(tenant, number), b"12345", content_type="vision", mime="text/plain"
            )


async def make_drift(store: ObjectStore, tenants: Sequence[UUID]) -> Counter[str]:
    """Change objects in S3 and say nothing.

    Returns:
        What a reconciliation should find.
    """
    for tenant in tenants:
        await store.delete([outside_key(tenant, number) for number in range(OUTSIDERS)])
        for number in range(OUTSIDERS, 3 * OUTSIDERS):  # half of them are there
            await store.put(outside_key(tenant, number), b"123", mime="text/plain")
    each = OUTSIDERS * len(tenants)
    return Counter(missing=each, wrong_size=each, untracked=each)


@asynccontextmanager
async def reconciling(reconciler: Reconciler, tenants: Sequence[UUID], *, at_once: int) -> AsyncIterator[None]:
    """Reconcile all tenants again and again while the block runs."""
    stop = asyncio.Event()
    turns = cycle(tenants)

    async def again() -> None:
        while not stop.is_set():
            await reconciler.reconcile(next(turns))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(again())
        try:
            yield
        finally:
            stop.set()


def truth_watch(store: S3Bucket) -> Watch:
    """Hold rows of the ledger, chosen by chance, against S3 in the middle of everything."""

    async def check(connection: Connection) -> list[str]:
        keys = [row["s3_key"] for row in await connection.fetch(_SAMPLE, f"%{OUTSIDE}%")]
        return [wrong for key in keys if (wrong := await false_entry(connection, store.store, key))]

    return Watch(check)


@pytest.mark.timeout(1200)
async def test_reconciliation_beside_everything(
    run: Run, parts: Settings, s3_port: int, database: str, bucket: str
) -> None:
    """What reconciliations put right is exactly what was changed behind their back; afterwards books and S3 agree."""
    seconds, slot_seconds, kills = run.choose(2, 90), run.choose(6, 8), run.choose(3, 60)
    size = run.choose(2, PROCESSES)
    connection = await asyncpg.connect(database)
    tenants = await add_tenants(connection, 3)
    told = orders(database, bucket_orders(parts, bucket), tenants)
    doomed = orders(
        database,
        bucket_orders(parts, bucket, timeout_seconds=slot_seconds / 2, max_retries=0),
        tenants,
        slot_seconds=slot_seconds,
        patience_seconds=0.2,
        sweeps=True,
    )
    direct = S3Bucket.connect(**told["s3"])
    books, truth = await watch_over(connection, told, slack_bytes=20 * OUTSIDERS * len(tenants)), truth_watch(direct)
    # Listings of many short pages are walked while the objects move.
    with faulty_s3(s3_port, page_objects=20) as paging:
        slow = S3Bucket.connect(**{**told["s3"], "endpoint_url": paging.url})
        async with Database.open(database, max_size=8) as pool:
            quiet, disturbed = Reconciler(pool, told, slow), Reconciler(pool, told, slow, slot_seconds)
            await put_outsiders(quiet, tenants)
            async with books.beside(database), truth.beside(database):
                with crew("storage", told, run.folder / "quiet", run.seed) as workers:
                    workers.start(size)
                    async with reconciling(quiet, tenants, at_once=2):
                        await workers.run(seconds=seconds / 2)
                        made = await make_drift(direct, tenants)
                        await workers.run(seconds=seconds / 2)
                    await workers.stop()
                    counts = workers.counts
                after_quiet = await differences(connection, await list_bucket(direct.store))
                for tenant in tenants:  # one whole reconciliation after the change at least
                    await quiet.reconcile(tenant)
                appointed = deaths(
                    random.Random(run.seed), dict.fromkeys(STEPS, 20), any_moment=0.5, patience_seconds=5
                )
                with crew("storage", doomed, run.folder / "disturbed", run.seed, deaths=appointed) as workers:
                    workers.start(size)
                    async with reconciling(disturbed, tenants, at_once=2):
                        await workers.run(seconds=run.choose(60, seconds), kills=None if run.long else kills)
                    await workers.stop()
                    counts += workers.counts
                    killed, by_step = workers.kills, workers.kills_by_step()
                disturbed.ahead_seconds = slot_seconds
                for tenant in tenants:
                    await disturbed.reconcile(tenant)
    await books.look(connection)
    listing = await list_bucket(direct.store)
    wrong = await differences(connection, listing)
    await connection.close()
    false = (quiet.drift - made) + (made - quiet.drift)
    stale = disturbed.drift.pop("stale_hold", 0)
    run.figures |= {
        "processes": size,
        "coroutines": size * COROUTINES,
        "seconds_undisturbed": seconds,
        "seconds_with_kills": seconds,
        "kills": killed,
        "kills_by_step": by_step,
        "operations": dict(sorted(counts.items())),
        "reconciliations": quiet.runs + disturbed.runs,
        "objects_looked_at": quiet.nominated + disturbed.nominated,
        "drift_made": dict(made),
        "drift_found": dict(quiet.drift),
        "stale_slots_found_with_kills": stale,
        "false_corrections": false.total() + disturbed.drift.total(),
        "invariant_checks": books.checks,
        "rows_held_against_s3": 20 * truth.checks,
        "in_s3_objects": len(listing),
        "violations": len(books.violations) + len(truth.violations) + len(wrong),
    }
    assert not books.violations
    assert not truth.violations
    assert not [line for line in after_quiet if OUTSIDE not in line]
    assert quiet.drift == made
    assert not disturbed.drift
    assert not wrong
    assert killed >= kills
