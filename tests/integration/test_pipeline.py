"""What the passes leave behind in Postgres and S3."""

import asyncio
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import obstore
import pytest

from tests.conftest import cloned, new_bucket
from tests.ledgers import MemoryStore
from tests.world import World, open_world
from vision_assets.clients.media_files import LocalFiles
from vision_assets.clients.postgres.enrichment import PostgresEnrichment
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.enrichment import Enrichment, EnrichmentPass
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.guarded_store import SLOT_LIFE, QuotaGuardedStore
from vision_assets.core.reconcile import content_type_of
from vision_assets.core.storage import album_key
from vision_assets.core.tenants import TenantId
from vision_assets.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"
CITY = EXAMPLES / "city_walks"
EXPORTS = {"City Walks": CITY, "Dev Digest": EXAMPLES / "dev_digest"}


def some_photos(folder: Path, *, count: int) -> Path:
    """A folder with a few of the example photos."""
    folder.mkdir()
    for path in sorted((CITY / "photos").glob("*.jpg"))[:count]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def filled(server: str, template: str, parts: Settings) -> Iterator[tuple[str, str]]:
    """A database and a bucket in which both examples went through every pass, once for all tests that only look."""

    async def fill(database_url: str, bucket: str) -> None:
        async with open_world(database_url, bucket, parts) as world:
            for name, export in EXPORTS.items():
                tenant = await world.tenant(name)
                await world.load(tenant, TelegramExport(export))
                await world.store_media(tenant)
                await world.analyse(tenant)
                await world.enrich(tenant)

    bucket = new_bucket(parts)
    for database_url in cloned(server, template):
        asyncio.run(fill(database_url, bucket))
        yield database_url, bucket


@pytest.fixture
async def full(filled: tuple[str, str], parts: Settings) -> AsyncIterator[World]:
    """The world after every pass; for looking only."""
    async with open_world(*filled, parts) as opened:
        yield opened


async def test_layout_in_s3(full: World) -> None:
    """Media lie under their hash, results as gzip JSON with Content-Encoding, in exactly the documented form."""
    tenant = await full.tenant("City Walks")
    media = await full.keys(f"media/{tenant.id}/")
    vision = await full.keys(f"vision/{tenant.id}/")
    assert media
    assert vision
    for key in media:
        match = re.fullmatch(rf"media/{tenant.id}/([0-9a-f]{{2}})/([0-9a-f]{{64}})\.(jpg|png|webp|gif)", key)
        assert match, key
        assert match[2].startswith(match[1])
        body = await full.bucket.get(key)
        assert body is not None
        assert hashlib.sha256(body).hexdigest() == match[2]
    for key in vision:
        match = re.fullmatch(rf"vision/{tenant.id}/([0-9a-f]{{64}})_local_rules-1_v1\.0\.json", key)
        assert match, key
        response = await obstore.get_async(full.bucket.store, key)
        assert response.attributes["Content-Encoding"] == "gzip"
        assert response.attributes["Content-Type"] == "application/json"
        document = json.loads(gzip.decompress(bytes(await response.bytes_async())))
        assert document["sha256"] == match[1]
        assert document["tenant_id"] == str(tenant.id)


async def test_tenants_share_nothing(full: World) -> None:
    """The same picture in two tenants is two objects and two results; no row and no key is shared."""
    first, second = await full.tenant("City Walks"), await full.tenant("Dev Digest")
    shared = await full.database.pool.fetch(
        "SELECT a.sha256, a.s3_key AS one, b.s3_key AS other FROM media_objects a JOIN media_objects b"
        " ON a.sha256 = b.sha256 AND a.tenant_id = $1 AND b.tenant_id = $2",
        first.id,
        second.id,
    )
    assert len(shared) == 2
    keys = await full.keys()
    for row in shared:
        assert row["one"] != row["other"]
        assert {row["one"], row["other"]} <= keys.keys()
    results = await full.database.pool.fetch(
        "SELECT tenant_id, s3_key, donor_sha256 FROM vision_results WHERE sha256 = ANY($1)",
        [row["sha256"] for row in shared],
    )
    assert len(results) == 4
    assert len({row["s3_key"] for row in results}) == 4
    assert all(str(row["tenant_id"]) in row["s3_key"] for row in results)
    assert all(str(first.id) in key or str(second.id) in key for key in keys)


async def test_second_run_does_nothing(full: World) -> None:
    """Everything again: no put, no analysis, no row changed."""
    tenant = await full.tenant("City Walks")
    keys, rows = await full.keys(), await all_rows(full)
    again = await full.load(tenant, TelegramExport(CITY))
    assert (again.posts_new, again.media_new) == (0, 0)
    assert (await full.store_media(tenant)).puts == 0
    seen = await full.analyse(tenant)
    assert (seen.analyses, seen.puts) == (0, 0)
    assert (await full.enrich(tenant)).statuses.total() == 0
    assert await full.keys() == keys
    assert await all_rows(full) == rows


async def all_rows(world: World) -> dict[str, list[str]]:
    """The rows that passes write."""
    return {
        table: [str(row) for row in await world.database.pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")]  # noqa: S608
        for table in ("posts", "post_media", "media_objects", "phash_index", "vision_results", "post_enrichment")
    }


async def test_near_duplicates_are_reused(full: World) -> None:
    """Exactly the re-encoded and resized copies take the earlier picture's result; crops and changed numbers do not."""
    rows = await full.database.pool.fetch(
        "SELECT t.name, own.message_id AS copy, donor.message_id AS original, r.provenance, r.donor_sha256"
        " FROM vision_results r JOIN tenants t ON t.id = r.tenant_id"
        " JOIN post_media own ON own.tenant_id = r.tenant_id AND own.sha256 = r.sha256"
        " JOIN post_media donor ON donor.tenant_id = r.tenant_id AND donor.sha256 = r.donor_sha256"
        " WHERE r.method = 'near_duplicate'"
    )
    assert {(row["name"], row["copy"], row["original"]) for row in rows} == {
        ("City Walks", 18, 3),
        ("City Walks", 26, 5),
        ("Dev Digest", 16, 11),
    }
    assert all(row["provenance"]["donor_sha256"] == row["donor_sha256"] for row in rows)


async def test_lost_rows_are_restored_from_s3(world: World, tmp_path: Path) -> None:
    """A crash between the put and the row costs no second analysis: the result in S3 becomes the row again."""
    tenant = await world.tenant("Crash")
    await world.load(tenant, some_photos(tmp_path / "in", count=3))
    await world.store_media(tenant)
    first = await world.analyse(tenant)
    rows = await world.database.pool.fetch("SELECT * FROM vision_results ORDER BY sha256")
    await world.database.pool.execute("DELETE FROM vision_results")
    again = await world.analyse(tenant)
    assert again.analyses == 0
    assert again.methods == {"cache_hit": first.statuses.total()}
    assert await world.database.pool.fetch("SELECT * FROM vision_results ORDER BY sha256") == rows


async def test_unreadable_result_is_made_anew(world: World, tmp_path: Path) -> None:
    """A damaged object in the result cache is not an answer: the picture is analysed again and the object replaced."""
    tenant = await world.tenant("Damaged")
    await world.load(tenant, some_photos(tmp_path / "in", count=1))
    await world.store_media(tenant)
    await world.analyse(tenant)
    key = next(iter(await world.keys("vision/")))
    damaged = bytearray(await world.bucket.get(key) or b"")
    damaged[len(damaged) // 2] ^= 0xFF
    await world.bucket.put(key, bytes(damaged), mime="application/json")
    await world.database.pool.execute("DELETE FROM vision_results")
    assert (await world.analyse(tenant)).analyses == 1
    body = await world.bucket.get(key)
    assert body is not None
    assert gzip.decompress(body)


async def test_usage_counts_each_object_once(full: World) -> None:
    """Usage equals the bucket's listing, without a reconciliation and after one; a put said twice counts once."""
    tenant = await full.tenant("City Walks")
    keys = await full.keys()
    counted = (
        "SELECT sum(total_bytes)::bigint AS bytes, sum(objects_count)::bigint AS objects FROM tenant_storage_usage"
    )
    expected = (sum(keys.values()), len(keys))
    assert tuple(*await full.database.pool.fetch(counted)) == expected
    quota = full.quota()
    key, size = next(iter(keys.items()))
    await quota.update_tenant_usage(tenant.id, key, content_type_of(key), size)
    assert tuple(*await full.database.pool.fetch(counted)) == expected
    report = await full.reconcile(tenant)
    assert not any(drift.objects for drift in report.drift.values())
    assert tuple(*await full.database.pool.fetch(counted)) == expected


async def test_quota_blocks_and_lets_go(world: World, tmp_path: Path) -> None:
    """A put over the tenant's limit is blocked with figures and stays to do; with more room the next pass makes it."""
    tenant = await world.tenant("Tight")
    folder = some_photos(tmp_path / "in", count=4)
    await world.load(tenant, folder)
    sizes = sorted(path.stat().st_size for path in folder.iterdir())
    roomy = world.limits
    world.limits = replace(roomy, tenant_bytes=sum(sizes) - 1)
    blocked = await world.store_media(tenant)
    assert blocked.reasons["tenant_limit"] >= 1
    assert sum((await world.keys("media/")).values()) <= world.limits.tenant_bytes
    [row] = await world.database.pool.fetch("SELECT reason, error FROM post_media WHERE state = 'blocked' LIMIT 1")
    assert row["reason"] == "tenant_limit"
    assert str(world.limits.tenant_bytes) in row["error"]
    world.limits = roomy
    assert (await world.store_media(tenant)).states == {"stored": blocked.states["blocked"]}
    assert len(await world.keys("media/")) == 4


async def test_blocked_result_is_kept_in_postgres(world: World, tmp_path: Path) -> None:
    """A result that the quota keeps out of S3 is not lost: its row has it, and it is put when there is room."""
    tenant = await world.tenant("Paid for")
    await world.load(tenant, some_photos(tmp_path / "in", count=1))
    await world.store_media(tenant)
    roomy = world.limits
    world.limits = replace(roomy, type_bytes={**roomy.type_bytes, "vision": 1})
    await world.analyse(tenant)
    [row] = await world.database.pool.fetch("SELECT s3_key, reason, result FROM vision_results")
    assert (row["s3_key"], row["reason"]) == (None, "type_limit")
    assert row["result"]["classification"]
    assert await world.keys("vision/") == {}
    world.limits = roomy
    later = await world.analyse(tenant)
    assert (later.analyses, later.puts) == (0, 1)
    [later_row] = await world.database.pool.fetch("SELECT s3_key, reason, result FROM vision_results")
    assert {later_row["s3_key"]} == (await world.keys("vision/")).keys()
    assert later_row["result"] == row["result"]
    assert (await world.analyse(tenant)).puts == 0


async def test_blocked_summary_comes_later(world: World) -> None:
    """An album's summary that the quota blocks is put by a later pass; the row is there at once."""
    tenant = await world.tenant("Album")
    await world.load(tenant, TelegramExport(CITY))
    roomy = world.limits
    await world.store_media(tenant)
    world.limits = replace(roomy, type_bytes={**roomy.type_bytes, "vision": 1})
    first = await world.enrich(tenant)
    assert first.statuses.total() > 0
    assert first.albums == 0
    world.limits = roomy
    assert (await world.enrich(tenant)).albums == 2
    assert (await world.enrich(tenant)).statuses.total() == 0


class Deleting(PostgresEnrichment):
    """Has a post deleted after it was read."""

    async def record(self, tenant_id: TenantId, rows: Sequence[Enrichment]) -> None:
        """Write late."""
        await self.database.pool.execute("DELETE FROM posts WHERE id = $1", rows[0].post_id)
        await super().record(tenant_id, rows)


async def test_a_post_that_is_deleted_while_it_is_enriched_is_left_out(world: World, tmp_path: Path) -> None:
    """The others of its page have their rows."""
    tenant = await world.tenant("Deleting")
    await world.load(tenant, some_photos(tmp_path / "in", count=3))
    await world.store_media(tenant)
    one_pass = EnrichmentPass(
        tenant_id=tenant.id,
        provider=world.provider.name,
        model=world.provider.model,
        quota=world.quota(),
        ledger=Deleting(world.database),
    )
    await one_pass.enrich_posts()
    assert await world.database.pool.fetchval("SELECT count(*) FROM post_enrichment") == 2


async def test_lost_object_is_stored_again(world: World, tmp_path: Path) -> None:
    """A picture whose object is gone from S3 is stored again from its source, and then analysed."""
    tenant = await world.tenant("Lost")
    await world.load(tenant, some_photos(tmp_path / "in", count=2))
    await world.store_media(tenant)
    lost, kept = sorted(await world.keys("media/"))
    await obstore.delete_async(world.bucket.store, lost)
    first = await world.analyse(tenant)
    assert (first.reasons["missing"], first.analyses) == (1, 1)
    assert (await world.store_media(tenant)).puts == 1
    assert (await world.keys("media/")).keys() == {lost, kept}
    assert (await world.analyse(tenant)).analyses == 1
    open_letters = "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL"
    assert await world.database.pool.fetchval(open_letters) == 0
    report = await world.reconcile(tenant)
    assert report.nominated == 0


async def test_missing_bucket_is_not_an_empty_one(database: str, parts: Settings) -> None:
    """A bucket that does not exist is a wrong setting, not a bucket without the object."""
    async with open_world(database, "no-such-bucket", parts) as elsewhere:
        with pytest.raises(ConfigurationError, match="S3_BUCKET"):
            await elsewhere.bucket.get("media/x")
        with pytest.raises(ConfigurationError, match="S3_BUCKET"):
            await elsewhere.bucket.put("media/x", b"", mime="image/png")


@dataclass
class BuggySource:
    """A source that fails for one picture in a way that nobody thought of."""

    victim: str

    async def read(self, source_uri: str, *, limit_bytes: int) -> bytes:
        """Read as ever, but for the victim."""
        if source_uri.endswith(self.victim):
            raise ZeroDivisionError("nobody thought of it")
        return await LocalFiles().read(source_uri, limit_bytes=limit_bytes)


async def test_one_unforeseen_error_does_not_lose_the_page(world: World, tmp_path: Path) -> None:
    """The other pictures of the page are stored and recorded; the failed one is named and stays to do."""
    tenant = await world.tenant("Unforeseen")
    folder = some_photos(tmp_path / "in", count=3)
    victim = min(path.name for path in folder.iterdir())
    victim_uri = (folder / victim).as_uri()
    await world.load(tenant, folder)
    one_pass = world.media_pass(tenant)
    one_pass.source = BuggySource(victim_uri.rsplit("/", 1)[1])
    report = await one_pass.store_media()
    assert report.states == {"stored": 2}
    [failure] = report.failures
    assert victim_uri in failure
    assert "ZeroDivisionError" in failure
    assert (await world.store_media(tenant)).states == {"stored": 1}


async def test_albums_are_one_row_and_one_summary(full: World) -> None:
    """An album is one post: one row, one summary in S3; its broken picture holds nobody up."""
    rows = await full.database.pool.fetch(
        "SELECT e.data, e.status FROM post_enrichment e JOIN posts p ON p.id = e.post_id WHERE p.grouped_id IS NOT NULL"
    )
    assert rows
    summaries = await full.keys("album/")
    assert {row["data"]["album_summary_s3_key"] for row in rows} == summaries.keys()
    broken = [row for row in rows if any(medium["state"] == "rejected" for medium in row["data"]["media"])]
    assert broken
    assert all(row["status"] == "partial" and row["data"]["s3_keys_list"] for row in broken)


async def test_an_album_whose_summary_is_held_up_stays_to_do(world: World) -> None:
    """Somebody has its key, and died or is at it still: the row is there, and the summary comes later."""
    tenant = await world.tenant("Albums")
    await world.load(tenant, TelegramExport(CITY))
    await world.store_media(tenant)
    [album, *_] = await world.database.pool.fetch("SELECT id FROM posts WHERE grouped_id IS NOT NULL ORDER BY seq")
    key = album_key(tenant.id, album["id"])

    class Dies(MemoryStore):
        async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
            raise asyncio.CancelledError

    mortal = QuotaGuardedStore(Dies(), PostgresStorage(world.database), world.limits)
    with pytest.raises(asyncio.CancelledError):
        await mortal.put(tenant.id, key, b"{}", content_type="vision", mime="application/json")

    def enriching() -> EnrichmentPass:
        quota = world.quota()
        quota.patience_seconds = 0
        ledger = PostgresEnrichment(world.database)
        return EnrichmentPass(tenant.id, world.provider.name, world.provider.model, quota, ledger)

    report = await enriching().enrich_posts()
    assert (report.albums, report.has_more, report.failures) == (1, True, [])
    assert report.statuses.total() == await world.database.pool.fetchval("SELECT count(*) FROM post_enrichment")
    later = world.quota()
    later.clock = lambda: datetime.now(UTC) + SLOT_LIFE
    await later.sweep(tenant.id)
    report = await enriching().enrich_posts()
    assert (report.albums, report.has_more) == (1, False)
    assert key in await world.keys("album/")


async def test_hashes_of_another_algorithm_are_made_again(world: World, tmp_path: Path) -> None:
    """`phash_index` alone reads from S3 what lacks a hash of the present algorithm, and only that."""
    tenant = await world.tenant("Rehash")
    await world.load(tenant, some_photos(tmp_path / "in", count=3))
    await world.store_media(tenant)
    hashes = "SELECT sha256, algorithm, phash, phash256, thumbnail, quality, flags FROM phash_index ORDER BY sha256"
    before = await world.database.pool.fetch(hashes)
    await world.database.pool.execute(
        "UPDATE phash_index SET algorithm = 'older', phash = 0, quality = null WHERE sha256 = $1", before[1]["sha256"]
    )
    assert (await world.media_pass(tenant).hash_stored_media()).hashed == 1
    assert await world.database.pool.fetch(hashes) == before
