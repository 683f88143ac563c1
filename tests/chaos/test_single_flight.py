"""Many workers look at the same pictures for tokens: each picture is paid for once, and little more when workers die.

What is not here: budgets that run out (`test_budget.py`).
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.chaos.biller import Biller, biller
from tests.chaos.budget_books import ends, read_books, uncharged, violations
from tests.chaos.conftest import Run
from tests.chaos.crew import PROCESSES, Crew, crew, deaths, missed
from tests.chaos.looking import STEPS, PaidProvider
from tests.chaos.test_budget import set_limit, sweep, watch_over
from tests.chaos.test_storage import bucket_orders
from tests.pictures import photo
from tests.world import World, open_world
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.budget import MAX_ATTEMPTS
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision_ledger import ToDo
from vision_assets.settings import Settings

pytestmark = pytest.mark.chaos

PASSES = 2
"""At once, in each process."""


def draw_pictures(folder: Path, *, first: int, number: int) -> Path:
    """Make files with pictures that do not look alike."""
    folder.mkdir()
    for seed in range(first, first + number):
        photo(96, 72, seed=seed).save(folder / f"{seed}.jpg")
    return folder


async def store_pictures(world: World, folder: Path, name: str) -> Tenant:
    """Store the pictures of a folder for a tenant."""
    tenant = await world.tenant(name)
    await world.load(tenant, folder)
    await world.store_media(tenant)
    return tenant


async def all_done(world: World, tenant: Tenant, workers: Crew, *, seconds: float, kills: int = 0) -> None:
    """Let the workers work until nobody finds anything to do and enough of them are dead."""
    provider: Any = PaidProvider
    todo = ToDo(provider=provider, rules="whatever was decided", now=datetime.now(UTC), with_budget=True)
    ledger = PostgresVision(world.database)
    async with asyncio.timeout(seconds):
        while workers.kills < kills or await ledger.count_unanalysed(tenant.id, todo):
            await workers.run(seconds=0.2)
            if workers.kills >= kills:
                workers.deaths = None


def by_picture(provider: Biller, tenant: Tenant) -> Counter[str]:
    """Count the calls that were billed for each picture."""
    return Counter(bill.subject for bill in provider.bills if bill.tenant == tenant.id)


@pytest.mark.timeout(1800)
async def test_single_flight(run: Run, parts: Settings, database: str, bucket: str) -> None:
    """Undisturbed one call a picture; with kills at most three, all of them charged, and every picture gets an end."""
    size, pictures, kills = run.choose(2, PROCESSES), run.choose(12, 80), run.choose(4, 60)
    calls_at_once = size * PASSES  # half of what they would make
    told: dict[str, Any] = {
        "database_url": database,
        "connections": 4,
        "s3": bucket_orders(parts, bucket),
        "coroutines": PASSES,
        "turns": None,
        "hold_seconds": 60,
        "slot_seconds": 60,
    }
    steps = dict.fromkeys(STEPS, 2) | {"ledger.reserve": 20}
    async with open_world(database, bucket, parts) as world:
        quiet = await store_pictures(world, draw_pictures(run.folder / "1", first=0, number=pictures), "Quiet")
        disturbed = await store_pictures(
            world, draw_pictures(run.folder / "2", first=1000, number=pictures), "Disturbed"
        )
        connection = await asyncpg.connect(database)
        for tenant in (quiet, disturbed):
            await set_limit(connection, tenant.id, "calls", tokens=None, requests=calls_at_once)
        with biller() as provider:
            told["biller_port"] = provider.port
            watch = await watch_over(connection, provider)
            async with watch.beside(database):
                first = {**told, "tenants": [str(quiet.id)]}
                with crew("vision", first, run.folder / "quiet", run.seed) as workers:
                    workers.start(size)
                    await all_done(world, quiet, workers, seconds=600)
                    await workers.stop()
                    counts = workers.counts
                second = {**told, "tenants": [str(disturbed.id)], "hold_seconds": run.choose(2, 5)}
                appointed = deaths(run.chance, steps, any_moment=0.2, patience_seconds=3)
                with crew("vision", second, run.folder / "disturbed", run.seed, deaths=appointed) as workers:
                    workers.patience_seconds = 8
                    workers.start(size)
                    await all_done(world, disturbed, workers, seconds=900, kills=kills)
                    await workers.stop()
                    counts += workers.counts
                    by_step, killed = workers.kills_by_step(), workers.kills
            await sweep(database, ahead_seconds=told["hold_seconds"])
            await watch.look(connection)
            books = await read_books(connection)
            states = await connection.fetch("SELECT tenant_id, status, count(*) FROM vision_results GROUP BY 1, 2")
        await connection.close()
    once, again = by_picture(provider, quiet), by_picture(provider, disturbed)
    run.figures |= {
        "processes": size,
        "passes_at_once": size * PASSES,
        "pictures": pictures,
        "calls_undisturbed": once.total(),
        "calls_with_kills": again.total(),
        "most_calls_of_a_picture": max(again.values()),
        "pictures_given_up": sum(row["count"] for row in states if row["status"] == "error"),
        "kills": killed,
        "kills_by_step": by_step,
        "operations": dict(sorted(counts.items())),
        "billed_tokens": provider.billed().total(),
        "charged_for_expired_holds_tokens": books.used().total() - provider.billed().total(),
        "invariant_checks": watch.checks,
        "violations": len(watch.violations),
    }
    assert not watch.violations
    assert set(once.values()) == {1}
    assert once.total() == pictures
    assert books.used()[quiet.id] == provider.billed()[quiet.id]
    assert max(again.values()) <= MAX_ATTEMPTS
    assert not uncharged(books, provider.billed())
    assert not violations(books)
    assert not ends(books)
    assert sum(row["count"] for row in states) == 2 * pictures, "every picture has an end"
    assert provider.at_once[quiet.id] <= calls_at_once
    if run.long:
        assert not missed(by_step, STEPS)
