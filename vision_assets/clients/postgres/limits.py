"""Limits of single tenants beside what they use, in Postgres, for the people who set them.

What is not here: how limits are held (`storage.py`, `budget.py`), and the defaults, which are settings.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple
from uuid import UUID

from vision_assets.clients.postgres import Database, statements
from vision_assets.core.tenants import TenantId

sql = statements("limits")


@dataclass(frozen=True, slots=True)
class TenantStorage:
    """What one tenant has stored.

    Attributes:
        used: Bytes by content type.
        reserved_bytes: Held by operations that are under way.
        limits: The tenant's own, by content type or `all`, in bytes; the settings hold for the others.
    """

    id: TenantId
    name: str
    used: Mapping[str, int]
    reserved_bytes: int
    limits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What one tenant, or all together, used and hold in one period.

    Attributes:
        name: Of the tenant; None for all together.
        limit_tokens: The scope's own; None: the settings hold.
    """

    scope: UUID
    name: str | None
    period: str
    used_tokens: int
    held_tokens: int
    used_requests: int
    held_requests: int
    limit_tokens: int | None
    limit_requests: int | None


class Prompt(NamedTuple):
    """What estimates are learned for."""

    provider: str
    model: str
    prompt: str


async def storage_by_tenant(database: Database, tenant_id: TenantId | None = None) -> Sequence[TenantStorage]:
    """List what the active tenants have stored, by name.

    Args:
        tenant_id: Only this one.
    """
    async with database.connection() as connection:
        return [TenantStorage(**row) async for row in sql.storage_by_tenant(connection, tenant_id=tenant_id)]


async def storage_of_all(database: Database) -> Mapping[str, tuple[int, int, int]]:
    """Tell (bytes, reserved bytes, objects) of all tenants together, by content type."""
    async with database.connection() as connection:
        return {
            row["content_type"]: (row["total_bytes"], row["reserved_bytes"], row["objects_count"])
            async for row in sql.storage_of_all(connection)
        }


async def set_storage_limits(database: Database, tenant_id: TenantId, limits: Mapping[str, int]) -> None:
    """Give a tenant limits of its own.

    Args:
        limits: Bytes by content type, or by `all` for the types together; what is not named stays as it is.
    """
    async with database.transaction() as connection:
        for content_type, limit_bytes in limits.items():
            await sql.set_storage_limit(
                connection, tenant_id=tenant_id, content_type=content_type, limit_bytes=limit_bytes
            )


async def clear_storage_limits(database: Database, tenant_id: TenantId) -> None:
    """Let the settings hold for a tenant again."""
    async with database.connection() as connection:
        await sql.clear_storage_limits(connection, tenant_id=tenant_id)


async def budget_by_scope(
    database: Database, *, day: date, everyone: UUID, tenant_id: TenantId | None = None
) -> Sequence[BudgetUse]:
    """List what the active tenants, and last all together, used and hold in a day, its month, and calls under way.

    Args:
        everyone: The scope of all tenants together.
        tenant_id: Only this one, and all together.
    """
    async with database.connection() as connection:
        rows = sql.budget_by_scope(
            connection, tenant_id=tenant_id, everyone=everyone, day=day, month=day.replace(day=1)
        )
        return [BudgetUse(**row) async for row in rows]


async def set_budget_limits(
    database: Database, scope: UUID, limits: Mapping[str, tuple[int | None, int | None]]
) -> None:
    """Give a tenant, or all together, limits of their own.

    Args:
        limits: (tokens, requests) by period; None leaves a figure as it is.
    """
    async with database.transaction() as connection:
        for period, (tokens, requests) in limits.items():
            await sql.set_budget_limit(connection, scope=scope, period=period, tokens=tokens, requests=requests)


async def clear_budget_limits(database: Database, scope: UUID) -> None:
    """Let the settings hold for a tenant, or for all together, again."""
    async with database.connection() as connection:
        await sql.clear_budget_limits(connection, scope=scope)


async def token_counts(database: Database) -> Mapping[Prompt, Mapping[int, int]]:
    """Count settled calls by their tokens, rounded up, for every model and prompt."""
    counts: dict[Prompt, dict[int, int]] = defaultdict(dict)
    async with database.connection() as connection:
        async for row in sql.all_token_counts(connection):
            counts[Prompt(row["provider"], row["model"], row["prompt"])][row["tokens"]] = row["calls"]
    return counts
