"""The databases: all that the core asks of Postgres, and the retention of Dagster's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import dagster as dg
from pydantic import Field

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.billing import PostgresBilling
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.cleanup import PostgresCleanup
from vision_assets.clients.postgres.clusters import PostgresClusters
from vision_assets.clients.postgres.dagster_events import prune_events
from vision_assets.clients.postgres.dead_letters import PostgresDeadLetters
from vision_assets.clients.postgres.enrichment import PostgresEnrichment
from vision_assets.clients.postgres.media import PostgresMedia
from vision_assets.clients.postgres.orphans import PostgresOrphans
from vision_assets.clients.postgres.posts import find_tenant, list_tenants, tenants_activity
from vision_assets.clients.postgres.quote import PostgresQuote
from vision_assets.clients.postgres.search import PostgresIndexLedger
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.clients.postgres.usage import PostgresReconciliation
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.coalesced_ledger import CoalescedLedger
from vision_assets.core.tenants import Tenant, TenantId


@dataclass(frozen=True, slots=True)
class Ledgers:
    """All that the core asks of Postgres, over one pool; the budget has connections of its own."""

    database: Database
    media: PostgresMedia
    vision: PostgresVision
    quote: PostgresQuote
    enrichment: PostgresEnrichment
    storage: CoalescedLedger
    budget: PostgresBudget
    cleanup: PostgresCleanup
    reconciliation: PostgresReconciliation
    orphans: PostgresOrphans
    index: PostgresIndexLedger
    clusters: PostgresClusters
    line: PostgresLine
    billing: PostgresBilling
    dead_letters: PostgresDeadLetters

    async def tenant(self, tenant_id: str) -> Tenant:
        """Find an active tenant.

        Raises:
            TenantUnknown: There is none.
        """
        return await find_tenant(self.database, tenant_id)

    async def tenants(self) -> list[Tenant]:
        """List the active tenants."""
        return await list_tenants(self.database)

    async def tenants_activity(self) -> dict[TenantId, bool]:
        """Tell of every tenant whether it is active."""
        return await tenants_activity(self.database)


class PostgresResource(dg.ConfigurableResource[None]):
    """The project's Postgres database."""

    database_url: str = Field(description="postgresql://user:password@host:port/database")
    max_connections: int = Field(default=8, description="Of one step")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledgers]:
        """Open a pool in the running event loop, and close it at the end."""
        async with (
            Database.open(self.database_url, max_size=self.max_connections) as database,
            PostgresBudget.open(self.database_url) as budget,
            CoalescedLedger.over(PostgresStorage(database)) as storage,
        ):
            yield Ledgers(
                database=database,
                media=PostgresMedia(database),
                vision=PostgresVision(database),
                quote=PostgresQuote(database),
                enrichment=PostgresEnrichment(database),
                storage=storage,
                budget=budget,
                cleanup=PostgresCleanup(database),
                reconciliation=PostgresReconciliation(database),
                orphans=PostgresOrphans(database),
                index=PostgresIndexLedger(database),
                clusters=PostgresClusters(database),
                line=PostgresLine(database),
                billing=PostgresBilling(database),
                dead_letters=PostgresDeadLetters(database),
            )


class DagsterStorageResource(dg.ConfigurableResource[None]):
    """Dagster's own database, for its retention alone."""

    database_url: str = Field(description="postgresql+psycopg2://user:password@host:port/database, as Dagster has it")
    event_retention_days: int = 30

    async def prune(self, *, before: datetime) -> int:
        """Delete old log events and outcomes of checks.

        Returns:
            Number of events and outcomes deleted.
        """
        url = self.database_url.replace("postgresql+psycopg2://", "postgresql://", 1)
        async with Database.open(url, max_size=1) as database:
            return await prune_events(database, before=before)
