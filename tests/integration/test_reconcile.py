"""Reconciliation on the real parts: each class of drift, work that goes on meanwhile, and listings that break off."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.chaos.storage_books import read_books, violations
from tests.faulty_s3 import Damage, Fault, faulty_s3
from tests.served import served
from tests.world import ROOMY, World
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.errors import ConfigurationError, QuotaExceeded, StorageBusy, StorageUnavailable, TenantUnknown
from vision_assets.core.listing import Sizes
from vision_assets.core.object_ledger import Operation
from vision_assets.core.reconcile import Drift, OffSum, ReconciliationReport
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.settings import Settings

LONG_AGO = timedelta(hours=1)


async def put(world: World, tenant: Tenant, name: str, size: int, *, folder: str = "crawl") -> str:
    """Put an object of a size through the guard, and give its key."""
    key = f"{folder}/{tenant.id}/{name}"
    content_type: Any = "vision" if folder == "album" else folder
    await world.quota().put(tenant.id, key, bytes(size), content_type=content_type, mime="text/html")
    return key


async def behind_the_back(world: World, key: str, size: int | None) -> None:
    """Change an object in S3 without anybody booking it; None: delete it."""
    if size is None:
        await world.bucket.delete([key])
    else:
        await world.bucket.put(key, bytes(size), mime="text/html")


async def begin_put(world: World, key: str, size: int, *, until: datetime) -> None:
    """Take the slot of an upload that nobody ends."""
    operation = Operation(uuid4(), TenantId(UUID(key.split("/")[1])), key, "crawl", "put", size)
    now = datetime.now(UTC)
    await PostgresStorage(world.database).begin([operation], limits=ROOMY, now=now - 2 * LONG_AGO, until=until)


async def rows(world: World) -> list[str]:
    """Everything that a reconciliation may change."""
    found: list[str] = []
    for table in ("storage_objects", "tenant_storage_usage", "storage_totals"):
        found += map(str, await world.database.pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2"))  # noqa: S608
    return found


async def assert_books_equal_s3(world: World) -> None:
    """The ledger is exactly the bucket, usage and totals are its sums, and nothing is under way."""
    ledger = await world.database.pool.fetch("SELECT s3_key, bytes, op_id FROM storage_objects")
    assert {row["s3_key"]: row["bytes"] for row in ledger} == await world.keys()
    assert not [row["s3_key"] for row in ledger if row["op_id"]]
    async with world.database.connection() as connection:
        books = await read_books(connection)
    assert violations(books, ROOMY) == []


def found(report: ReconciliationReport) -> dict[str, Drift]:
    """The classes of drift in which there was any."""
    return {name: drift for name, drift in report.drift.items() if drift.objects}


def bucket_through(url: str, world: World, parts: Settings, *, bucket: str | None = None) -> S3Bucket:
    """The world's bucket, or another one, by way of another endpoint and without patience."""
    assert parts.aws_access_key_id is not None
    assert parts.aws_secret_access_key is not None
    return S3Bucket.connect(
        bucket or world.bucket.store.config["bucket"],
        endpoint_url=url,
        access_key_id=parts.aws_access_key_id.get_secret_value(),
        secret_access_key=parts.aws_secret_access_key.get_secret_value(),
        timeout_seconds=5,
        max_retries=0,
    )


@dataclass
class Meanwhile:
    """A bucket in which something happens when a listing is through, or before it begins."""

    bucket: S3Bucket
    happens: Callable[[], Awaitable[object]]
    folder: str = "crawl"
    before: bool = False

    async def list_sizes(self, prefix: str, *, after: str | None = None) -> AsyncGenerator[Sizes, None]:
        """List; what happens, happens before anybody sees the end."""
        if self.before and prefix.startswith(self.folder):
            await self.happens()
        async for page in self.bucket.list_sizes(prefix, after=after):
            yield page
        if not self.before and prefix.startswith(self.folder):
            await self.happens()


async def test_agreement_costs_no_look(world: World) -> None:
    """Where ledger and listing agree, nothing is nominated and nothing written but when it was reconciled."""
    tenant = await world.tenant("Tidy")
    for folder in ("media", "vision", "crawl", "album"):
        await put(world, tenant, "a", 10, folder=folder)
    before = await world.database.pool.fetch("SELECT * FROM storage_objects ORDER BY s3_key")
    report = await world.reconcile(tenant)
    assert (report.listed_objects, report.listed_bytes, report.nominated, found(report)) == (4, 40, 0, {})
    assert report.usage.types["vision"].total_bytes == 20
    assert await world.database.pool.fetch("SELECT * FROM storage_objects ORDER BY s3_key") == before
    reconciled = await world.database.pool.fetch("SELECT reconciled_at FROM tenant_storage_usage")
    assert all(row["reconciled_at"] is not None for row in reconciled)


async def test_each_class_of_drift_is_found_put_right_and_told(world: World) -> None:
    """Missing, untracked and of another size: told with signed bytes and examples, and only this tenant's."""
    tenant, other = await world.tenant("Drift"), await world.tenant("Bystander")
    gone = await put(world, tenant, "gone", 7, folder="media")
    longer, shorter = await put(world, tenant, "longer", 10), await put(world, tenant, "shorter", 100)
    await put(world, tenant, "same", 5)
    new = f"album/{tenant.id}/new"
    foreign = f"crawl/{other.id}/foreign"
    for key, size in ((gone, None), (longer, 15), (shorter, 1), (new, 3), (foreign, 50)):
        await behind_the_back(world, key, size)

    report = await world.reconcile(tenant)

    assert found(report) == {
        "missing": Drift(1, -7, (gone,)),
        "untracked": Drift(1, 3, (new,)),
        "wrong_size": Drift(2, -94, (longer, shorter)),
    }
    usage = {name: (one.total_bytes, one.objects_count) for name, one in report.usage.types.items()}
    assert usage == {"media": (0, 0), "vision": (3, 1), "crawl": (21, 3)}
    assert found(await world.reconcile(tenant)) == {}
    assert found(await world.reconcile(other)) == {"untracked": Drift(1, 50, (foreign,))}
    await assert_books_equal_s3(world)


@pytest.mark.parametrize("arrived", [True, False], ids=["S3 has it", "S3 has not"])
async def test_stale_holds_are_swept_and_told(world: World, arrived: bool) -> None:
    """An upload that died holds its bytes until a reconciliation looks; what lies in S3 is booked, and nothing else."""
    tenant = await world.tenant("Stale")
    key = f"crawl/{tenant.id}/dead"
    now = datetime.now(UTC)
    await begin_put(world, key, 70, until=now - timedelta(seconds=1))
    await begin_put(world, f"{key}.live", 30, until=now + LONG_AGO)
    if arrived:
        await behind_the_back(world, key, 70)
    await behind_the_back(world, f"{key}.live", 30)

    report = await world.reconcile(tenant)

    assert found(report) == {"stale_hold": Drift(1, 70, (key,))}
    crawl = report.usage.types["crawl"]
    assert (crawl.total_bytes, crawl.reserved_bytes) == (70 if arrived else 0, 30)


async def test_pages_of_differences(world: World) -> None:
    """More differences than a page holds are all put right, with five examples."""
    tenant = await world.tenant("Many")
    keys = [f"crawl/{tenant.id}/{number:04}" for number in range(530)]
    await asyncio.gather(*(behind_the_back(world, key, 1) for key in keys))
    report = await world.reconcile(tenant)
    assert found(report) == {"untracked": Drift(530, 530, tuple(keys[:5]))}
    await assert_books_equal_s3(world)


async def test_what_changes_during_the_listing_is_not_touched(world: World) -> None:
    """An upload, an overwrite and a delete of the meantime are not in the listing, and stay as they were booked."""
    tenant = await world.tenant("Busy")
    await put(world, tenant, "overwritten", 10)
    deleted = await put(world, tenant, "deleted", 10)

    async def work() -> None:
        await put(world, tenant, "new", 5)
        await put(world, tenant, "overwritten", 25)
        await world.quota().delete(tenant.id, [(deleted, "crawl")])

    report = await world.reconcile(tenant, store=Meanwhile(world.bucket, work))
    assert found(report) == {}
    # Of the delete there is no trace in the ledger: it was looked at, and S3 did not have it either.
    assert report.nominated == 1
    assert report.usage.types["crawl"].total_bytes == 30
    await assert_books_equal_s3(world)


async def test_a_key_with_a_live_slot_is_left_to_its_operation(world: World) -> None:
    """Whoever has a slot books what is there; until then nobody else does, however much the listing differs."""
    tenant = await world.tenant("Slot")
    key = await put(world, tenant, "a", 10)
    await begin_put(world, key, 99, until=datetime.now(UTC) + LONG_AGO)
    await behind_the_back(world, key, 99)
    report = await world.reconcile(tenant)
    assert (report.nominated, found(report)) == (0, {})
    assert report.usage.types["crawl"].total_bytes == 10


async def test_no_transaction_is_open_while_s3_is_listed(world: World, database: str) -> None:
    """A listing may take long; nothing keeps the database from cleaning up meanwhile."""
    tenant = await world.tenant("Slow")
    await put(world, tenant, "a", 10)
    open_transactions: list[int] = []

    async def look() -> None:
        connection = await asyncpg.connect(database)
        try:
            open_transactions.append(
                await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)"
                    " AND backend_type = 'client backend'"
                )
            )
        finally:
            await connection.close()

    for before in (True, False):
        await world.reconcile(tenant, store=Meanwhile(world.bucket, look, before=before))
    assert open_transactions == [0, 0]


async def test_nothing_is_kept_after_a_reconciliation(world: World) -> None:
    """Neither a good nor a broken one leaves its listing in the session, which goes back to the pool."""
    tenant = await world.tenant("Leftovers")
    await put(world, tenant, "a", 10)

    async def fail() -> None:
        raise StorageUnavailable("broke off")

    await world.reconcile(tenant)
    with pytest.raises(StorageUnavailable, match="broke off"):
        await world.reconcile(tenant, store=Meanwhile(world.bucket, fail))
    left = "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"
    assert await world.database.pool.fetch(left) == []


@pytest.mark.parametrize("damage", ["cut", "refuse"])
@pytest.mark.parametrize("after", [0, 3], ids=["at the first page", "in the middle"])
async def test_a_listing_that_breaks_off_changes_nothing(
    world: World, parts: Settings, damage: Damage, after: int
) -> None:
    """One folder that cannot be listed to its end, and no row is changed: neither of it nor of the others."""
    tenant = await world.tenant("Broken")
    for number in range(12):
        await put(world, tenant, f"{number:02}", 10)
    gone = await put(world, tenant, "gone", 10, folder="media")
    await behind_the_back(world, gone, None)
    await behind_the_back(world, f"vision/{tenant.id}/new", 5)
    await begin_put(world, f"crawl/{tenant.id}/dead", 70, until=datetime.now(UTC) - LONG_AGO)
    await world.database.pool.execute("UPDATE tenant_storage_usage SET total_bytes = 1 WHERE content_type = 'crawl'")
    before = await rows(world)
    with faulty_s3(urlsplit(parts.s3_endpoint_url or "").port or 0, page_objects=3) as proxy:
        proxy.set_faults([Fault("list", damage, containing=f"crawl/{tenant.id}", after=after)])
        with pytest.raises(StorageUnavailable):
            await world.reconcile(tenant, store=bucket_through(proxy.url, world, parts))
        assert proxy.broken["list", damage] > 0
        assert await rows(world) == before
        proxy.set_faults()
        report = await world.reconcile(tenant, store=bucket_through(proxy.url, world, parts))
    assert {name: drift.objects for name, drift in found(report).items()} == {
        "missing": 1,
        "untracked": 1,
        "stale_hold": 1,
    }
    assert [off.bytes for off in report.off_sums] == [1 - 120]


async def test_objects_that_s3_does_not_tell_of_stay_as_they_were(world: World, parts: Settings) -> None:
    """A look that fails books nothing of that object; the others are booked, and the next reconciliation goes on."""
    tenant = await world.tenant("Dumb")
    for name in ("dumb", "clear"):
        await behind_the_back(world, await put(world, tenant, name, 10), 44)
    with faulty_s3(urlsplit(parts.s3_endpoint_url or "").port or 0) as proxy:
        proxy.set_faults([Fault("head", "refuse", containing="dumb")])
        world_behind = replace(world, bucket=bucket_through(proxy.url, world, parts))
        with pytest.raises(StorageUnavailable, match="dumb"):
            await world_behind.reconcile(tenant)
    sizes = await world.database.pool.fetch("SELECT s3_key, bytes FROM storage_objects ORDER BY s3_key")
    assert {row["s3_key"].rsplit("/", 1)[1]: row["bytes"] for row in sizes} == {"clear": 44, "dumb": 10}
    quota = world.quota()
    quota.clock = lambda: datetime.now(UTC) + LONG_AGO
    await quota.sweep(tenant.id)
    await assert_books_equal_s3(world)


async def test_figures_that_somebody_overwrote_are_the_sums_again(world: World) -> None:
    """Usage that was written by hand, or deleted, is the ledger's sum again before anything is booked on it."""
    tenant = await world.tenant("Scribbled")
    gone = await put(world, tenant, "gone", 40)
    await put(world, tenant, "a", 10, folder="media")
    pool = world.database.pool
    await pool.execute(
        "UPDATE tenant_storage_usage SET total_bytes = 0, objects_count = 9 WHERE content_type = 'crawl'"
    )
    await pool.execute("DELETE FROM tenant_storage_usage WHERE content_type = 'media'")
    await behind_the_back(world, gone, None)
    report = await world.reconcile(tenant)
    assert {(off.content_type, off.objects, off.bytes) for off in report.off_sums} == {
        ("crawl", 8, -40),
        ("media", -1, -10),
    }
    assert found(report) == {"missing": Drift(1, -40, (gone,))}
    assert (await world.reconcile(tenant)).off_sums == ()
    await assert_books_equal_s3(world)


@pytest.mark.parametrize("wrong", [(0, 0, 0), (10**6, 7, 10**3)], ids=["too low", "too high"])
async def test_totals_that_somebody_overwrote_are_the_sums_again(world: World, wrong: tuple[int, int, int]) -> None:
    """What all tenants have together, written by hand, is the ledger's sum again before anything is booked on it."""
    tenant, other = await world.tenant("Scribbled"), await world.tenant("Other")
    gone = await put(world, tenant, "gone", 40)
    await put(world, other, "a", 5)
    await begin_put(world, f"crawl/{tenant.id}/dead", 30, until=datetime.now(UTC) - LONG_AGO)
    await world.database.pool.execute(
        "UPDATE storage_totals SET total_bytes = $1, objects_count = $2, reserved_bytes = $3"
        " WHERE content_type = 'crawl'",
        *wrong,
    )
    await behind_the_back(world, gone, None)
    report = await world.reconcile(tenant)
    assert report.off_sums == (OffSum("crawl of all tenants", wrong[1] - 2, wrong[0] - 45, wrong[2] - 30),)
    assert found(report) == {
        "missing": Drift(1, -40, (gone,)),
        "stale_hold": Drift(1, 30, (f"crawl/{tenant.id}/dead",)),
    }
    assert (await world.reconcile(tenant)).off_sums == ()
    await assert_books_equal_s3(world)


async def test_totals_do_not_follow_another_tenants_wrong_figures(world: World) -> None:
    """Right totals stay right while another tenant's figures are wrong; those wait for that tenant's turn."""
    tenant, other = await world.tenant("Right"), await world.tenant("Wrong")
    await put(world, other, "a", 50)
    await world.database.pool.execute("DELETE FROM tenant_storage_usage WHERE tenant_id = $1", other.id)
    assert (await world.reconcile(tenant)).off_sums == ()
    assert await world.database.pool.fetchval("SELECT sum(total_bytes) FROM storage_totals") == 50
    assert [off.content_type for off in (await world.reconcile(other)).off_sums] == ["crawl"]
    await assert_books_equal_s3(world)


async def test_reconciliations_of_one_tenant_may_run_together(world: World) -> None:
    """Several at once confirm each difference once between them, and end in the same books."""
    tenant = await world.tenant("Twice")
    keys = [await put(world, tenant, f"{number}", 10) for number in range(20)]
    for key in keys[:10]:
        await behind_the_back(world, key, None)
    reports = await asyncio.gather(*(world.reconcile(tenant) for _ in range(3)))
    assert sum(report.drift["missing"].objects for report in reports) == 10
    await assert_books_equal_s3(world)


async def test_an_unknown_tenant_is_told_from_an_empty_one(world: World) -> None:
    """A tenant that does not exist has no usage of zero."""
    with pytest.raises(TenantUnknown):
        await world.reconcile(Tenant(TenantId(uuid4()), "Nobody"))


async def test_uploads_overwrites_and_deletes_go_on_meanwhile(world: World) -> None:
    """Whatever reconciliations do meanwhile, no count is lost and none is invented; the long form is a chaos test."""
    tenants = [await world.tenant("One"), await world.tenant("Two")]
    quota = world.quota()
    quota.patience_seconds = 60
    end = asyncio.get_running_loop().time() + 4

    async def work(seed: int) -> None:
        chance = random.Random(seed)
        while asyncio.get_running_loop().time() < end:
            tenant = chance.choice(tenants)
            folder: Any = chance.choice(["media", "vision", "crawl"])
            key = f"{folder}/{tenant.id}/{chance.choice('0123456789abcdef')}"
            try:
                if chance.random() < 0.3:
                    await quota.delete(tenant.id, [(key, folder)])
                else:
                    body = bytes(chance.randint(1, 5000))
                    await quota.put(tenant.id, key, body, content_type=folder, mime="text/html")
            except (QuotaExceeded, StorageBusy):
                continue

    reports: list[ReconciliationReport] = []

    async def reconcile() -> None:
        while asyncio.get_running_loop().time() < end:
            reports.extend([await world.reconcile(tenant) for tenant in tenants])

    async with asyncio.TaskGroup() as group:
        for seed in range(12):
            group.create_task(work(seed))
        for _ in range(2):
            group.create_task(reconcile())
    assert reports
    assert [found(report) for report in reports if found(report)] == []
    await assert_books_equal_s3(world)


_UNSPEAKABLE = """<?xml version="1.0"?><ListBucketResult><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>
<Contents><Key>crawl/{tenant}/a//b</Key><LastModified>2026-03-01T00:00:00.000Z</LastModified><ETag>x</ETag><Size>5</Size>
</Contents></ListBucketResult>"""


async def test_a_key_that_the_client_cannot_speak_is_named(world: World, parts: Settings) -> None:
    """An object that somebody else put there keeps the tenant from being reconciled, and the error says which."""
    tenant = await world.tenant("Foreign")
    await put(world, tenant, "a", 10)
    before = await rows(world)
    body = _UNSPEAKABLE.format(tenant=tenant.id).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    with served(answer) as port, pytest.raises(ConfigurationError, match=f"crawl/{tenant.id}/a//b.*delete it"):
        await world.reconcile(tenant, store=bucket_through(f"http://127.0.0.1:{port}", world, parts))
    assert await rows(world) == before
