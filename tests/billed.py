"""A tenant whose storage has a past, its bills and their files, for tests of billing. What is not here: assertions."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from arro3.io import read_parquet

from tests.world import World
from vision_assets.clients.postgres.billing import PostgresBilling
from vision_assets.core.billing import BillingPass, BillingReport, FileStore
from vision_assets.core.billing_files import FORMATS
from vision_assets.core.price import TokenPrice
from vision_assets.core.tenants import Tenant

GB = 2**30
PRICE = TokenPrice(Decimal("650"), "RUB")


def midnight(day: date) -> datetime:
    """The beginning of a UTC day."""
    return datetime.combine(day, time(), UTC)


def days_ago(days: float) -> datetime:
    """A moment so many days before the beginning of today, UTC."""
    return midnight(datetime.now(UTC).date()) - timedelta(days=days)


@dataclass(frozen=True, slots=True)
class Stood:
    """Bytes that stood from one moment to another."""

    bytes: int
    since: datetime
    until: datetime


def by_day(stretches: Iterable[Stood]) -> dict[date, Fraction]:
    """Add up byte-seconds by UTC day, minute for minute of what it means: the oracle of the meter."""
    sums: dict[date, Fraction] = {}
    for one in stretches:
        since = one.since
        while since < one.until:
            day = since.astimezone(UTC).date()
            until = min(one.until, midnight(day + timedelta(days=1)))
            microseconds = (until - since) // timedelta(microseconds=1)
            sums[day] = sums.get(day, Fraction()) + Fraction(one.bytes * microseconds, 10**6)
            since = until
    return sums


@dataclass(slots=True)
class Account:
    """One tenant's meters and bills."""

    world: World
    tenant: Tenant

    async def meter(self, content_type: str = "crawl") -> tuple[int, datetime, Decimal]:
        """What the meter stands at: bytes, since when, and the byte-seconds of that day before."""
        row = await self.world.database.pool.fetchrow(
            "SELECT metered_bytes, metered_at, metered_byte_seconds FROM tenant_storage_usage"
            " WHERE tenant_id = $1 AND content_type = $2",
            *(self.tenant.id, content_type),
        )
        assert row is not None
        return row["metered_bytes"], row["metered_at"], row["metered_byte_seconds"]

    async def metered_since(self, moment: datetime) -> None:
        """Let the meters of all types have begun at a moment."""
        await self.world.database.pool.execute(
            "UPDATE tenant_storage_usage SET metered_from = $2 WHERE tenant_id = $1", self.tenant.id, moment
        )

    async def stood_since(self, since: datetime, *, byte_seconds: int = 0, content_type: str = "crawl") -> None:
        """Let what is stored have been so since a moment, with this much on that day before."""
        await self.world.database.pool.execute(
            "UPDATE tenant_storage_usage"
            " SET metered_from = least(metered_from, $3), metered_at = $3, metered_byte_seconds = $4"
            " WHERE tenant_id = $1 AND content_type = $2",
            *(self.tenant.id, content_type, since, Decimal(byte_seconds)),
        )
        await self.world.database.pool.execute(
            "UPDATE storage_objects SET recorded_at = $3 WHERE tenant_id = $1 AND content_type = $2",
            *(self.tenant.id, content_type, since),
        )

    async def bill(
        self, *, now: datetime | None = None, price: TokenPrice | None = PRICE, store: FileStore | None = None
    ) -> BillingReport:
        """Run the pass of `billing_usage`."""
        return await BillingPass(
            tenant_id=self.tenant.id,
            ledger=PostgresBilling(self.world.database),
            store=store or self.world.bucket,
            prices={} if price is None else dict.fromkeys(("gigachat", "paid"), price),
            formats=FORMATS,
        ).run(now=now or datetime.now(UTC))

    async def rows(self) -> list[dict[str, Any]]:
        """All revisions in the table."""
        found = await self.world.database.pool.fetch(
            "SELECT * FROM billing_usage WHERE tenant_id = $1"
            " ORDER BY day, meter, content_type, provider, model, revision",
            self.tenant.id,
        )
        return [dict(row) for row in found]

    async def byte_seconds(self, content_type: str = "crawl", *, revision: int | None = None) -> dict[date, Fraction]:
        """What is billed of a type by day: by the latest revision, or by one of them."""
        return {
            row["day"]: Fraction(row["byte_seconds"])
            for row in await self.rows()
            if row["content_type"] == content_type and revision in (None, row["revision"])
        }

    async def files(self) -> dict[str, bytes]:
        """The files of all months, by `<month>/<name>`."""
        prefix = f"billing/{self.tenant.id}/"
        bodies = {}
        for key in await self.world.keys(prefix):
            body = await self.world.bucket.get(key)
            assert body is not None
            bodies[key.removeprefix(prefix)] = body
        return bodies


def parquet_rows(body: bytes) -> Sequence[dict[str, Any]]:
    """Read a Parquet file."""
    table = read_parquet(io.BytesIO(body)).read_all()
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def events(body: bytes) -> list[dict[str, Any]]:
    """Read a file of events."""
    return [json.loads(line) for line in body.decode().splitlines()]
