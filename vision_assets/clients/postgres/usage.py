"""The object ledger held against a listing, in Postgres.

The listing goes into a temporary table by COPY, piece by piece. Each piece commits, so no transaction is open while S3
is listed, and no piece stays in memory. What is not here: slots and bookings (`storage.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.clients.postgres.storage import lock_totals, lock_usage
from vision_assets.core.listing import Sizes
from vision_assets.core.reconcile import DriftClass, OffSum
from vision_assets.core.tenants import TenantId

sql = statements("usage")


@dataclass(frozen=True, slots=True)
class PostgresComparison:
    """Implements `core.reconcile.Comparison`, on a connection of its own.

    Attributes:
        listed_from: By the server's clock, as the ledger's own times are.
    """

    connection: Connection
    tenant_id: TenantId
    listed_from: datetime
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def add(self, listed: Sizes) -> None:
        """See the Protocol."""
        async with self._turn:
            await self.connection.copy_records_to_table(
                "listing",
                records=zip(listed.keys, listed.sizes_bytes, strict=True),
                columns=("s3_key", "bytes"),
            )

    async def restore_sums(self) -> Sequence[OffSum]:
        """See the Protocol."""
        return [*await self._restore_usage(), *await self._restore_totals()]

    async def _restore_usage(self) -> Sequence[OffSum]:
        await sql.ensure_usage_rows(self.connection, tenant_id=self.tenant_id)
        if not await self._off_sums():
            return []
        async with self.connection.transaction():
            await lock_usage(self.connection, [self.tenant_id])
            found = await self._off_sums()  # as they are now that nobody moves them
            for off in found:
                await sql.move_usage(
                    self.connection,
                    tenant_id=self.tenant_id,
                    content_type=off.content_type,
                    objects=off.objects,
                    bytes=off.bytes,
                    reserved_bytes=off.reserved_bytes,
                )
        return found

    async def _restore_totals(self) -> Sequence[OffSum]:
        if await sql.totals_agree(self.connection):
            return []
        # Whoever moves the ledger has the totals locked until it commits; nothing is locked after them.
        async with self.connection.transaction():
            await lock_totals(self.connection)
            found = [dict(row) async for row in sql.off_totals(self.connection)]
            for off in found:
                await sql.move_totals(self.connection, **off)
        return [OffSum(**off | {"content_type": f"{off['content_type']} of all tenants"}) for off in found]

    async def compare(self) -> int:
        """See the Protocol."""
        status: str = await sql.nominate(self.connection, tenant_id=self.tenant_id, listed_from=self.listed_from)
        return int(status.rsplit(" ", 1)[1])

    async def nominated(self, *, page_size: int) -> AsyncIterator[Sequence[str]]:
        """See the Protocol."""
        after = ""
        while page := [row["s3_key"] async for row in sql.nominated(self.connection, after=after, row_limit=page_size)]:
            yield page
            after = page[-1]

    async def count_drift(self, objects: Mapping[DriftClass, int]) -> None:
        """See the Protocol."""
        await sql.count_drift(
            self.connection, tenant_id=self.tenant_id, drifts=list(objects), objects=list(objects.values())
        )

    async def finish(self) -> None:
        """See the Protocol."""
        async with self.connection.transaction():
            await lock_usage(self.connection, [self.tenant_id])
            await sql.note_reconciled(self.connection, tenant_id=self.tenant_id, listed_from=self.listed_from)

    async def _off_sums(self) -> list[OffSum]:
        return [OffSum(**row) async for row in sql.off_sums(self.connection, tenant_id=self.tenant_id)]


@dataclass(frozen=True, slots=True)
class PostgresReconciliation:
    """Implements `core.reconcile.ReconciliationLedger`."""

    database: Database

    @asynccontextmanager
    async def comparison(self, tenant_id: TenantId) -> AsyncIterator[PostgresComparison]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.open_listing(connection)
            try:
                yield PostgresComparison(connection, tenant_id, await connection.fetchval("SELECT clock_timestamp()"))
            finally:
                if not connection.is_closed():
                    await sql.close_listing(connection)
