"""The object ledger against a listing, in Postgres. What is not here: counting a single put (`ledger.py`)."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.ledger import lock_usage
from vision_assets.core.reconcile import Drift, TypeUsage, UsageReport
from vision_assets.core.storage import ContentType, StoredObject
from vision_assets.core.tenants import TenantId

sql = statements("usage")


@dataclass(frozen=True, slots=True)
class PostgresListing:
    """Implements `core.reconcile.ListingLedger`."""

    database: Database

    async def reconcile(
        self, tenant_id: TenantId, listing: AsyncIterator[Sequence[tuple[StoredObject, ContentType]]]
    ) -> UsageReport:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            # The server's clock, as the ledger's own times are.
            listed_from = await connection.fetchval("SELECT clock_timestamp()")
            await sql.begin_listing(connection)
            listed = 0
            async for chunk in listing:
                await connection.copy_records_to_table(
                    "listing", records=[(stored.key, content_type, stored.bytes) for stored, content_type in chunk]
                )
                listed += len(chunk)
            await sql.ensure_usage_rows(connection, tenant_id=tenant_id)
            await lock_usage(connection, tenant_id)
            since = {"tenant_id": tenant_id, "listed_from": listed_from}
            drift = {
                row["class"]: Drift(row["objects"], row["bytes"], tuple(row["examples"]))
                async for row in sql.drift(connection, **since)
            }
            await sql.remove_missing(connection, **since)
            await sql.take_listed(connection, **since)
            await sql.touch_usage(connection, tenant_id=tenant_id)
            usage = [TypeUsage(**row) async for row in sql.usage(connection, tenant_id=tenant_id)]
        return UsageReport(usage=tuple(usage), listed_objects=listed, **drift)
