"""The files of a month's bill on the real Postgres and S3: what they hold, and passes that are killed."""

import asyncio
import csv
import io
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.billed import GB, Account, days_ago, events, parquet_rows
from tests.integration.test_reconcile import behind_the_back, put
from tests.world import World

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
FILES = ("usage.parquet", "usage.csv", "events.jsonl")


@pytest.fixture
async def account(world: World) -> Account:
    """A tenant with an empty past."""
    return Account(world, await world.tenant("Alpha"))


@pytest.mark.parametrize("puts", [0, 1, 2])
async def test_a_pass_that_is_killed_is_made_up_for(account: Account, database: str, bucket: str, puts: int) -> None:
    """Killed after any file, the next pass leaves table and files as one that was not disturbed."""
    undisturbed = Account(account.world, await account.world.tenant("Beta"))
    now = datetime.now(UTC)
    for one in (account, undisturbed):
        await put(one.world, one.tenant, "page", 100)
        await one.stood_since(days_ago(1))
    arguments = ("-m", "tests.billing_victim", database, bucket, "Alpha", now.isoformat(), str(puts))
    victim = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    assert await victim.wait() == -signal.SIGKILL
    assert len(await account.files()) == puts
    report = await account.bill(now=now + timedelta(seconds=9))
    assert (len(report.billed), len(report.files)) == (0, 3)
    assert (await account.bill()).files == ()
    await undisturbed.bill(now=now)
    expected = await undisturbed.files()
    own, others = str(account.tenant.id).encode(), str(undisturbed.tenant.id).encode()
    for name, body in (await account.files()).items():
        if not name.endswith(".parquet"):
            assert body.replace(own, others) == expected[name]
    assert [row | {"tenant_id": 0, "seq": 0} for row in await account.rows()] == [
        row | {"tenant_id": 0, "seq": 0} for row in await undisturbed.rows()
    ]


async def test_the_files_hold_every_revision(account: Account) -> None:
    """Parquet and CSV say the same as the table; the events add up to the latest revision, under ids of their own."""
    gone = await put(account.world, account.tenant, "gone", 3 * GB // 1_000)
    await account.stood_since(days_ago(40))
    await account.bill()
    await behind_the_back(account.world, gone, None)
    await account.world.database.pool.execute("UPDATE tenant_storage_usage SET reconciled_at = $1", days_ago(0.4))
    await account.world.reconcile(account.tenant)
    changed = {key.split("/", 2)[2] for key in (await account.bill()).files}
    files, rows = await account.files(), await account.rows()
    months = {f"{row['day']:%Y-%m}" for row in rows}
    assert {name.split("/")[0] for name in files} == months
    assert changed == {f"{YESTERDAY:%Y-%m}/{name}" for name in FILES}
    for month in months:
        expected = [row for row in rows if f"{row['day']:%Y-%m}" == month]
        assert [
            (row["day"], row["content_type"], row["revision"], row["byte_seconds"], row["gb_hours"], row["billed_at"])
            for row in parquet_rows(files[f"{month}/usage.parquet"])
        ] == [
            (row["day"], "crawl", row["revision"], row["byte_seconds"], row["gb_hours"], row["billed_at"])
            for row in expected
        ]
        read = list(csv.DictReader(io.StringIO(files[f"{month}/usage.csv"].decode())))
        assert [(row["day"], row["revision"], Decimal(row["gb_hours"])) for row in read] == [
            (str(row["day"]), str(row["revision"]), row["gb_hours"]) for row in expected
        ]
        latest = {row["day"]: row["gb_hours"] for row in expected}
        assert {row["day"]: Decimal(row["gb_hours"]) for row in read if row["is_latest"] == "true"} == {
            str(day): figure for day, figure in latest.items()
        }
        told = events(files[f"{month}/events.jsonl"])
        assert len({event["id"] for event in told}) == len(told) == len(expected)
        assert_cloud_events(told)
        assert {day: added(told, day) for day in latest} == latest


def added(told: Sequence[Mapping[str, Any]], day: date) -> Decimal:
    """Add up a day's events as a metering system does."""
    return sum((Decimal(str(one["data"]["gb_hours"])) for one in told if one["data"]["day"] == str(day)), Decimal(0))


def assert_cloud_events(told: Sequence[Mapping[str, Any]]) -> None:
    """The required attributes of CloudEvents 1.0 are there and of the right form; the time lies on the billed day."""
    for one in told:
        assert one["specversion"] == "1.0"
        assert all(one[name] and isinstance(one[name], str) for name in ("id", "source", "type", "subject"))
        assert datetime.fromisoformat(one["time"]).date() == date.fromisoformat(one["data"]["day"])
        assert one["datacontenttype"] == "application/json"
