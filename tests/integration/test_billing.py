"""Billing of storage on the real Postgres and S3: exact by the microsecond, idempotent, restated, by tenant."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from tests.billed import GB, Account, Stood, by_day, days_ago, midnight
from tests.integration.test_reconcile import begin_put, behind_the_back, put
from tests.world import World
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.storage import StoredObject

TODAY = datetime.now(UTC).date()


@pytest.fixture
async def account(world: World) -> Account:
    """A tenant with an empty past, that is metered for long."""
    account = Account(world, await world.tenant("Alpha"))
    await account.metered_since(days_ago(30))
    return account


def total(figures: Mapping[date, Fraction]) -> Fraction:
    """Add up days."""
    return sum(figures.values(), Fraction())


@pytest.mark.parametrize("seed", range(4))
async def test_bytes_that_stand_are_cut_at_midnight(world: World, seed: int) -> None:
    """By UTC day to the microsecond, over any number of days, also from and to midnight itself."""
    drawn = random.Random(seed)
    marks = [days_ago(drawn.choice((0, 1, 2, drawn.random() * 5))) for _ in range(12)]
    stretches = [
        Stood(drawn.randrange(10**15), min(pair), max(pair)) for pair in zip(marks[::2], marks[1::2], strict=True)
    ]
    for one in stretches:
        rows = await world.database.pool.fetch(
            "SELECT day, byte_seconds FROM byte_seconds_by_day($1, $2, $3)", one.bytes, one.since, one.until
        )
        assert {row["day"]: Fraction(row["byte_seconds"]) for row in rows} == by_day([one])


async def test_a_scripted_history(account: Account) -> None:
    """Puts, an overwrite and a delete after quiet days: each day has what stood on it, and the present one is open."""
    first = days_ago(3) + timedelta(hours=5, microseconds=1)
    page = await put(account.world, account.tenant, "page", 7_000)
    await account.stood_since(first, byte_seconds=1_000)
    history = [Stood(1, first - timedelta(seconds=1_000), first)]  # what stood before it on that day
    standing, since = 7_000, first
    for name, size in (("other", 500), ("page", 8_000), ("third", 1)):
        await put(account.world, account.tenant, name, size)
        stood, at, _ = await account.meter()
        history.append(Stood(standing, since, at))
        standing, since = stood, at
    assert standing == 8_501
    await account.world.quota().delete(account.tenant.id, [(page, "crawl")])
    standing_after, at, _ = await account.meter()
    history.append(Stood(standing, since, at))
    assert standing_after == 501
    tomorrow = midnight(TODAY + timedelta(days=1))
    history.append(Stood(standing_after, at, tomorrow + timedelta(days=1)))

    await account.bill()
    expected = by_day(history)
    before_today = {day: figure for day, figure in expected.items() if day < TODAY}
    assert await account.byte_seconds() == before_today
    assert len(before_today) == 3
    report = await account.bill(now=tomorrow + timedelta(days=1, seconds=1))
    assert report.through == TODAY + timedelta(days=1)
    assert await account.byte_seconds() == expected
    assert all(row["revision"] == 1 for row in await account.rows())


async def test_a_day_is_billed_when_it_is_over(account: Account) -> None:
    """Until midnight it is open; from midnight on it is final, and what comes later does not change it."""
    await put(account.world, account.tenant, "page", GB)
    await account.stood_since(days_ago(1))
    assert (await account.bill(now=midnight(TODAY) - timedelta(microseconds=1))).billed == ()
    [only] = (await account.bill(now=midnight(TODAY))).billed
    assert (only.line.day, only.line.content_type) == (TODAY - timedelta(days=1), "crawl")
    [row] = await account.rows()
    assert (row["byte_seconds"], row["gb_hours"]) == (GB * 86_400, Decimal("24.000000000"))
    await put(account.world, account.tenant, "other", 5 * GB // 2**10)
    assert (await account.bill()).billed == ()


async def test_billing_again_changes_nothing(account: Account) -> None:
    """Neither the table nor the files; two at once bill once."""
    await put(account.world, account.tenant, "page", 12_345)
    await account.stood_since(days_ago(2.5))
    now = datetime.now(UTC)
    reports = await asyncio.gather(*(account.bill(now=now) for _ in range(4)))
    assert sorted(len(report.billed) for report in reports) == [0, 0, 0, 3]
    rows, listed = await account.rows(), [s async for page in account.world.bucket.list("billing/") for s in page]
    again = await account.bill(now=now + timedelta(seconds=5))
    assert (again.billed, again.files) == ((), ())
    assert await account.rows() == rows
    assert [s async for page in account.world.bucket.list("billing/") for s in page] == listed


async def test_what_stood_too_long_in_the_books_is_restated(account: Account) -> None:
    """An object that was gone is billed until the last reconciliation that agreed; the earlier revision stays."""
    gone = await put(account.world, account.tenant, "gone", 1_000)
    await put(account.world, account.tenant, "stays", 10)
    await account.stood_since(days_ago(3))
    agreed = days_ago(1.25)
    await account.world.database.pool.execute("UPDATE tenant_storage_usage SET reconciled_at = $1", agreed)
    await account.bill()
    first = await account.byte_seconds()
    assert total(first) == 1_010 * 86_400 * 3
    await behind_the_back(account.world, gone, None)
    await account.world.reconcile(account.tenant)

    report = await account.bill()
    two, one = TODAY - timedelta(days=2), TODAY - timedelta(days=1)
    assert [(line.line.day, line.revision) for line in report.restated] == [(two, 2), (one, 2)]
    assert await account.byte_seconds(revision=2) == {two: 1_000 * 64_800 + 10 * 86_400, one: 10 * 86_400}
    assert await account.byte_seconds(revision=1) == first
    assert (await account.bill()).billed == ()


@dataclass(frozen=True)
class OldBucket(S3Bucket):
    """A bucket all of whose objects were written at one moment."""

    written_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def head(self, key: str) -> StoredObject | None:
        """Tell that moment."""
        found = await super().head(key)
        return found and StoredObject(found.key, found.bytes, self.written_at)


async def test_what_was_not_in_the_books_is_restated(account: Account) -> None:
    """Objects that nobody booked, and one of another size, are billed from when S3 says that they were written."""
    longer = await put(account.world, account.tenant, "longer", 100)
    await account.stood_since(days_ago(3))
    await account.bill()
    await behind_the_back(account.world, longer, 150)
    await behind_the_back(account.world, f"album/{account.tenant.id}/new", 30)
    await behind_the_back(account.world, f"media/{account.tenant.id}/aa/new", 7)
    written = days_ago(0.5)
    account.world.bucket = OldBucket(account.world.bucket.store, written)
    await account.world.reconcile(account.tenant)

    report = await account.bill()
    yesterday = TODAY - timedelta(days=1)
    assert {(one.line.content_type, one.line.day, one.revision) for one in report.billed} == {
        ("crawl", yesterday, 2),
        ("vision", yesterday, 1),
        ("media", yesterday, 1),
    }
    assert (await account.byte_seconds("crawl", revision=2))[yesterday] == 100 * 86_400 + 50 * 43_200
    assert (await account.byte_seconds("vision"))[yesterday] == 30 * 43_200
    assert (await account.byte_seconds("media"))[yesterday] == 7 * 43_200


async def test_what_a_reconciliation_agreed_with_stays(account: Account) -> None:
    """Nothing is restated from before it, whatever S3 says; today's part of a correction is today's."""
    await behind_the_back(account.world, f"crawl/{account.tenant.id}/new", 30)
    account.world.bucket = OldBucket(account.world.bucket.store, days_ago(9))
    await account.world.database.pool.execute("UPDATE tenant_storage_usage SET reconciled_at = $1", days_ago(0))
    await account.world.reconcile(account.tenant)
    assert (await account.bill()).billed == ()
    await account.bill(now=midnight(TODAY + timedelta(days=1)))
    assert await account.byte_seconds() == {TODAY: 30 * 86_400}


async def test_nothing_is_billed_from_before_the_meter_began(account: Account) -> None:
    """A bucket that is taken over has objects of years ago; they are billed from then on that the tenant is metered."""
    await account.metered_since(days_ago(1))
    await behind_the_back(account.world, f"crawl/{account.tenant.id}/old", 30)
    account.world.bucket = OldBucket(account.world.bucket.store, days_ago(700))
    await account.world.reconcile(account.tenant)
    await account.bill()
    assert await account.byte_seconds() == {TODAY - timedelta(days=1): 30 * 86_400}


async def test_an_upload_that_never_came_back_is_billed_from_when_it_landed(account: Account) -> None:
    """Its worker died between the put and the booking; the sweep finds it and books it, from when S3 has it."""
    key = f"crawl/{account.tenant.id}/landed"
    await begin_put(account.world, key, 70, until=datetime.now(UTC) - timedelta(seconds=1))
    await behind_the_back(account.world, key, 70)
    account.world.bucket = OldBucket(account.world.bucket.store, days_ago(0.25))
    await account.world.quota().sweep(account.tenant.id)
    await account.bill()
    assert await account.byte_seconds() == {TODAY - timedelta(days=1): 70 * 21_600}


async def test_a_deletion_that_took_over_a_dead_upload_is_no_correction(account: Account) -> None:
    """What is deleted now has lain there until now."""
    key = await put(account.world, account.tenant, "page", 10)
    await account.stood_since(days_ago(2))
    await begin_put(account.world, key, 99, until=datetime.now(UTC) - timedelta(seconds=1))
    await account.world.quota().delete(account.tenant.id, [(key, "crawl")])
    assert await account.world.database.pool.fetchval("SELECT count(*) FROM storage_corrections") == 0
    await account.bill()
    assert total(await account.byte_seconds()) == 10 * 86_400 * 2


async def test_figures_that_somebody_overwrote_are_not_billed(account: Account) -> None:
    """The meter follows the ledger, whatever is written to the usage by hand, and while it is put right."""
    await put(account.world, account.tenant, "page", 100)
    await account.stood_since(days_ago(2))
    pool = account.world.database.pool
    await pool.execute("UPDATE tenant_storage_usage SET total_bytes = 10 ^ 12 WHERE content_type = 'crawl'")
    await put(account.world, account.tenant, "other", 5)
    assert (await account.meter())[0] == 105
    await account.world.reconcile(account.tenant)
    assert (await account.meter())[0] == 105
    await pool.execute("DELETE FROM tenant_storage_usage WHERE content_type = 'crawl'")
    await account.world.reconcile(account.tenant)
    assert (await account.meter())[0] == 105
    await account.bill()
    assert await account.byte_seconds() == {TODAY - timedelta(days=day): 100 * 86_400 for day in (2, 1)}


async def test_tenants_are_billed_apart(account: Account) -> None:
    """What one stores, corrects or has billed shows nowhere in another's table or files."""
    other = Account(account.world, await account.world.tenant("Beta"))
    for one, size in ((account, 100), (other, 7)):
        await put(one.world, one.tenant, "page", size)
        await one.stood_since(days_ago(1))
        await one.bill()
    before = await other.rows(), await other.files()
    await behind_the_back(account.world, f"crawl/{account.tenant.id}/page", None)
    await account.world.database.pool.execute("UPDATE tenant_storage_usage SET reconciled_at = $1", days_ago(1))
    await account.world.reconcile(account.tenant)
    await account.bill()
    assert (await other.bill()).billed == ()
    assert (await other.rows(), await other.files()) == before
    assert total(await other.byte_seconds()) == 7 * 86_400
    assert total(await account.byte_seconds()) == 0
