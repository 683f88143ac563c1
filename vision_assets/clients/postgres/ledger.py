"""The books that every stage writes to: the object ledger with its usage, dead letters, counters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.core.quota import UsedBytes
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId

sql = statements("ledger")


async def record_dead_letters(
    connection: Connection, tenant_id: TenantId, letters: Sequence[tuple[str, str, str, str, str]]
) -> None:
    """Keep what could not be done.

    Args:
        letters: (stage, item, error class, reason, message) each.
    """
    fields = ("stage", "item", "error_class", "reason", "message")
    await sql.record_dead_letters(
        connection, [{"tenant_id": tenant_id, **dict(zip(fields, letter, strict=True))} for letter in letters]
    )


async def resolve_dead_letters(
    connection: Connection, tenant_id: TenantId, *, stage: str, items: Sequence[str]
) -> None:
    """Mark dead letters as done, for items that went through after all."""
    await sql.resolve_dead_letters(connection, tenant_id=tenant_id, stage=stage, items=items)


async def record_counts(
    connection: Connection, tenant_id: TenantId, name: str, events: Sequence[Mapping[str, str]]
) -> None:
    """Raise a counter by one for each event.

    Args:
        name: As the exporter shows it.
        events: The labels of each event.
    """
    counts = Counter(tuple(sorted(labels.items())) for labels in events)
    await sql.count(
        connection,
        [
            {"tenant_id": tenant_id, "name": name, "labels": dict(labels), "value": value}
            for labels, value in sorted(counts.items())  # one order for all, so that two writers never deadlock
        ],
    )


async def forget_put(connection: Connection, tenant_id: TenantId, key: str | None) -> None:
    """Take an object that is gone out of the object ledger."""
    await lock_usage(connection, tenant_id)
    await sql.forget_put(connection, tenant_id=tenant_id, s3_key=key)


async def lock_usage(connection: Connection, tenant_id: TenantId) -> None:
    """Lock a tenant's usage, before any row of its object ledger is locked."""
    await sql.lock_usage(connection, tenant_id=tenant_id, content_type=None)


@dataclass(frozen=True, slots=True)
class PostgresUsage:
    """Implements `core.quota.UsageLedger`."""

    database: Database

    async def used_bytes(self, tenant_id: TenantId, content_type: ContentType, key: str) -> UsedBytes:
        """See the Protocol."""
        async with self.database.connection() as connection:
            return UsedBytes(
                **await sql.used_bytes(connection, tenant_id=tenant_id, content_type=content_type, s3_key=key)
            )

    async def record_put(self, tenant_id: TenantId, key: str, content_type: ContentType, size_bytes: int) -> None:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await sql.lock_usage(connection, tenant_id=tenant_id, content_type=content_type)
            await sql.record_put(
                connection, tenant_id=tenant_id, s3_key=key, content_type=content_type, size_bytes=size_bytes
            )
            await record_counts(connection, tenant_id, "storage_puts_total", [{"content_type": content_type}])
