"""Many processes put, overwrite and delete the same objects, undisturbed and while they are killed.

The books agree with S3 to the byte, and no quota is ever exceeded.
"""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.chaos.conftest import Run
from tests.chaos.crew import COROUTINES, PROCESSES, crew, deaths, missed
from tests.chaos.storage_books import (
    differences,
    excesses,
    list_bucket,
    note_excesses,
    over_limit,
    read_books,
    violations,
)
from tests.chaos.storage_recovery import Reconciler
from tests.chaos.storing import FOLDERS, STEPS, limits
from tests.chaos.watch import Connection, Watch
from vision_assets.clients.postgres import Database
from vision_assets.clients.s3 import S3Bucket
from vision_assets.settings import Settings

pytestmark = pytest.mark.chaos

MOST_BYTES = 4000
"""Upper bound of one object."""

KEYS = 800
"""Of all tenants, at most, so that a listing is one answer of the server and shows one moment."""


def bucket_orders(parts: Settings, bucket: str, **more: Any) -> dict[str, Any]:
    """Say where the objects go, in the words of `S3Bucket.connect`."""
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    return {
        "bucket": bucket,
        "endpoint_url": parts.s3_endpoint_url,
        "access_key_id": parts.aws_access_key_id.get_secret_value(),
        "secret_access_key": parts.aws_secret_access_key.get_secret_value(),
        **more,
    }


def orders(url: str, s3: dict[str, Any], tenants: list[UUID], *, all_keys: int = KEYS, **more: Any) -> dict[str, Any]:
    """Say what the workers shall do: keys are shared, and half of what they would store fits."""
    keys = max(all_keys // len(tenants) // len(FOLDERS), 1)
    return {
        "database_url": url,
        "connections": 3,
        "s3": s3,
        "tenants": [str(tenant) for tenant in tenants],
        "coroutines": COROUTINES,
        "turns": None,
        "keys": keys,
        "most_bytes": MOST_BYTES,
        "limit_bytes": keys * len(FOLDERS) * MOST_BYTES // 4,
        "unchecked_bytes": 0,
        "slot_seconds": 300,
        "patience_seconds": 20,
        "sweeps": False,
        "dawdlers": 0,
        **more,
    }


async def add_tenants(connection: Connection, number: int) -> list[UUID]:
    """Make tenants."""
    tenants = [uuid4() for _ in range(number)]
    await connection.executemany("INSERT INTO tenants (id, name) VALUES ($1, $2)", [(one, str(one)) for one in tenants])
    return tenants


async def watch_over(connection: Connection, told: dict[str, Any], *, slack_bytes: int = 0) -> Watch:
    """Check the books, at every single change, and what lies in S3 itself, against the limits.

    Args:
        slack_bytes: That may rightly lie there beyond them.
    """
    bounds = limits(told["limit_bytes"], tenants=len(told["tenants"]), slack_bytes=slack_bytes)
    store = S3Bucket.connect(**told["s3"]).store
    await note_excesses(connection, bounds)

    async def check(connection: Connection) -> list[str]:
        in_books = violations(await read_books(connection), bounds)
        in_s3 = over_limit(await list_bucket(store), bounds)
        return [*in_books, *in_s3, *await excesses(connection)]

    return Watch(check)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tenants", [1, 100])
async def test_storage_race(run: Run, parts: Settings, database: str, bucket: str, tenants: int) -> None:
    """Nobody is killed: usage is the sum of what lies in S3, and at no moment more than the limits."""
    connection = await asyncpg.connect(database)
    size, turns = run.choose(2, PROCESSES), run.choose(4, 30)
    told = orders(
        database,
        bucket_orders(parts, bucket),
        await add_tenants(connection, tenants),
        all_keys=run.choose(KEYS // 4, KEYS),
        turns=turns,
    )
    watch = await watch_over(connection, told)
    with crew("storage", told, run.folder / "crew", run.seed) as workers:
        async with watch.beside(database):
            workers.start(size)
            await workers.finish(seconds=1000)
        await workers.stop()
        counts = workers.counts
    await watch.look(connection)
    books = await read_books(connection)
    listing = await list_bucket(S3Bucket.connect(**told["s3"]).store)
    wrong = await differences(connection, listing)
    await connection.close()
    used = sum(figures[0] for figures in books.usage.values())
    run.figures |= {
        "processes": size,
        "coroutines": size * COROUTINES,
        "tenants": tenants,
        "operations": dict(sorted(counts.items())),
        "usage_bytes": used,
        "in_s3_bytes": sum(listing.values()),
        "in_s3_objects": len(listing),
        "invariant_checks": watch.checks,
        "violations": len(watch.violations) + len(wrong),
    }
    assert not watch.violations
    assert not wrong
    assert used == sum(listing.values())
    assert not books.operations
    assert not counts["looks that corrected"]
    assert any(counts[f"refused {reason}"] for reason in ("tenant_limit", "type_limit", "bucket_full"))
    assert not any(count for name, count in counts.items() if name.startswith("failed"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tenants", [1, 100])
async def test_storage_kills(run: Run, parts: Settings, database: str, bucket: str, tenants: int) -> None:
    """Workers die before, within and after every step: no limit breaks, and after a sweep books and S3 agree."""
    connection = await asyncpg.connect(database)
    kills, size, slot_seconds = run.choose(6, 160), run.choose(2, PROCESSES), run.choose(6, 8)
    told = orders(
        database,
        bucket_orders(parts, bucket, timeout_seconds=slot_seconds / 2, max_retries=0),
        scopes := await add_tenants(connection, tenants),
        slot_seconds=slot_seconds,
        patience_seconds=0.2,
        sweeps=True,
        dawdlers=run.choose(0, 5) / 1000,
    )
    appointed = deaths(
        run.chance,
        dict.fromkeys(STEPS, 20) | {"s3.delete": 10, "s3.head": 10, "ledger.overdue": 3},
        any_moment=0.3,
        patience_seconds=5,
    )
    watch = await watch_over(connection, told)
    with crew("storage", told, run.folder / "crew", run.seed, deaths=appointed) as workers:
        async with watch.beside(database):
            workers.start(size)
            await workers.run(seconds=run.choose(60, 900), kills=kills)
            await workers.stop()
            counts, killed, by_step = workers.counts, workers.kills, workers.kills_by_step()
            store = S3Bucket.connect(**told["s3"])
            async with Database.open(database, max_size=4) as pool:
                reconciler = Reconciler(pool, told, store, ahead_seconds=slot_seconds)
                swept = await reconciler.sweep(scopes)
                # The short form leaves out the many that agree anyway.
                in_need = "\n".join(await differences(connection, await list_bucket(store.store)))
                for tenant in scopes:
                    if run.long or tenant == scopes[0] or str(tenant) in in_need:
                        await reconciler.reconcile(tenant)
    await watch.look(connection)
    wrong = await differences(connection, await list_bucket(store.store))
    await connection.close()
    run.figures |= {
        "processes": size,
        "coroutines": size * COROUTINES,
        "tenants": tenants,
        "kills": killed,
        "kills_by_step": by_step,
        "operations": dict(sorted(counts.items())),
        "slots_left_by_the_dead": swept,
        "differences_that_reconciliation_found": dict(reconciler.drift),
        "invariant_checks": watch.checks,
        "violations": len(watch.violations) + len(wrong),
    }
    assert killed >= kills
    assert not watch.violations
    assert not wrong
    if not counts["failed StorageUnavailable"]:  # else S3 may have done something after it was given up
        assert not reconciler.drift
    if run.long:
        assert not missed(by_step, STEPS)
