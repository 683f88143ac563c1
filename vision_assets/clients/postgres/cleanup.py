"""What may go from S3, and the transaction that lets go of it. What is not here: how much goes (`core/cleanup.py`)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.clients.postgres.storage import begin_operations, lock_usage
from vision_assets.core.cleanup import Candidate, Count, Cursor, Step
from vision_assets.core.errors import CleanupUnderWay
from vision_assets.core.object_ledger import Granted, Operation, Taken
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import ContentType
from vision_assets.core.tenants import TenantId

sql = statements("cleanup")

ORDER: tuple[ContentType, ...] = ("crawl", "vision", "media")
"""Results are let go of before their picture: one that stays in S3 keeps it."""

BEGINNING: Cursor = (datetime(1970, 1, 1, tzinfo=UTC), TenantId(UUID(int=0)), "")


@dataclass(frozen=True, slots=True)
class PostgresCleanup:
    """Implements `core.cleanup_pass.CleanupLedger`."""

    database: Database

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """See the Protocol. A clean-up that is killed keeps nobody out: the lock goes with its connection."""
        async with self.database.session() as connection:
            if not await sql.try_lock(connection):
                raise CleanupUnderWay("Another clean-up of the storage is under way; try again when it has ended.")
            yield

    async def taken_bytes(self) -> int:
        """See the Protocol."""
        async with self.database.connection() as connection:
            taken_bytes: int = await sql.taken_bytes(connection)
            return taken_bytes

    async def overdue_tenants(self, *, now: datetime) -> Sequence[TenantId]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            return [TenantId(row["tenant_id"]) async for row in sql.overdue_tenants(connection, now=now)]

    async def candidates(self, step: Step, *, after: Cursor | None, limit: int) -> Sequence[Candidate]:
        """See the Protocol."""
        after_at, after_tenant, after_key = after or BEGINNING
        page = {"after_at": after_at, "after_tenant": after_tenant, "after_key": after_key, "row_limit": limit}
        async with self.database.connection() as connection:
            if step.content_type == "media":
                rows = sql.unreferenced_pictures(
                    connection,
                    before=step.before,
                    settled_before=step.settled_before,
                    vision_before=step.vision_before,
                    **page,
                )
            else:
                rows = sql.old_objects(connection, content_type=step.content_type, before=step.before, **page)
            return [_candidate(row) async for row in rows]

    async def claim(
        self,
        tenant_id: TenantId,
        candidates: Sequence[Candidate],
        *,
        step: Step,
        limits: StorageLimits,
        now: datetime,
        until: datetime,
    ) -> Sequence[Taken]:
        """See the Protocol."""
        operations: list[Operation] = []
        async with self.database.transaction() as connection:
            await lock_usage(connection, [tenant_id])
            pictures = [candidate.key for candidate in candidates if candidate.content_type == "media"]
            if pictures:
                await sql.lock_pictures(connection, tenant_id=tenant_id, s3_keys=pictures)
            for content_type in ORDER:
                keys = [candidate.key for candidate in candidates if candidate.content_type == content_type]
                if not keys:
                    continue
                gone = await _still(connection, tenant_id, content_type, keys, step=step)
                await _forget(connection, tenant_id, content_type, gone)
                operations += [Operation(uuid4(), tenant_id, key, content_type, "delete") for key in gone]
            begun = await begin_operations(connection, operations, limits=limits, now=now, until=until)
        # All are granted: under the tenant's lock, nothing was under way for them.
        return [(o, answer) for o, answer in zip(operations, begun, strict=True) if isinstance(answer, Granted)]

    async def stored(self, tenant_id: TenantId, keys: Sequence[str]) -> frozenset[str]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.stored(connection, tenant_id=tenant_id, s3_keys=keys)
            return frozenset([row["s3_key"] async for row in rows])

    async def count(self, tenant_id: TenantId, amounts: Sequence[Count]) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.count(
                connection,
                tenant_id=tenant_id,
                names=[one.name for one in amounts],
                labels=[dict(one.labels) for one in amounts],
                amounts=[one.amount for one in amounts],
            )


async def _still(
    connection: Connection, tenant_id: TenantId, content_type: ContentType, keys: Sequence[str], *, step: Step
) -> list[str]:
    """Tell which objects may go now; whatever makes them stay waits until the transaction ends.

    Args:
        content_type: The step's own, or `vision` for results that go with their picture, whatever their age.
    """
    of_tenant = {"tenant_id": tenant_id, "s3_keys": keys}
    if content_type == "media":
        rows = sql.still_unreferenced(connection, before=step.before, settled_before=step.settled_before, **of_tenant)
    else:
        before = step.before if content_type == step.content_type else step.settled_before
        rows = sql.still_old(connection, before=before, **of_tenant)
    return [row["s3_key"] async for row in rows]


async def _forget(connection: Connection, tenant_id: TenantId, content_type: ContentType, keys: Sequence[str]) -> None:
    """Take objects out of the registries that tell of them."""
    gone = {"tenant_id": tenant_id, "s3_keys": keys}
    if content_type == "vision":
        await sql.forget_results(connection, **gone)
        await sql.lock_enriched(connection, **gone)
        await sql.forget_keys_of_posts(connection, **gone)
        await sql.forget_summaries(connection, **gone)
    elif content_type == "media":
        await sql.forget_pictures(connection, **gone)


def _candidate(row: Mapping[str, Any]) -> Candidate:
    tenant_id = TenantId(row["tenant_id"])
    return Candidate(
        tenant_id=tenant_id,
        key=row["s3_key"],
        content_type=row["content_type"],
        bytes=row["bytes"],
        place=(row["place_at"], tenant_id, row["place_key"]),
    )
