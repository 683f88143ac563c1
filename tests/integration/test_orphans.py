"""Objects that nothing refers to, and folders that are no tenant's: told, and removed only when it is still true."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.integration.test_pipeline import some_photos
from tests.integration.test_reconcile import assert_books_equal_s3
from tests.world import ROOMY, World
from vision_assets.clients.postgres.orphans import PostgresOrphans
from vision_assets.clients.postgres.storage import lock_usage
from vision_assets.clients.s3 import S3Bucket
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.errors import ConfigurationError, StorageBusy
from vision_assets.core.guarded_store import SLOT_LIFE, QuotaGuardedStore
from vision_assets.core.object_ledger import Taken
from vision_assets.core.orphans import Orphans, Removed, StrayFolder, remove_orphans, remove_strays, stray_folders
from vision_assets.core.tenants import Tenant, TenantId

CITY = Path(__file__).parents[2] / "examples" / "city_walks"
LATER = timedelta(hours=25)


async def later(world: World) -> None:
    """Let a day go by for everything that is booked."""
    await world.database.pool.execute("UPDATE storage_objects SET recorded_at = recorded_at - $1::interval", LATER)


async def orphans(world: World, tenant: Tenant) -> Sequence[Orphans]:
    """What would be told now."""
    before = datetime.now(UTC) - timedelta(hours=24)
    return await PostgresOrphans(world.database).orphans(tenant.id, before=before)


async def remove(world: World, tenant: Tenant, *, guard: QuotaGuardedStore | None = None) -> Removed:
    """Remove what is an orphan now."""
    return await remove_orphans(tenant.id, guard=guard or world.quota(), ledger=PostgresOrphans(world.database))


async def put(world: World, key: str, size: int) -> str:
    """Put an object that nothing refers to."""
    folder, name, _ = key.split("/", 2)
    content_type: Any = "vision" if folder == "album" else folder
    await world.quota().put(TenantId(UUID(name)), key, bytes(size), content_type=content_type, mime="text/html")
    return key


async def test_what_the_passes_made_is_no_orphan(world: World) -> None:
    """Pictures, results and albums' summaries of a whole export are referred to, however old they are."""
    tenant = await world.tenant("City")
    await world.load(tenant, TelegramExport(CITY))
    await world.store_media(tenant)
    await world.analyse(tenant)
    await world.enrich(tenant)
    keys = await world.keys()
    assert {key.split("/")[0] for key in keys} == {"media", "vision", "album"}
    await later(world)
    assert await orphans(world, tenant) == []
    assert await remove(world, tenant) == Removed()
    assert await world.keys() == keys
    # Results whose rows were lost are no orphans: the next pass over the pictures takes them from S3.
    await world.database.pool.execute("DELETE FROM vision_results")
    assert await orphans(world, tenant) == []
    # Nor is a picture whose row was lost, while a post says that it is stored.
    await world.database.pool.execute("DELETE FROM media_objects")
    assert [found.folder for found in await orphans(world, tenant)] == ["vision"]


async def test_what_a_row_names_is_no_orphan_whatever_its_key(world: World, tmp_path: Path) -> None:
    """A result under a key of another form is kept for the row that names it."""
    tenant = await world.tenant("Odd")
    await world.load(tenant, some_photos(tmp_path / "in", count=1))
    await world.store_media(tenant)
    await world.analyse(tenant)
    odd = await put(world, f"vision/{tenant.id}/odd.json", 5)
    await later(world)
    assert [found.examples for found in await orphans(world, tenant)] == [(odd,)]
    await world.database.pool.execute("UPDATE vision_results SET s3_key = $1", odd)
    assert await orphans(world, tenant) == []


async def test_orphans_are_told_by_folder_and_removed(world: World) -> None:
    """Of each folder what nothing refers to, when it is a day old; crawled pages never, they go by their age."""
    tenant, other = await world.tenant("Litter"), await world.tenant("Neighbour")
    picture, result = sha256(b"1").hexdigest(), sha256(b"2").hexdigest()
    litter = [
        await put(world, f"album/{tenant.id}/{uuid4()}_vision_summary_v1.json", 5),
        await put(world, f"media/{tenant.id}/{picture[:2]}/{picture}.jpg", 30),
        await put(world, f"vision/{tenant.id}/{result}_local_rules-1_v1.0.json", 7),
        await put(world, f"vision/{tenant.id}/something.json", 8),
    ]
    kept = [await put(world, f"crawl/{tenant.id}/page", 9), await put(world, f"media/{other.id}/aa/other.jpg", 10)]
    assert await orphans(world, tenant) == []
    assert await remove(world, tenant) == Removed()
    await later(world)
    young = await put(world, f"media/{tenant.id}/bb/young.jpg", 11)
    told = await orphans(world, tenant)
    assert told == [
        Orphans("album", 1, 5, (litter[0],)),
        Orphans("media", 1, 30, (litter[1],)),
        Orphans("vision", 2, 15, (litter[2], litter[3])),
    ]
    assert (await world.keys()).keys() == {*litter, *kept, young}  # telling removes nothing
    assert await remove(world, tenant) == Removed(4, 50)
    assert (await world.keys()).keys() == {*kept, young}
    assert await orphans(world, tenant) == []
    await assert_books_equal_s3(world)


async def test_more_orphans_than_a_batch(world: World) -> None:
    """Batch after batch, until none is left."""
    tenant = await world.tenant("Much")
    keys = [f"media/{tenant.id}/{number:04}" for number in range(510)]
    await asyncio.gather(*(world.bucket.put(key, b"x", mime="text/html") for key in keys))
    await world.reconcile(tenant)
    await later(world)
    assert await remove(world, tenant) == Removed(510, 510)
    await assert_books_equal_s3(world)


async def test_only_what_was_nominated_is_looked_at_again(world: World) -> None:
    """Nominating needs no turn; under the tenant's lock no other objects are read than a batch's own."""
    tenant = await world.tenant("Batch")
    keys = [await put(world, f"media/{tenant.id}/aa/{name}.jpg", 5) for name in "abc"]
    await later(world)
    ledger, now = PostgresOrphans(world.database), datetime.now(UTC)
    async with world.database.transaction() as connection:
        await lock_usage(connection, [tenant.id])
        assert await ledger.nominated(tenant.id, before=now, per_folder=2) == keys[:2]
    taken = await ledger.take_orphans(tenant.id, keys[1:2], limits=ROOMY, before=now, now=now, until=now + LATER)
    assert [operation.key for operation, _ in taken] == keys[1:2]
    assert await remove(world, tenant) == Removed(2, 10)


async def test_what_is_used_after_it_was_nominated_stays(world: World) -> None:
    """Of a batch that was nominated, what was put again, or is being put, stays; the removal comes to its end."""
    tenant = await world.tenant("Nominated")
    again, being_put, gone = [await put(world, f"album/{tenant.id}/{name}.json", 5) for name in "abc"]
    await later(world)

    @dataclass(frozen=True, slots=True)
    class Interrupted(PostgresOrphans):
        async def nominated(self, tenant_id: TenantId, *, before: datetime, per_folder: int) -> Sequence[str]:
            keys = await PostgresOrphans.nominated(self, tenant_id, before=before, per_folder=per_folder)
            if gone in keys:
                await put(world, again, 6)
                await world.database.pool.execute(
                    "UPDATE storage_objects SET op_id = gen_random_uuid(), op_kind = 'put', op_delta = 0,"
                    " op_until = now() + interval '1 minute' WHERE s3_key = $1",
                    being_put,
                )
            return keys

    ledger = Interrupted(world.database)
    assert await remove_orphans(tenant.id, guard=world.quota(), ledger=ledger) == Removed(1, 5)
    assert await world.keys() == {again: 6, being_put: 5}


async def test_an_object_that_is_referred_to_in_between_stays(world: World, tmp_path: Path) -> None:
    """A picture that was an orphan when it was told, and that a post has brought back since, is not removed."""
    tenant = await world.tenant("Back")
    await world.load(tenant, some_photos(tmp_path / "in", count=2))
    await world.store_media(tenant)
    brought_back, gone = await world.keys("media/")
    pool = world.database.pool
    await pool.execute("UPDATE post_media SET state = 'pending', sha256 = NULL")
    await pool.execute("DELETE FROM media_objects")
    await later(world)
    [told] = await orphans(world, tenant)
    assert told.objects == 2
    # The same picture comes again: the object is counted already, so nothing is uploaded, and it counts as used.
    await pool.execute("DELETE FROM post_media WHERE post_id NOT IN (SELECT post_id FROM post_media LIMIT 1)")
    assert (await world.store_media(tenant)).puts == 0
    [kept] = await pool.fetchval("SELECT array_agg(s3_key) FROM media_objects")
    assert kept in {brought_back, gone}
    stored = await world.bucket.head(kept)
    assert stored is not None
    assert await remove(world, tenant) == Removed(1, told.bytes - stored.bytes)
    assert (await world.keys()).keys() == {kept}
    assert await world.bucket.get(kept) is not None


@dataclass(frozen=True)
class UploadInBetween(S3Bucket):
    """A bucket in which somebody begins to put the same picture just before it is deleted."""

    upload: Any = None
    uploads: list["asyncio.Task[bool]"] = field(default_factory=list)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete, with an upload under way that waits for it."""
        self.uploads.append(asyncio.create_task(self.upload()))
        await asyncio.sleep(0.2)
        assert not self.uploads[0].done()
        await S3Bucket.delete(self, keys)


async def test_an_upload_of_what_is_just_removed_comes_after_it(world: World) -> None:
    """The same object put during its removal waits, and lies in S3 afterwards; it does not take itself for there."""
    tenant = await world.tenant("Race")
    name = sha256(b"picture").hexdigest()
    key = f"media/{tenant.id}/{name[:2]}/{name}.jpg"

    async def upload() -> bool:
        return await world.quota().put(
            tenant.id, key, b"picture", content_type="media", mime="image/jpeg", immutable=True
        )

    assert await upload()
    await later(world)
    guard = world.quota()
    bucket = UploadInBetween(world.bucket.store, upload)
    guard.store = bucket
    assert await remove(world, tenant, guard=guard) == Removed(1, 7)
    assert await bucket.uploads[0] is True
    assert await world.bucket.get(key) == b"picture"
    await assert_books_equal_s3(world)


async def test_a_batch_that_gets_its_turn_too_late_is_not_deleted(world: World) -> None:
    """Orphans whose slots may be lost before S3 is through are not sent for deletion; the next time they go."""
    tenant = await world.tenant("Waited")
    key = await put(world, f"media/{tenant.id}/aa/a.jpg", 10)
    await later(world)
    guard = world.quota()

    @dataclass(frozen=True, slots=True)
    class Slow(PostgresOrphans):
        async def take_orphans(self, *args: Any, **options: Any) -> Sequence[Taken]:
            taken = await PostgresOrphans.take_orphans(self, *args, **options)
            guard.clock = lambda: datetime.now(UTC) + SLOT_LIFE * 0.6
            return taken

    with pytest.raises(StorageBusy):
        await remove_orphans(tenant.id, guard=guard, ledger=Slow(world.database))
    assert (await world.keys()).keys() == {key}
    await assert_books_equal_s3(world)
    assert await remove(world, tenant) == Removed(1, 10)


async def test_strays_are_told_and_removed_by_name(world: World) -> None:
    """Folders of tenants that do not exist are found; those of tenants never are, active or not."""
    tenant, inactive = await world.tenant("Here"), await world.tenant("Inactive")
    await world.database.pool.execute("UPDATE tenants SET active = false WHERE id = $1", inactive.id)
    nobody, legacy = str(uuid4()), f"t{tenant.id}"
    kept = [f"media/{tenant.id}/aa/a.jpg", f"crawl/{inactive.id}/page", f"media/{legacy}/aa/a.jpg"]
    for key in (*kept, f"media/{nobody}/aa/a.jpg", f"album/{nobody}/a"):
        await world.bucket.put(key, b"1234", mime="text/html")
    ledger = PostgresOrphans(world.database)
    told = await stray_folders(world.bucket, ledger)
    assert sorted(told, key=lambda folder: folder.prefix) == sorted(
        [
            StrayFolder(f"album/{nobody}/", nobody),
            StrayFolder(f"media/{nobody}/", nobody),
            StrayFolder(f"media/{legacy}/", legacy),
        ],
        key=lambda folder: folder.prefix,
    )
    store = world.bucket
    assert await remove_strays(nobody, store=store, ledger=ledger, dry_run=False) == Removed()  # they are young
    tomorrow = datetime.now(UTC) + LATER
    assert await remove_strays(nobody, store=store, ledger=ledger, dry_run=True, now=tomorrow) == Removed(2, 8)
    assert len(await world.keys()) == 5
    assert await remove_strays(nobody, store=store, ledger=ledger, dry_run=False, now=tomorrow) == Removed(2, 8)
    assert (await world.keys()).keys() == set(kept)
    with pytest.raises(ConfigurationError, match="is a tenant"):
        await remove_strays(str(inactive.id), store=store, ledger=ledger, dry_run=False, now=tomorrow)
    assert (await world.keys()).keys() == set(kept)


async def test_a_database_without_tenants_makes_nothing_a_stray(world: World) -> None:
    """The wrong database would make every tenant's folder a stray: then nothing is removed."""
    name = str(uuid4())
    await world.bucket.put(f"media/{name}/aa/a.jpg", b"1234", mime="text/html")
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await remove_strays(
            name,
            store=world.bucket,
            ledger=PostgresOrphans(world.database),
            dry_run=False,
            now=datetime.now(UTC) + LATER,
        )
    assert len(await world.keys()) == 1
