"""What was wrong with the storage accounting of the system that this project re-founds: one test for each defect.

What is not here: the defects of its reconciliation (`test_reconcile_defects.py`) and of its token budget.
"""

import asyncio
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.faulty_s3 import faulty_s3
from tests.integration.test_reconcile import bucket_through
from tests.ledgers import MemoryStore
from tests.world import World
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.errors import ConfigurationError, DatabaseConflict, QuotaExceeded, StorageUnavailable
from vision_assets.core.guarded_store import SLOT_LIFE, QuotaGuardedStore
from vision_assets.core.quota import TenantUsage, Usage
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import Tenant
from vision_assets.settings import Settings

CITY = Path(__file__).parents[2] / "examples" / "city_walks"


async def put(world: World, tenant: Tenant, name: str, size: int, *, content_type: ContentType = "crawl") -> bool:
    """Put an object of a size."""
    return await world.quota().put(
        tenant.id, f"{content_type}/{tenant.id}/{name}", bytes(size), content_type=content_type, mime="text/html"
    )


async def usage(world: World, tenant: Tenant) -> TenantUsage:
    """Usage as of now."""
    return await world.quota().current_usage(tenant.id)


def one_photo(folder: Path) -> Path:
    """A folder with one of the example photos."""
    folder.mkdir()
    shutil.copy(min((CITY / "photos").glob("*.jpg")), folder)
    return folder


async def test_the_tenant_limit_blocks(world: World) -> None:
    """The limit of a tenant blocks. There the check failed on a variable that was not set, and failing let it pass."""
    tenant = await world.tenant("Tight")
    world.limits = replace(world.limits, tenant_bytes=100)
    assert await put(world, tenant, "a", 60)
    with pytest.raises(QuotaExceeded) as refused:
        await put(world, tenant, "b", 41)
    assert refused.value.reason == "tenant_limit"
    assert (await world.keys()).keys() == {f"crawl/{tenant.id}/a"}
    assert await put(world, tenant, "b", 40)


async def test_a_put_that_is_repeated_counts_once(world: World) -> None:
    """The same put twice counts once. There every put added its size, so a retry counted twice."""
    tenant = await world.tenant("Retries")
    for _ in range(2):
        await put(world, tenant, "a", 70)
    assert (await usage(world, tenant)).types["crawl"] == Usage(70, 0, 1)
    for _ in range(2):
        await world.quota().update_tenant_usage(tenant.id, f"crawl/{tenant.id}/a", "crawl", 70)
    assert (await usage(world, tenant)).types["crawl"] == Usage(70, 0, 1)


async def test_an_overwrite_counts_the_difference(world: World) -> None:
    """What lies there counts, not all that was ever put, and an overwrite needs room for its growth alone."""
    tenant = await world.tenant("Overwrites")
    world.limits = replace(world.limits, tenant_bytes=100)
    for size in (60, 90, 100, 20):
        await put(world, tenant, "a", size)
        assert (await usage(world, tenant)).types["crawl"] == Usage(size, 0, 1)


async def test_a_delete_counts_down(world: World) -> None:
    """A deleted object makes room. There usage only ever grew."""
    tenant = await world.tenant("Deletes")
    world.limits = replace(world.limits, tenant_bytes=100)
    await put(world, tenant, "a", 100)
    for _ in range(2):
        await world.quota().delete(tenant.id, [(f"crawl/{tenant.id}/a", "crawl")])
        assert (await usage(world, tenant)).types["crawl"] == Usage(0, 0, 0)
    assert await put(world, tenant, "b", 100)


async def test_pictures_count(world: World, tmp_path: Path) -> None:
    """Uploads of pictures count as media. There they never did."""
    tenant = await world.tenant("Pictures")
    await world.load(tenant, one_photo(tmp_path / "in"))
    await world.store_media(tenant)
    [size] = (await world.keys("media/")).values()
    assert (await usage(world, tenant)).types["media"] == Usage(size, 0, 1)


async def test_album_summaries_count_as_vision(world: World) -> None:
    """Objects below `album/` count. There they never did, as the table knows no such type."""
    tenant = await world.tenant("Albums")
    await world.load(tenant, TelegramExport(CITY))
    await world.store_media(tenant)
    await world.enrich(tenant)
    summaries = await world.keys("album/")
    assert len(summaries) == 2
    assert (await usage(world, tenant)).types["vision"] == Usage(sum(summaries.values()), 0, 2)


async def test_uploads_at_once_keep_the_limit(world: World, database: str) -> None:
    """Of uploads at once, by processes that know nothing of each other, no more go through than there is room for.

    There each looked first and counted afterwards, so all of them saw the same room.
    """
    tenants = [await world.tenant("Racer"), await world.tenant("Other racer")]
    world.limits = replace(world.limits, tenant_bytes=500, bucket_bytes=850)

    async def process(number: int) -> list[bool]:
        tenant = tenants[number % 2]
        async with Database.open(database, max_size=2) as own:
            guard = QuotaGuardedStore(world.bucket, PostgresStorage(own), world.limits)
            keys = [f"crawl/{tenant.id}/{number}-{n}" for n in range(4)]
            puts = (guard.put(tenant.id, key, bytes(50), content_type="crawl", mime="text/html") for key in keys)
            return [outcome is True for outcome in await asyncio.gather(*puts, return_exceptions=True)]

    sent = await asyncio.gather(*(process(number) for number in range(8)))
    assert sum(map(sum, sent)) == 850 // 50
    assert sum((await world.keys()).values()) == 850
    found = await usage(world, tenants[0])
    assert found.everyone["crawl"] == Usage(850, 0, 17)


async def test_what_a_dead_worker_held_comes_back(world: World) -> None:
    """A worker that dies in the middle holds its room until its time is up, and then S3 is asked what it did."""
    tenant = await world.tenant("Dead")

    class Died(BaseException):
        """As a kill does, it passes by everything."""

    class Dies(MemoryStore):
        async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
            if key.endswith("after"):
                await world.bucket.put(key, body, mime=mime)
            raise Died

    mortal = QuotaGuardedStore(Dies(), PostgresStorage(world.database), world.limits)
    for name in ("before", "after"):
        key = f"crawl/{tenant.id}/{name}"
        with pytest.raises(Died):
            await mortal.put(tenant.id, key, bytes(100), content_type="crawl", mime="text/html")
    assert (await usage(world, tenant)).types["crawl"] == Usage(0, 200, 0)
    assert (await world.quota().sweep(tenant.id)).verified == ()
    later = world.quota()
    later.clock = lambda: datetime.now(UTC) + SLOT_LIFE
    swept = await later.sweep(tenant.id)
    assert {(one.key.rsplit("/", 1)[1], one.after_bytes) for one in swept.verified} == {
        ("before", None),
        ("after", 100),
    }
    assert (await usage(world, tenant)).types["crawl"] == Usage(100, 0, 1)


async def test_tenants_with_the_same_file_share_nothing(world: World, tmp_path: Path) -> None:
    """Two tenants with the same picture have an object each; deleting one leaves the other, and its usage.

    There the registry's key was the hash alone: both had one object, and the first to delete it took both.
    """
    one, other = await world.tenant("One"), await world.tenant("Other")
    folder = one_photo(tmp_path / "in")
    for tenant in (one, other):
        await world.load(tenant, folder)
        assert (await world.store_media(tenant)).puts == 1
    keys = await world.keys("media/")
    assert len(keys) == 2
    [size] = set(keys.values())
    [own] = [key for key in keys if str(one.id) in key]
    await world.quota().delete(one.id, [(own, "media")])
    assert (await world.keys("media/")).keys() == keys.keys() - {own}
    assert (await usage(world, one)).types["media"] == Usage(0, 0, 0)
    assert (await usage(world, other)).types["media"] == Usage(size, 0, 1)


async def test_no_check_relies_on_a_cache(world: World) -> None:
    """What one worker has filled, another one knows at once. There each kept the figures for minutes."""
    tenant = await world.tenant("Cached")
    world.limits = replace(world.limits, tenant_bytes=100)
    worker = world.quota()
    assert (await worker.get_tenant_usage(tenant.id)).types["crawl"].total_bytes == 0
    assert (await worker.check_quota_before_upload(tenant.id, 100, "crawl")).allowed
    await put(world, tenant, "a", 100)
    assert not (await worker.check_quota_before_upload(tenant.id, 1, "crawl")).allowed
    with pytest.raises(QuotaExceeded):
        await worker.put(tenant.id, f"crawl/{tenant.id}/b", b"1", content_type="crawl", mime="text/html")


async def test_refused_and_failed_puts_count_nothing(world: World) -> None:
    """Neither a put that the quota refuses nor one that S3 refuses counts or holds anything; refusals are counted."""
    tenant = await world.tenant("Denied")
    world.limits = replace(world.limits, tenant_bytes=100)
    with pytest.raises(QuotaExceeded):
        await put(world, tenant, "a", 101)
    broken = QuotaGuardedStore(MemoryStore(broken={"put"}), PostgresStorage(world.database), world.limits)
    with pytest.raises(StorageUnavailable):
        await broken.put(tenant.id, f"crawl/{tenant.id}/b", b"1", content_type="crawl", mime="text/html")
    found = await usage(world, tenant)
    assert found.types["crawl"] == found.everyone["crawl"] == Usage(0, 0, 0)
    assert not (await world.quota().check_quota_before_upload(tenant.id, 101, "crawl")).allowed
    counted = "SELECT labels, value FROM counters WHERE name = 'storage_quota_violations_total'"
    assert [tuple(row) for row in await world.database.pool.fetch(counted)] == [({"reason": "tenant_limit"}, 2)]


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_waiting_too_long_is_no_reason_to_let_go(world: World, database: str, setting: str) -> None:
    """A check that has to wait too long for others fails; only a ledger that is down lets uploads go on."""
    tenant = await world.tenant("Waiting")
    other = await asyncpg.connect(database)
    async with other.transaction(), asyncpg.create_pool(database, min_size=1, server_settings={setting: "200"}) as pool:
        await other.fetch("SELECT FROM tenant_storage_usage WHERE tenant_id = $1 FOR UPDATE", tenant.id)
        ledger = PostgresStorage(Database(pool, patience_seconds=60))
        guard = QuotaGuardedStore(world.bucket, ledger, world.limits)
        with pytest.raises(DatabaseConflict):
            await guard.put(tenant.id, f"crawl/{tenant.id}/a", b"1", content_type="crawl", mime="text/html")
    await other.close()
    assert await world.keys() == {}


@pytest.mark.slow
async def test_a_frozen_process_does_not_stop_the_uploads(world: World) -> None:
    """Whoever stops in the middle of a transaction, with the tenant's lock, loses his turn; the others go on."""
    tenant = await world.tenant("Waiting")
    async with world.database.pool.acquire() as frozen:
        await frozen.execute("BEGIN")
        await frozen.fetch("SELECT FROM tenant_storage_usage WHERE tenant_id = $1 FOR UPDATE", tenant.id)
        async with asyncio.timeout(28):
            await put(world, tenant, "a", 1)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await frozen.execute("COMMIT")
    assert len(await world.keys()) == 1


async def test_a_bucket_that_does_not_exist_has_lost_nothing(world: World, parts: Settings) -> None:
    """With a wrong S3_BUCKET nothing counts as gone: what S3 tells of one object it would tell of each."""
    tenant = await world.tenant("Elsewhere")
    for name in ("a", "b"):
        await put(world, tenant, name, 10)
    keys = [f"crawl/{tenant.id}/{name}" for name in ("a", "b")]
    elsewhere = world.quota()
    elsewhere.store = bucket_through(parts.s3_endpoint_url or "", world, parts, bucket="no-such-bucket")
    with pytest.raises(ConfigurationError, match="S3_BUCKET"):
        await elsewhere.delete(tenant.id, [(keys[0], "crawl")])
    elsewhere.clock = lambda: datetime.now(UTC) + SLOT_LIFE
    with pytest.raises(ConfigurationError, match="S3_BUCKET"):
        await elsewhere.sweep(tenant.id)
    with pytest.raises(ConfigurationError, match="S3_BUCKET"):
        await elsewhere.verify(tenant.id, [(keys[1], "crawl")])
    assert (await usage(world, tenant)).types["crawl"] == Usage(20, 0, 2)


async def test_a_bucket_is_made_sure_of_once(world: World, parts: Settings) -> None:
    """Only the first object that a client does not find costs another request."""
    with faulty_s3(urlsplit(parts.s3_endpoint_url or "").port or 0) as proxy:
        store = bucket_through(proxy.url, world, parts)
        assert [await store.head(f"crawl/{number}") for number in range(3)] == [None] * 3
        assert (proxy.seen["head"], proxy.seen["list"]) == (3, 1)
