"""Objects that no row refers to, in Postgres. What is not here: old objects, which go by their age (`cleanup.py`)."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import uuid4

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.storage import begin_operations, lock_usage
from vision_assets.core.object_ledger import Granted, Operation, Taken
from vision_assets.core.orphans import EXAMPLES, Orphans
from vision_assets.core.quota import StorageLimits
from vision_assets.core.tenants import TenantId

sql = statements("orphans")


@dataclass(frozen=True, slots=True)
class PostgresOrphans:
    """Implements `core.orphans.OrphanLedger`."""

    database: Database

    async def orphans(self, tenant_id: TenantId, *, before: datetime) -> Sequence[Orphans]:
        """See the Protocol."""
        rows = await self._first(tenant_id, before=before, per_folder=EXAMPLES)
        folders = groupby(rows, key=lambda row: (row["folder"], row["folder_objects"], row["folder_bytes"]))
        return [Orphans(*folder, tuple(row["s3_key"] for row in examples)) for folder, examples in folders]

    async def nominated(self, tenant_id: TenantId, *, before: datetime, per_folder: int) -> Sequence[str]:
        """See the Protocol."""
        return [row["s3_key"] for row in await self._first(tenant_id, before=before, per_folder=per_folder)]

    async def take_orphans(
        self,
        tenant_id: TenantId,
        keys: Sequence[str],
        *,
        limits: StorageLimits,
        before: datetime,
        now: datetime,
        until: datetime,
    ) -> Sequence[Taken]:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await lock_usage(connection, [tenant_id])
            rows = sql.still_orphans(connection, tenant_id=tenant_id, s3_keys=keys, before=before)
            operations = [
                Operation(uuid4(), tenant_id, row["s3_key"], row["content_type"], "delete") async for row in rows
            ]
            answers = await begin_operations(connection, operations, limits=limits, now=now, until=until)
        return [(one, answer) for one, answer in zip(operations, answers, strict=True) if isinstance(answer, Granted)]

    async def tenants(self) -> AbstractSet[TenantId]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            return {row["id"] async for row in sql.tenants(connection)}

    async def _first(self, tenant_id: TenantId, *, before: datetime, per_folder: int) -> Sequence[Mapping[str, Any]]:
        async with self.database.connection() as connection:
            rows = sql.orphans(connection, tenant_id=tenant_id, before=before, per_folder=per_folder)
            return [row async for row in rows]
