"""The meters in Postgres, and what was billed. What is not here: who moves the meters (migration 0012's triggers)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.storage import lock_usage
from vision_assets.core.billing import Billed, Line, Meter, StorageUse, TokenUse, Unbilled
from vision_assets.core.price import TokenPrice
from vision_assets.core.tenants import TenantId

sql = statements("billing")


@dataclass(frozen=True, slots=True)
class PostgresBilling:
    """Implements `core.billing.BillingLedger`."""

    database: Database

    @asynccontextmanager
    async def alone(self, tenant_id: TenantId) -> AsyncIterator[None]:
        """See the Protocol. A pass that is killed keeps nobody out: the lock goes with its connection."""
        async with self.database.session() as connection:
            await sql.lock(connection, tenant_id=tenant_id)
            yield

    async def unbilled(self, tenant_id: TenantId, *, before: date) -> Sequence[Unbilled]:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await lock_usage(connection, [tenant_id])
            return [_unbilled(row) async for row in sql.unbilled(connection, tenant_id=tenant_id, before=before)]

    async def add(self, tenant_id: TenantId, billed: Sequence[Billed]) -> None:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await sql.add(connection, [_columns(tenant_id, one) for one in billed])

    async def unexported(self, tenant_id: TenantId) -> Mapping[date, int]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            return {row["month"]: row["seq"] async for row in sql.unexported(connection, tenant_id=tenant_id)}

    async def billed(self, tenant_id: TenantId, month: date) -> Sequence[Billed]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.billed(connection, tenant_id=tenant_id, month=month)
            return [_billed(row, _use(row)) async for row in rows]

    async def note_exported(self, tenant_id: TenantId, month: date, *, newest_row: int) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.note_exported(connection, tenant_id=tenant_id, month=month, seq=newest_row)


@dataclass(frozen=True, slots=True)
class MonthTotal:
    """What a tenant was billed for a month: a content type's storage, or a model's tokens.

    Attributes:
        gb_hours: None of tokens, as the four figures after it are of storage.
        cost_microunits: None: no price was set.
        restated_days: Of `days`, those that were billed more than once.
        last_day: That is billed.
    """

    tenant: str
    meter: Meter
    content_type: str
    provider: str
    model: str
    currency: str | None
    gb_hours: Decimal | None
    tokens: int | None
    calls: int | None
    unconfirmed_tokens: int | None
    cost_microunits: int | None
    days: int
    restated_days: int
    last_day: date


async def month_totals(database: Database, month: date, *, tenant_id: TenantId | None) -> list[MonthTotal]:
    """Add up what was billed for a month, by the latest revisions.

    Args:
        month: Its first day.
        tenant_id: None: of all tenants.
    """
    async with database.connection() as connection:
        return [MonthTotal(**row) async for row in sql.totals(connection, month=month, tenant_id=tenant_id)]


def _columns(tenant_id: TenantId, one: Billed) -> dict[str, Any]:
    return {
        "byte_seconds": None,
        **dict.fromkeys(("tokens", "calls", "unconfirmed_tokens", "unconfirmed_calls")),
        **asdict(one.line),
        **asdict(one.use),
        "tenant_id": tenant_id,
        "revision": one.revision,
        "price_per_million": one.price.per_million if one.price else None,
        "currency": one.price.currency if one.price else None,
        "cost_microunits": one.cost_microunits,
        "billed_at": one.billed_at,
    }


def _unbilled(row: Mapping[str, Any]) -> Unbilled:
    latest = None if row["revision"] is None else _billed(row, _use(row, prefix="billed_"))
    return Unbilled(_line(row), _use(row), latest)


def _billed(row: Mapping[str, Any], use: StorageUse | TokenUse) -> Billed:
    per_million = row["price_per_million"]
    price = None if per_million is None else TokenPrice(per_million, row["currency"])
    return Billed(_line(row), use, row["revision"], price, row["billed_at"])


def _line(row: Mapping[str, Any]) -> Line:
    return Line(row["day"], row["meter"], row["content_type"], row["provider"], row["model"])


def _use(row: Mapping[str, Any], *, prefix: str = "") -> StorageUse | TokenUse:
    if row["meter"] == "storage":
        return StorageUse(row[f"{prefix}byte_seconds"])
    names = ("tokens", "calls", "unconfirmed_tokens", "unconfirmed_calls")
    return TokenUse(*(row[f"{prefix}{name}"] for name in names))
