"""Figures about all tenants at once, for the exporter.

What is not here: how they are shown (`service/`), and figures about one tenant for people (`overview.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, NamedTuple

from vision_assets.clients.postgres import Database, statements
from vision_assets.core.budget import EVERYONE
from vision_assets.core.storage import CONTENT_TYPES, ContentType
from vision_assets.core.tenants import TenantId

sql = statements("metrics")

Labels = tuple[tuple[str, str], ...]
"""Each (name, value), in the order of the names."""

Queue = Literal["media", "vision", "deferred"]
BudgetPeriod = Literal["day", "month"]


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of one day or month.

    Attributes:
        limit_tokens: The scope's own; None: the settings hold.
    """

    used_tokens: int
    held_tokens: int
    limit_tokens: int | None


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """One active tenant.

    Attributes:
        stored_bytes: By content type.
        taken_bytes: The same with what is reserved.
        reserved_bytes: Of all types.
        own_limits: In bytes, by content type or `all`; the settings hold for the others.
        reconciled_at: When its books were last held against S3; None: never.
    """

    id: TenantId
    created_at: datetime
    stored_bytes: Mapping[ContentType, int]
    taken_bytes: Mapping[ContentType, int]
    reserved_bytes: int
    own_limits: Mapping[str, int]
    reconciled_at: datetime | None
    budget: Mapping[BudgetPeriod, Spent]


class Count(NamedTuple):
    """One counter; `tenant_id` is None for all tenants together."""

    name: str
    labels: Labels
    tenant_id: TenantId | None
    value: int


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledgers say at one moment, more or less: each statement sees its own.

    Attributes:
        total_bytes: Of all tenants, by content type; those that are not active are among them.
        settled_tokens: Of all calls that were ever settled.
        counters: Of all tenants together.
        tenant_counters: Those asked for, of each tenant; those that are not active are among them.
    """

    tenants: Sequence[TenantFigures]
    total_bytes: Mapping[ContentType, int]
    reserved_bytes: Mapping[ContentType, int]
    budget: Mapping[BudgetPeriod, Spent]
    settled_tokens: int
    counters: Sequence[Count]
    tenant_counters: Sequence[Count]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is to do for one tenant in one queue; see the statements for what `oldest_at` is the time of."""

    tenant_id: TenantId
    queue: Queue
    items: int
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class Queues:
    """What is to do, and what could not be done: open dead letters by stage."""

    waiting: Sequence[Waiting]
    dead_letters: Mapping[str, int]


async def read_books(database: Database, *, day: date, by_tenant: Sequence[str]) -> Books:
    """Read what the ledgers say.

    Args:
        day: UTC; its month is meant, too.
        by_tenant: Names of the counters to be told of each tenant.

    Raises:
        DatabaseUnavailable, DatabaseConflict: Transient.
    """
    days = {"day": day, "month": day.replace(day=1)}
    async with database.connection() as connection:
        totals = [row async for row in sql.storage_totals(connection)]
        everyone = await sql.global_budget(connection, everyone=EVERYONE, **days)
        return Books(
            tenants=[_tenant(row) async for row in sql.tenants(connection, **days)],
            total_bytes={row["content_type"]: row["total_bytes"] for row in totals},
            reserved_bytes={row["content_type"]: row["reserved_bytes"] for row in totals},
            budget=_budget(everyone),
            settled_tokens=everyone["settled_tokens"],
            counters=[Count(row["name"], _labels(row), None, row["value"]) async for row in sql.counters(connection)],
            tenant_counters=[
                Count(row["name"], _labels(row), TenantId(row["tenant_id"]), row["value"])
                async for row in sql.counters_by_tenant(connection, names=list(by_tenant))
            ],
        )


async def read_queues(database: Database) -> Queues:
    """Count what is to do. Reads an entry for each picture: not for every scrape.

    Raises:
        DatabaseUnavailable, DatabaseConflict: Transient.
    """
    async with database.connection() as connection:
        queues: dict[Queue, Any] = {
            "media": sql.media_queue(connection),
            "vision": sql.vision_queue(connection),
            "deferred": sql.deferred_queue(connection),
        }
        return Queues(
            waiting=[
                Waiting(TenantId(row["tenant_id"]), queue, row["items"], row["oldest_at"])
                for queue, rows in queues.items()
                async for row in rows
            ],
            dead_letters={row["stage"]: row["letters"] async for row in sql.open_dead_letters(connection)},
        )


def _labels(row: Mapping[str, Any]) -> Labels:
    return tuple(sorted(row["labels"].items()))


def _budget(row: Mapping[str, Any]) -> Mapping[BudgetPeriod, Spent]:
    periods: tuple[BudgetPeriod, ...] = ("day", "month")
    return {
        period: Spent(row[f"{period}_used_tokens"], row[f"{period}_held_tokens"], row[f"{period}_limit_tokens"])
        for period in periods
    }


def _tenant(row: Mapping[str, Any]) -> TenantFigures:
    return TenantFigures(
        id=TenantId(row["tenant_id"]),
        created_at=row["created_at"],
        stored_bytes=dict(zip(CONTENT_TYPES, row["stored_bytes"], strict=True)),
        taken_bytes=dict(zip(CONTENT_TYPES, row["taken_bytes"], strict=True)),
        reserved_bytes=row["reserved_bytes"],
        own_limits=row["storage_limits"] or {},
        reconciled_at=row["reconciled_at"],
        budget=_budget(row),
    )
