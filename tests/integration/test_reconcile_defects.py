"""The original system's defects of the recount, each as a test that would have caught it.

What is not here: those of the checks before an upload and of the counting of single uploads (`test_quota_defects.py`).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faulty_s3 import Fault, faulty_s3
from tests.integration.test_pipeline import some_photos
from tests.integration.test_reconcile import (
    Meanwhile,
    assert_books_equal_s3,
    behind_the_back,
    bucket_through,
    found,
    put,
)
from tests.world import World
from vision_assets.clients.postgres.orphans import PostgresOrphans
from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.orphans import remove_orphans
from vision_assets.core.reconcile import Drift
from vision_assets.core.tenants import Tenant
from vision_assets.settings import Settings


async def used(world: World, tenant: Tenant) -> dict[str, tuple[int, int]]:
    """Bytes and objects by type, as every reader of the table sees them."""
    rows = await world.database.pool.fetch(
        "SELECT content_type, total_bytes, objects_count FROM tenant_storage_usage WHERE tenant_id = $1", tenant.id
    )
    return {row["content_type"]: (row["total_bytes"], row["objects_count"]) for row in rows}


async def test_recount_looks_where_the_writers_write(world: World, tmp_path: Path) -> None:
    """The original listed `media/t{tenant}/` while writers used `media/{tenant}/`, and set every usage to 0."""
    tenant = await world.tenant("Prefix")
    await world.load(tenant, some_photos(tmp_path / "in", count=2))
    await world.store_media(tenant)
    await world.analyse(tenant)
    before = await used(world, tenant)
    assert before["media"][1] == before["vision"][1] == 2
    report = await world.reconcile(tenant)
    assert (report.listed_objects, report.nominated) == (4, 0)
    assert await used(world, tenant) == before


async def test_prefix_of_a_tenant_is_not_that_of_another(world: World) -> None:
    """What lies under the original's `media/t{tenant}/` is not the tenant's, and does not count as such."""
    tenant = await world.tenant("Letter")
    await world.bucket.put(f"media/t{tenant.id}/aa/a.jpg", b"1234", mime="image/jpeg")
    assert (await world.reconcile(tenant)).listed_objects == 0


async def test_failed_listing_is_not_an_empty_bucket(world: World, parts: Settings) -> None:
    """The original took a listing that failed for an empty one; here the figures stay, and so does their age."""
    tenant = await world.tenant("Down")
    for folder in ("media", "vision", "crawl"):
        await put(world, tenant, "a", 10, folder=folder)
    before = await used(world, tenant)
    with faulty_s3(urlsplit(parts.s3_endpoint_url or "").port or 0) as proxy:
        proxy.set_faults([Fault("list", "refuse")])
        with pytest.raises(StorageUnavailable):
            await world.reconcile(tenant, store=bucket_through(proxy.url, world, parts))
    assert await used(world, tenant) == before
    assert await world.database.pool.fetchval("SELECT count(reconciled_at) FROM tenant_storage_usage") == 0


async def test_bucket_that_does_not_exist_is_not_an_empty_one(world: World, parts: Settings) -> None:
    """A wrong S3_BUCKET is a setting to correct, not a tenant who has deleted everything."""
    tenant = await world.tenant("Elsewhere")
    await put(world, tenant, "a", 10)
    elsewhere = bucket_through(parts.s3_endpoint_url or "", world, parts, bucket="no-such-bucket")
    with pytest.raises(ConfigurationError, match="S3_BUCKET"):
        await world.reconcile(tenant, store=elsewhere)
    assert (await used(world, tenant))["crawl"] == (10, 1)


async def test_upload_during_the_recount_is_not_lost(world: World) -> None:
    """The original overwrote usage with a listing that was older than the uploads of the meantime."""
    tenant = await world.tenant("Meanwhile")

    async def upload() -> None:
        await put(world, tenant, "new", 123)

    report = await world.reconcile(tenant, store=Meanwhile(world.bucket, upload))
    assert found(report) == {}
    assert (await used(world, tenant))["crawl"] == (123, 1)


async def test_object_that_is_listed_and_deleted_meanwhile_does_not_come_back(world: World) -> None:
    """A delete that the listing did not see any more is not undone in the books."""
    tenant = await world.tenant("Gone")
    key = await put(world, tenant, "a", 10)

    async def delete() -> None:
        await world.quota().delete(tenant.id, [(key, "crawl")])

    assert found(await world.reconcile(tenant, store=Meanwhile(world.bucket, delete))) == {}
    assert (await used(world, tenant))["crawl"] == (0, 0)


async def test_negative_drift_is_shown_and_not_clamped(world: World) -> None:
    """The original clamped usage at 0, so that nobody saw how much the books had too much."""
    tenant = await world.tenant("Negative")
    gone, shrunk = await put(world, tenant, "gone", 1000), await put(world, tenant, "shrunk", 500)
    await behind_the_back(world, gone, None)
    await behind_the_back(world, shrunk, 100)
    report = await world.reconcile(tenant)
    assert found(report) == {"missing": Drift(1, -1000, (gone,)), "wrong_size": Drift(1, -400, (shrunk,))}
    assert (await used(world, tenant))["crawl"] == (100, 1)


async def test_retries_and_overwrites_need_no_correction(world: World) -> None:
    """The original added the size on every put; the recount had to take off what was counted twice."""
    tenant = await world.tenant("Again")
    for size in (10, 10, 25, 5):
        await put(world, tenant, "a", size)
        await put(world, tenant, "b", size, folder="album")
    report = await world.reconcile(tenant)
    assert (report.listed_bytes, report.nominated) == (10, 0)
    assert await used(world, tenant) == {"media": (0, 0), "vision": (5, 1), "crawl": (5, 1)}


async def test_stale_report_does_not_delete_live_originals(world: World, tmp_path: Path) -> None:
    """What was an orphan in yesterday's report, and is referred to today, is not removed by it."""
    tenant = await world.tenant("Report")
    await world.load(tenant, some_photos(tmp_path / "in", count=1))
    await world.store_media(tenant)
    pool = world.database.pool
    await pool.execute("UPDATE post_media SET state = 'pending', sha256 = NULL")
    await pool.execute("DELETE FROM media_objects")
    await pool.execute("UPDATE storage_objects SET recorded_at = now() - interval '3 days'")
    ledger = PostgresOrphans(world.database)
    [reported] = await ledger.orphans(tenant.id, before=datetime.now(UTC) - timedelta(hours=24))
    assert reported.objects == 1
    await world.store_media(tenant)
    removed = await remove_orphans(tenant.id, guard=world.quota(), ledger=ledger)
    assert removed.objects == 0
    assert await world.bucket.get(reported.examples[0]) is not None
    await assert_books_equal_s3(world)
