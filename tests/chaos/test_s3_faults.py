"""S3 refuses, hangs, loses answers, acts late and breaks off: what each step does, and what the books say then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.chaos.conftest import Run
from tests.chaos.storage_books import differences, list_bucket, read_books, violations
from tests.chaos.test_storage import add_tenants, bucket_orders
from tests.faulty_s3 import Damage, Fault, FaultyS3, Kind, faulty_s3
from tests.world import ROOMY
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.usage import PostgresReconciliation
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.errors import StorageBusy, StorageUnavailable
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.reconcile import Reconciliation, ReconciliationReport
from vision_assets.core.tenants import TenantId
from vision_assets.settings import Settings

pytestmark = pytest.mark.chaos

TIMEOUT_SECONDS = 1.0
"""Of one attempt: a server that hangs costs no more."""


@dataclass(slots=True)
class Place:
    """One tenant behind a server that can be broken; the clock can be moved."""

    tenant: TenantId
    proxy: FaultyS3
    database: Database
    connection: "asyncpg.Connection[asyncpg.Record]"
    broken: S3Bucket
    direct: S3Bucket
    ahead: timedelta = timedelta(0)
    guard: QuotaGuardedStore = field(init=False)

    def __post_init__(self) -> None:
        self.guard = QuotaGuardedStore(
            store=self.broken,
            ledger=PostgresStorage(self.database),
            limits=ROOMY,
            clock=lambda: datetime.now(UTC) + self.ahead,
            patience_seconds=0.2,
        )

    def key(self, name: str) -> str:
        """Name an object."""
        return f"crawl/{self.tenant}/{name}"

    async def put(self, name: str, size: int) -> bool:
        """Put an object of a size."""
        return await self.guard.put(
            self.tenant, self.key(name), bytes(size), content_type="crawl", mime="application/gzip"
        )

    async def delete(self, name: str) -> None:
        """Delete an object."""
        await self.guard.delete(self.tenant, [(self.key(name), "crawl")])

    async def reconcile(self) -> ReconciliationReport:
        """Reconcile the tenant."""
        return await Reconciliation(
            tenant_id=self.tenant, store=self.broken, guard=self.guard, ledger=PostgresReconciliation(self.database)
        ).run()

    async def ledger(self) -> dict[str, int | None]:
        """What the books have: name → bytes."""
        rows = await self.connection.fetch("SELECT s3_key, bytes FROM storage_objects")
        return {row["s3_key"].rsplit("/", 1)[1]: row["bytes"] for row in rows}

    async def rows(self) -> list[Any]:
        """All rows of the books in the versions that they have."""
        tables = ("storage_objects", "tenant_storage_usage", "storage_totals")
        return [
            row
            for table in tables
            for row in await self.connection.fetch(f"SELECT xmin::text, * FROM {table} ORDER BY 3")  # noqa: S608 - names from above
        ]

    async def reserved(self) -> int:
        """Bytes that are held."""
        return sum(figures[2] for figures in (await read_books(self.connection)).usage.values())

    async def wrong(self) -> list[str]:
        """Name what differs between the books and S3, or contradicts itself."""
        books = await read_books(self.connection)
        return [*violations(books, ROOMY), *await differences(self.connection, await list_bucket(self.direct.store))]


@pytest.fixture
async def place(parts: Settings, s3_port: int, database: str, bucket: str) -> AsyncIterator[Place]:
    """A tenant without objects, behind a server that is whole."""
    connection = await asyncpg.connect(database)
    [tenant] = await add_tenants(connection, 1)
    with faulty_s3(s3_port, page_objects=10) as proxy:
        direct = bucket_orders(parts, bucket)
        broken = {**direct, "endpoint_url": proxy.url, "timeout_seconds": TIMEOUT_SECONDS, "max_retries": 1}
        async with Database.open(database, max_size=4) as pool:
            yield Place(
                TenantId(tenant), proxy, pool, connection, S3Bucket.connect(**broken), S3Bucket.connect(**direct)
            )
    await connection.close()


@pytest.mark.parametrize(("damage", "before"), [("refuse", None), ("refuse", 100), ("hang", 100)])
async def test_put_that_is_refused(place: Place, damage: Damage, before: int | None) -> None:
    """The caller hears of it; the books say what was there before, and nothing stays reserved."""
    if before:
        await place.put("a", before)
    place.proxy.set_faults([Fault("put", damage)])
    with pytest.raises(StorageUnavailable):
        await place.put("a", 300)
    assert await place.ledger() == ({"a": before} if before else {})
    assert await place.wrong() == []
    place.proxy.set_faults()
    assert await place.put("a", 300), "the next one goes through at once"
    assert await place.ledger() == {"a": 300}


@pytest.mark.parametrize("before", [None, 100, 500])
async def test_put_whose_answer_is_lost(place: Place, before: int | None) -> None:
    """S3 has done it, so the books say so, whatever the caller was told."""
    if before:
        await place.put("a", before)
    place.proxy.set_faults([Fault("put", "lose")])
    with pytest.raises(StorageUnavailable):
        await place.put("a", 300)
    assert await place.ledger() == {"a": 300}
    assert await place.wrong() == []


async def test_put_that_fails_in_passing(place: Place) -> None:
    """A fault that is over at the second attempt is nobody's business."""
    place.proxy.set_faults([Fault("put", "refuse", times=1)])
    assert await place.put("a", 300)
    place.proxy.set_faults([Fault("put", "lose", times=1)])
    assert await place.put("b", 300)
    assert place.proxy.broken.total() == 2
    assert await place.wrong() == []


@pytest.mark.parametrize("really", [None, 300])
async def test_put_that_nobody_can_tell_of(place: Place, really: int | None) -> None:
    """When S3 does not tell what became of a put, its slot and bytes stay held until S3 is asked after its time."""
    place.proxy.set_faults([Fault("put", "lose" if really else "refuse"), Fault("head", "refuse")])
    with pytest.raises(StorageUnavailable):
        await place.put("a", 300)
    assert await place.ledger() == {"a": None}
    assert await place.reserved() == 300
    place.proxy.set_faults()
    with pytest.raises(StorageBusy):
        await place.put("a", 200)
    assert (await place.guard.sweep(place.tenant)).verified == (), "not before its time"
    place.ahead = place.guard.slot_life
    place.proxy.set_faults([Fault("head", "lose")])
    assert (await place.guard.sweep(place.tenant)).failed == (place.key("a"),)
    assert await place.reserved() == 300, "a look that fails frees nothing"
    place.ahead = 2 * place.guard.slot_life
    place.proxy.set_faults()
    [seen] = (await place.guard.sweep(place.tenant)).verified
    assert (seen.before_bytes, seen.after_bytes, seen.held_bytes) == (None, really, 300)
    assert await place.wrong() == []


async def test_put_that_lands_late(place: Place) -> None:
    """A put that S3 does after everybody has given it up is not in the books; the next reconciliation takes it in."""
    place.proxy.set_faults([Fault("put", "delay")])
    with pytest.raises(StorageUnavailable):
        await place.put("a", 300)
    assert await place.ledger() == {}
    place.proxy.set_faults()
    await asyncio.sleep(place.proxy.delay_seconds + 0.5)
    assert len(await place.wrong()) == 1
    report = await place.reconcile()
    assert {name: drift.objects for name, drift in report.drift.items() if drift.objects} == {"untracked": 1}
    assert await place.wrong() == []


@pytest.mark.parametrize("damage", ["refuse", "hang"])
async def test_delete_that_is_refused(place: Place, damage: Damage) -> None:
    """The object is there and in the books."""
    await place.put("a", 300)
    place.proxy.set_faults([Fault("delete", damage)])
    with pytest.raises(StorageUnavailable):
        await place.delete("a")
    assert await place.ledger() == {"a": 300}
    assert await place.wrong() == []


async def test_delete_whose_answer_is_lost(place: Place) -> None:
    """The object is gone from S3 and from the books."""
    await place.put("a", 300)
    place.proxy.set_faults([Fault("delete", "lose")])
    with pytest.raises(StorageUnavailable):
        await place.delete("a")
    assert await place.ledger() == {}
    assert await place.wrong() == []


async def test_delete_that_nobody_can_tell_of(place: Place) -> None:
    """The books go on counting the object until S3 tells that it is gone."""
    await place.put("a", 300)
    place.proxy.set_faults([Fault("delete", "lose"), Fault("head", "refuse")])
    with pytest.raises(StorageUnavailable):
        await place.delete("a")
    assert await place.ledger() == {"a": 300}
    place.proxy.set_faults()
    place.ahead = place.guard.slot_life
    [seen] = (await place.guard.sweep(place.tenant)).verified
    assert (seen.before_bytes, seen.after_bytes) == (300, None)
    assert await place.wrong() == []


@pytest.mark.parametrize("damage", ["refuse", "hang", "lose"])
async def test_look_that_fails(place: Place, damage: Damage) -> None:
    """A look that S3 does not answer changes no figure; the slot stays until it can be answered."""
    await place.put("a", 300)
    await place.direct.delete([place.key("a")])
    place.proxy.set_faults([Fault("head", damage)])
    found = await place.guard.verify(place.tenant, [(place.key("a"), "crawl")])
    assert found.failed == (place.key("a"),)
    assert await place.ledger() == {"a": 300}
    place.proxy.set_faults()
    place.ahead = place.guard.slot_life
    await place.guard.sweep(place.tenant)
    assert await place.ledger() == {}
    assert await place.wrong() == []


@pytest.mark.parametrize(
    ("damage", "pages"), [("refuse", 0), ("refuse", 2), ("hang", 2), ("lose", 2), ("cut", 0), ("cut", 2)]
)
async def test_listing_that_breaks_off(place: Place, damage: Damage, pages: int) -> None:
    """A listing that fails at its beginning or in its middle changes nothing at all; the next one goes through."""
    for number in range(45):
        await place.put(f"{number:02d}", 10)
    await place.direct.delete([place.key("00"), place.key("44")])
    await place.direct.put(place.key("new"), b"123", mime="text/plain")
    before = await place.rows()
    place.proxy.set_faults([Fault("list", damage, containing="crawl/", after=pages)])
    with pytest.raises(StorageUnavailable):
        await place.reconcile()
    assert place.proxy.broken["list", damage]
    assert await place.rows() == before
    place.proxy.set_faults()
    report = await place.reconcile()
    found = {name: drift.objects for name, drift in report.drift.items() if drift.objects}
    assert found == {"missing": 2, "untracked": 1}
    assert await place.wrong() == []


async def test_reconciliation_whose_looks_fail(place: Place) -> None:
    """What the listing nominates is not believed without a look: nothing is corrected until S3 answers."""
    for number in range(5):
        await place.put(str(number), 10)
    await place.direct.delete([place.key("0"), place.key("1")])
    place.proxy.set_faults([Fault("head", "refuse")])
    with pytest.raises(StorageUnavailable):
        await place.reconcile()
    assert await place.ledger() == {str(number): 10 for number in range(5)}
    place.proxy.set_faults()
    place.ahead = place.guard.slot_life
    await place.reconcile()
    assert await place.ledger() == {str(number): 10 for number in range(2, 5)}
    assert await place.wrong() == []


@pytest.mark.parametrize("damage", ["refuse", "cut"])
async def test_get_that_fails(place: Place, damage: Damage) -> None:
    """An object that cannot be read in full is an error, and never an absent or a shorter object."""
    await place.put("a", 300)
    place.proxy.set_faults([Fault("get", damage)])
    with pytest.raises(StorageUnavailable):
        await place.broken.get(place.key("a"))


@pytest.mark.timeout(600)
async def test_s3_fails_all_the_time(run: Run, place: Place) -> None:
    """Many writers while a third of all requests fails in one way or another: afterwards the books agree with S3."""
    kinds: tuple[Kind, ...] = ("put", "delete", "head", "list")
    damages: tuple[Damage, ...] = ("refuse", "hang", "lose", "cut")
    chance = run.chance
    failures = 0
    deadline = asyncio.get_running_loop().time() + run.choose(3, 60)

    async def write() -> None:
        nonlocal failures
        while asyncio.get_running_loop().time() < deadline:
            name = str(chance.randrange(30))
            try:
                await (place.put(name, chance.randrange(1000)) if chance.random() < 0.7 else place.delete(name))
            except (StorageUnavailable, StorageBusy):
                failures += 1

    async def look() -> None:
        while asyncio.get_running_loop().time() < deadline:
            with suppress(StorageUnavailable):
                await place.reconcile()

    async def break_things() -> None:
        while asyncio.get_running_loop().time() < deadline:
            faults = [Fault(chance.choice(kinds), chance.choice(damages), times=chance.randrange(20)) for _ in range(3)]
            place.proxy.set_faults(faults)
            await asyncio.sleep(chance.uniform(0, 0.4))
            place.proxy.set_faults()
            await asyncio.sleep(chance.uniform(0, 0.4))

    # Some of the slots that nobody could tell of expire while this runs; no put may take as long as that.
    place.guard.slot_life = timedelta(seconds=3 * TIMEOUT_SECONDS)
    await asyncio.gather(break_things(), look(), *(write() for _ in range(16)))
    place.proxy.set_faults()
    place.ahead = place.guard.slot_life
    await place.guard.sweep(place.tenant)
    late = await place.wrong()
    await place.reconcile()
    wrong = await place.wrong()
    run.figures |= {
        "requests": dict(place.proxy.seen),
        "broken_requests": {f"{kind} {damage}": n for (kind, damage), n in sorted(place.proxy.broken.items())},
        "failures_told": failures,
        "objects_that_one_reconciliation_put_right": len(late),
        "violations": len(wrong),
    }
    assert wrong == []
    assert place.proxy.broken.total()
