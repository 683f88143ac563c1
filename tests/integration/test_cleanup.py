"""What a clean-up removes from S3 and the books, and what it leaves."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.cleaning import DAILY, Cleaning, down_to, sha256_of
from tests.world import World
from vision_assets.clients.postgres.cleanup import PostgresCleanup
from vision_assets.core.cleanup import CleanupReport, emergency_plan
from vision_assets.core.errors import CleanupUnderWay


@pytest.fixture
def cleaning(world: World) -> Cleaning:
    """Clean-ups of this test's world."""
    return Cleaning(world)


def by_class(report: CleanupReport) -> dict[str, tuple[int, int, int]]:
    """What was removed: tenants, objects, bytes."""
    return {total.name: (total.tenants, total.objects, total.bytes) for total in report.totals() if total.objects}


async def everything(cleaning: Cleaning) -> list[str]:
    """All rows that a clean-up might change, and all objects."""
    tables = ("storage_objects", "media_objects", "vision_results", "post_enrichment", "counters")
    rows = [await cleaning.world.database.pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]  # noqa: S608
    return [*map(str, rows), str(await cleaning.world.keys())]


async def test_daily_removes_what_has_outlived_its_time(cleaning: Cleaning) -> None:
    """Crawled pages of 7 days, results and summaries of 14, unused pictures of 30; younger ones stay."""
    tenant = await cleaning.world.tenant("Daily")
    stay = {
        await cleaning.put_page(tenant, "young.html", days=6.9),
        await cleaning.put(tenant, "vision/young.json", "vision", days=13.9),
        await cleaning.put_picture(tenant, "young", days=29.9),
    }
    await cleaning.put_page(tenant, "old.html", days=7.1)
    await cleaning.put(tenant, "vision/old.json", "vision", days=14.1)
    await cleaning.put(tenant, "album/old.json", "vision", days=14.1)
    await cleaning.put_picture(tenant, "old", days=30.1)
    report = await cleaning.run()
    assert (await cleaning.world.keys()).keys() == stay
    assert by_class(report) == {"crawl": (1, 1, 10), "vision": (1, 2, 20), "media": (1, 1, 10)}
    assert not report.failures
    assert report.taken_before_bytes - report.taken_after_bytes == 40
    await cleaning.assert_books_are_true()


async def test_referenced_pictures_stay_for_ever(cleaning: Cleaning) -> None:
    """What a post refers to stays, whatever its age and however full the bucket; also without a row in the registry."""
    tenant = await cleaning.world.tenant("Referenced")
    stay = {await cleaning.put_picture(tenant, name, days=4_000) for name in ("a", "b")}
    for name in ("a", "b"):
        await cleaning.refer(tenant, name)
    await cleaning.world.database.pool.execute("DELETE FROM media_objects WHERE sha256 = $1", sha256_of("b"))
    assert by_class(await cleaning.run()) == {}
    report = await cleaning.run(down_to(0))
    assert by_class(report) == {}
    assert not report.reached
    assert (await cleaning.world.keys()).keys() == stay


async def test_unsettled_objects_stay(cleaning: Cleaning) -> None:
    """Bytes whose rows are not written yet are not waste: an emergency leaves what was put or used within a day."""
    tenant = await cleaning.world.tenant("Unsettled")
    just_put = await cleaning.put(tenant, f"media/{sha256_of('put')}.jpg", "media", days=0.9)
    just_used = await cleaning.put_picture(tenant, "used", days=50)
    put_again = await cleaning.put_picture(tenant, "again", days=50)
    seen = await cleaning.put_picture(tenant, "seen", days=50)
    just_seen = await cleaning.put_result(tenant, "seen", days=0.9)
    for table, column, key in (
        ("media_objects", "last_used_at", just_used),
        ("storage_objects", "recorded_at", put_again),
    ):
        await cleaning.world.database.pool.execute(f"UPDATE {table} SET {column} = now() WHERE s3_key = $1", key)  # noqa: S608
    await cleaning.put_picture(tenant, "unused", days=50)
    await cleaning.put(tenant, f"media/{sha256_of('lost')}.jpg", "media", days=1.1)
    dry = await cleaning.run(down_to(0), dry_run=True)
    assert by_class(await cleaning.run(down_to(0))) == by_class(dry) == {"media": (1, 2, 20)}
    assert (await cleaning.world.keys()).keys() == {just_put, just_used, put_again, seen, just_seen}


async def test_emergency_order(cleaning: Cleaning) -> None:
    """Old crawl of all tenants, then old results, then unused pictures; oldest first; and not one object too many."""
    one, two = await cleaning.world.tenant("One"), await cleaning.world.tenant("Two")
    order = [
        await cleaning.put_page(two, "oldest.html", size_bytes=100, days=9),
        await cleaning.put_page(one, "older.html", size_bytes=100, days=8),
        await cleaning.put_page(two, "old.html", size_bytes=100, days=3.1),
        await cleaning.put(one, "vision/older.json", "vision", size_bytes=100, days=20),
        await cleaning.put(two, "album/old.json", "vision", size_bytes=100, days=7.1),
        await cleaning.put_picture(two, "older", size_bytes=100, days=40),
        await cleaning.put_picture(one, "old", size_bytes=100, days=1.1),
    ]
    await cleaning.put_page(one, "young.html", size_bytes=100, days=2.9)
    await cleaning.put(two, "vision/young.json", "vision", size_bytes=100, days=6.9)
    for count in range(1, len(order) + 1):
        target_bytes = await cleaning.taken_bytes() - 99
        dry = await cleaning.run(down_to(target_bytes), dry_run=True)
        report = await cleaning.run(down_to(target_bytes))
        assert report.reached
        assert by_class(report) == by_class(dry)
        left = await cleaning.world.keys()
        assert [key for key in order if key not in left] == order[:count]
    last = await cleaning.run(down_to(100))
    assert by_class(last) == {}
    assert not last.reached
    assert last.taken_after_bytes == 200
    await cleaning.assert_books_are_true()


async def test_emergency_begins_at_the_threshold(cleaning: Cleaning) -> None:
    """Below the threshold nothing goes; reserved bytes count; at the threshold it comes down to the target."""
    tenant = await cleaning.world.tenant("Threshold")
    for number in range(10):
        await cleaning.put_page(tenant, f"{number}.html", size_bytes=100, days=10 - number / 10)
    plan = emergency_plan(threshold_bytes=1_001, target_bytes=450)
    idle = await cleaning.run(plan)
    assert (idle.needed, idle.reached, by_class(idle)) == (False, True, {})
    await cleaning.world.database.pool.execute(
        "INSERT INTO storage_objects (tenant_id, s3_key, content_type, op_id, op_kind, op_delta, op_until)"
        " VALUES ($1, 'crawl/x', 'crawl', gen_random_uuid(), 'put', 1, now() + interval '1 minute')",
        tenant.id,
    )
    report = await cleaning.run(plan)
    assert report.needed
    assert by_class(report) == {"crawl": (1, 6, 600)}
    assert (report.taken_before_bytes, report.taken_after_bytes) == (1_001, 401)


async def test_dry_run_changes_nothing(cleaning: Cleaning) -> None:
    """A dry run tells what the real one then removes, and leaves every row and object as it was."""
    tenant = await cleaning.world.tenant("Dry")
    for number in range(5):
        await cleaning.put_page(tenant, f"{number}.html", size_bytes=100, days=8 + number)
        await cleaning.put(tenant, f"vision/{number}.json", "vision", size_bytes=50, days=15 + number)
        await cleaning.put_picture(tenant, f"{number}", size_bytes=20, days=31 + number)
    before = await everything(cleaning)
    for plan in (DAILY, down_to(90)):
        dry = await cleaning.run(plan, dry_run=True)
        assert await everything(cleaning) == before
        assert by_class(dry)
    assert dry.taken_after_bytes == 80
    real = await cleaning.run(plan)
    assert by_class(real) == by_class(dry)
    assert (real.taken_before_bytes, real.taken_after_bytes) == (dry.taken_before_bytes, dry.taken_after_bytes)


async def test_many_batches(cleaning: Cleaning) -> None:
    """More candidates than fit into one page: all go, in batches of 500, and no more than are needed."""
    tenant = await cleaning.world.tenant("Many")
    await cleaning.world.database.pool.execute(
        "INSERT INTO storage_objects (tenant_id, s3_key, content_type, bytes, recorded_at)"
        " SELECT $1::uuid, 'crawl/' || $1::uuid || '/' || number, 'crawl', 10, now() - interval '10 days'"
        " FROM generate_series(1, 11000) AS number",
        tenant.id,
    )
    report = await cleaning.run(down_to(110_000 - 10_101 * 10))
    assert by_class(report) == {"crawl": (1, 10_101, 101_010)}
    assert by_class(await cleaning.run()) == {"crawl": (1, 899, 8_990)}
    assert await cleaning.taken_bytes() == 0


async def test_picture_goes_with_its_results(cleaning: Cleaning) -> None:
    """An unused picture's results leave S3 before it, whatever their age; its rows go with it."""
    world = cleaning.world
    tenant = await world.tenant("Results")
    await cleaning.put_picture(tenant, "old", days=40)
    await cleaning.put_result(tenant, "old", provider="one", days=13)
    await cleaning.put_result(tenant, "old", provider="two", days=15)
    dry = await cleaning.run(dry_run=True)
    report = await cleaning.run()
    assert by_class(report) == by_class(dry) == {"vision": (1, 2, 20), "media": (1, 1, 10)}
    assert await world.keys() == {}
    for table in ("media_objects", "vision_results", "phash_index"):
        assert await world.database.pool.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
    await cleaning.assert_books_are_true()


async def test_result_that_stands_in_s3_alone_stays(cleaning: Cleaning) -> None:
    """After a crash between put and row, S3 has the only copy of what was paid for: it stays as long as its picture."""
    tenant = await cleaning.world.tenant("Only copy")
    await cleaning.put_picture(tenant, "seen")
    await cleaning.refer(tenant, "seen")
    key = await cleaning.put(tenant, f"vision/{sha256_of('seen')}_local_m_v1.0.json", "vision", days=100)
    gone = await cleaning.put(tenant, f"vision/{sha256_of('gone')}_local_m_v1.0.json", "vision", days=100)
    assert by_class(await cleaning.run()) == {"vision": (1, 1, 10)}
    assert key in await cleaning.world.keys()
    assert gone not in await cleaning.world.keys()


async def test_everything_is_counted(cleaning: Cleaning) -> None:
    """Bytes and objects by class and occasion, evicted pictures, and an emergency once a tenant, not once a batch."""
    one, two = await cleaning.world.tenant("One"), await cleaning.world.tenant("Two")
    await cleaning.put_page(one, "a.html", size_bytes=7, days=8)
    await cleaning.put_page(two, "b.html", size_bytes=8, days=8)
    await cleaning.put_picture(one, "a", size_bytes=9, days=8)
    await cleaning.put_picture(one, "b", size_bytes=9, days=31)
    await cleaning.run()
    await cleaning.put_page(two, "c.html", size_bytes=5, days=4)
    await cleaning.put_page(one, "c.html", size_bytes=5, days=4)
    await cleaning.run(down_to(0))
    assert await cleaning.counters(one) == {
        "storage_cleanup_freed_bytes_total crawl ttl": 7,
        "storage_cleanup_freed_bytes_total media ttl": 9,
        "storage_cleanup_freed_bytes_total crawl emergency": 5,
        "storage_cleanup_freed_bytes_total emergency media": 9,
        "storage_cleanup_objects_total crawl ttl": 1,
        "storage_cleanup_objects_total media ttl": 1,
        "storage_cleanup_objects_total crawl emergency": 1,
        "storage_cleanup_objects_total emergency media": 1,
        "storage_emergency_cleanups_total": 1,
        "storage_lru_evictions_total": 2,
    }
    assert await cleaning.counters(two) == {
        "storage_cleanup_freed_bytes_total crawl ttl": 8,
        "storage_cleanup_freed_bytes_total crawl emergency": 5,
        "storage_cleanup_objects_total crawl ttl": 1,
        "storage_cleanup_objects_total crawl emergency": 1,
        "storage_emergency_cleanups_total": 1,
    }


async def test_one_clean_up_at_a_time(cleaning: Cleaning) -> None:
    """Beside another clean-up an emergency would remove more than it needs; a dry run may look at any time."""
    async with PostgresCleanup(cleaning.world.database).alone():
        with pytest.raises(CleanupUnderWay):
            await cleaning.run()
        await cleaning.run(dry_run=True)
    await cleaning.run()


async def test_clock_decides(cleaning: Cleaning) -> None:
    """Ages are counted from the clean-up's clock."""
    tenant = await cleaning.world.tenant("Clock")
    await cleaning.put_page(tenant, "a.html")
    assert by_class(await replace(cleaning, ahead=timedelta(days=6.9)).run()) == {}
    assert by_class(await replace(cleaning, ahead=timedelta(days=7.1)).run()) == {"crawl": (1, 1, 10)}
