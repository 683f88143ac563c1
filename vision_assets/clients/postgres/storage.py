"""The object ledger in Postgres: slots of operations, and the usage that follows from the rows by triggers.

What is not here: what is admitted (`core/object_ledger.py`), the limits' editing (`limits.py`), and the comparison with
a listing (`usage.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.clients.postgres.ledger import record_counts
from vision_assets.core.durations import QUOTA_CHECKS
from vision_assets.core.errors import TenantUnknown
from vision_assets.core.object_ledger import (
    Begun,
    Committed,
    Decision,
    Entry,
    Operation,
    Overdue,
    Place,
    Refused,
    Slot,
    Taken,
    decide,
)
from vision_assets.core.quota import OwnLimits, RefusalReason, StorageLimits, TenantUsage, Usage
from vision_assets.core.storage import CONTENT_TYPES, ContentType
from vision_assets.core.tenants import TenantId

sql = statements("storage")

REFUSALS = "storage_quota_violations_total"

NOTHING: Mapping[ContentType, Usage] = dict.fromkeys(CONTENT_TYPES, Usage())


@dataclass(frozen=True, slots=True)
class PostgresStorage:
    """Implements `core.object_ledger.StorageLedger`."""

    database: Database

    async def begin(
        self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
    ) -> Sequence[Begun]:
        """See the Protocol."""
        if not operations:
            return []
        async with self.database.transaction() as connection:
            return await begin_operations(connection, operations, limits=limits, now=now, until=until)

    async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
        """See the Protocol."""
        if not outcomes:
            return []
        # What this process has put or deleted is booked by one statement, which commits by itself.
        looked_at = [
            one
            for one in outcomes
            if one.operation.kind != "delete" and (one.modified_at is not None or one.bytes is None)
        ]
        lend = self.database.transaction if looked_at else self.database.connection
        async with lend() as connection:
            if looked_at:
                await lock_usage(connection, (one.operation.tenant_id for one in outcomes))
                await sql.note_corrections(
                    connection,
                    tenant_ids=[one.operation.tenant_id for one in looked_at],
                    s3_keys=[one.operation.key for one in looked_at],
                    op_ids=[one.operation.id for one in looked_at],
                    sizes=[one.bytes for one in looked_at],
                    modified=[one.modified_at for one in looked_at],
                )
            rows = sql.commit(
                connection,
                tenant_ids=[one.operation.tenant_id for one in outcomes],
                s3_keys=[one.operation.key for one in outcomes],
                content_types=sorted({one.operation.content_type for one in outcomes}),
                op_ids=[one.operation.id for one in outcomes],
                puts=[one.operation.kind == "put" for one in outcomes],
                sizes=[one.bytes for one in outcomes],
                modified=[one.modified_at for one in outcomes],
            )
            booked = {row["op_id"] async for row in rows}
        return [one.operation.id in booked for one in outcomes]

    async def overdue(self, tenant_id: TenantId, *, now: datetime, until: datetime, limit: int) -> Sequence[Taken]:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await lock_usage(connection, [tenant_id])
            rows = sql.overdue(connection, tenant_id=tenant_id, now=now, op_until=until, row_limit=limit)
            return [
                (
                    Operation(row["op_id"], tenant_id, row["s3_key"], row["content_type"], "verify"),
                    Overdue(row["bytes"], row["op_delta"]),
                )
                async for row in rows
            ]

    async def usage(self, tenant_id: TenantId) -> TenantUsage:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = [row async for row in sql.usage(connection, tenant_id=tenant_id)]
        if not rows:
            raise TenantUnknown(f"There is no tenant {tenant_id}.")
        everyone = {
            row["content_type"]: Usage(row["all_total_bytes"], row["all_reserved_bytes"], row["all_objects_count"])
            for row in rows
        }
        return _tenant_usage(rows, everyone)

    async def count_unchecked(self, checks: Mapping[TenantId, int]) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.count_unchecked(connection, tenant_ids=list(checks), checks=list(checks.values()))

    async def count_refused(self, tenant_id: TenantId, reason: RefusalReason) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await record_counts(connection, tenant_id, REFUSALS, [{"reason": reason}])


async def lock_usage(connection: Connection, tenant_ids: Iterable[TenantId]) -> dict[TenantId, TenantUsage]:
    """Lock tenants' usage, before anything of their object ledger is read or changed in this transaction.

    Returns:
        Their usage, without that of all together; tenants that do not exist are left out.
    """
    rows: dict[TenantId, list[Any]] = {}
    async for row in sql.lock_usage(connection, tenant_ids=sorted(set(tenant_ids))):
        rows.setdefault(row["tenant_id"], []).append(row)
    return {tenant_id: _tenant_usage(own, NOTHING) for tenant_id, own in rows.items()}


async def lock_totals(connection: Connection) -> dict[ContentType, Usage]:
    """Lock what all tenants have together, after the usage of those whose usage is locked; give it by type."""
    return {row["content_type"]: _usage(row) async for row in sql.lock_totals(connection)}


async def begin_operations(
    connection: Connection, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
) -> Sequence[Begun]:
    """Take the slots of operations in a transaction that may do more than that; see `StorageLedger.begin`."""
    usage = await lock_usage(connection, (operation.tenant_id for operation in operations))
    entries = await _entries(connection, operations)
    if any(_needs_room(operation, entries) for operation in operations):
        everyone = await lock_totals(connection)
        usage = {tenant_id: TenantUsage(one.types, everyone, one.own) for tenant_id, one in usage.items()}
    decision = decide(operations, entries=entries, usage=usage, limits=limits, now=now, until=until)
    await _write(connection, decision, until=until)
    refused: dict[TenantId, list[dict[str, str]]] = {}
    for operation, answer in zip(operations, decision.answers, strict=True):
        if isinstance(answer, Refused):
            refused.setdefault(operation.tenant_id, []).append({"reason": answer.reason})
    for tenant_id, events in refused.items():
        await record_counts(connection, tenant_id, REFUSALS, events)
    return decision.answers


def _needs_room(operation: Operation, entries: Mapping[Place, Entry]) -> bool:
    entry = entries.get((operation.tenant_id, operation.key), Entry(None))
    return operation.kind == "put" and entry.slot is None and operation.size_bytes > (entry.bytes or 0)


async def _entries(connection: Connection, operations: Sequence[Operation]) -> dict[Place, Entry]:
    rows = sql.entries(
        connection,
        tenant_ids=[operation.tenant_id for operation in operations],
        s3_keys=[operation.key for operation in operations],
    )
    return {(row["tenant_id"], row["s3_key"]): Entry(row["bytes"], _slot(row)) async for row in rows}


def _slot(row: Mapping[str, Any]) -> Slot | None:
    if row["op_id"] is None:
        return None
    return Slot(row["op_id"], row["op_kind"], row["op_bytes"], row["op_delta"], row["op_until"])


def _usage(row: Mapping[str, Any]) -> Usage:
    return Usage(row["total_bytes"], row["reserved_bytes"], row["objects_count"])


def _tenant_usage(rows: Sequence[Mapping[str, Any]], everyone: Mapping[ContentType, Usage]) -> TenantUsage:
    own = OwnLimits(
        tenant_bytes=rows[0]["tenant_limit_bytes"],
        type_bytes={row["content_type"]: limit for row in rows if (limit := row["type_limit_bytes"]) is not None},
    )
    return TenantUsage({row["content_type"]: _usage(row) for row in rows}, everyone, own)


async def _write(connection: Connection, decision: Decision, *, until: datetime) -> None:
    if decision.slots:
        slots = [slot for _, slot in decision.slots.values()]
        await sql.take_slots(
            connection,
            tenant_ids=[tenant_id for tenant_id, _ in decision.slots],
            s3_keys=[key for _, key in decision.slots],
            content_types=[content_type for content_type, _ in decision.slots.values()],
            op_ids=[slot.id for slot in slots],
            op_kinds=[slot.kind for slot in slots],
            op_bytes=[slot.size_bytes for slot in slots],
            op_deltas=[slot.held_bytes for slot in slots],
            op_until=until,
            bounds_seconds=list(QUOTA_CHECKS.bounds_seconds),
            buckets=list(QUOTA_CHECKS.labels),
        )
    if decision.used:
        await sql.use(
            connection,
            tenant_ids=[tenant_id for tenant_id, _ in decision.used],
            s3_keys=[key for _, key in decision.used],
        )
