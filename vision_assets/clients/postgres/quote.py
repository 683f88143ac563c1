"""What a quote asks of Postgres: nothing here writes. What is not here: what is to do (`vision.py`)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.ledger import identity
from vision_assets.clients.postgres.neighbours import near
from vision_assets.clients.postgres.reuse import read_denials
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.quote import Pace
from vision_assets.core.quoting import Near
from vision_assets.core.reuse import Denials
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import ProviderIdentity
from vision_assets.core.vision_ledger import Medium, ToDo

sql = statements("quote")


@dataclass(frozen=True, slots=True)
class PostgresQuote:
    """Implements `core.quoting.QuoteLedger`."""

    database: Database

    async def count_unanalysed(self, tenant_id: TenantId, todo: ToDo) -> int:
        """See the Protocol."""
        return await PostgresVision(self.database).count_unanalysed(tenant_id, todo)

    async def unanalysed(
        self, tenant_id: TenantId, todo: ToDo, *, after: tuple[int, int, str], limit: int
    ) -> Sequence[Medium]:
        """See the Protocol."""
        return await PostgresVision(self.database).unanalysed(tenant_id, todo, after=after, limit=limit)

    async def in_storage(
        self, tenant_id: TenantId, keys: Mapping[str, str], *, provider: ProviderIdentity
    ) -> Collection[str]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.in_storage(
                connection,
                tenant_id=tenant_id,
                sha256s=list(keys),
                s3_keys=list(keys.values()),
                **identity(provider),
            )
            return {row["sha256"] async for row in rows}

    async def near(
        self, tenant_id: TenantId, media: Sequence[Medium], *, provider: ProviderIdentity
    ) -> Mapping[str, Near]:
        """See the Protocol."""
        return await near(self.database, tenant_id, media, provider=provider)

    async def denials(self, tenant_id: TenantId) -> Denials:
        """See the Protocol."""
        return await read_denials(self.database, tenant_id)

    async def pace(self, tenant_id: TenantId, *, provider: ProviderIdentity) -> Pace:
        """See the Protocol."""
        async with self.database.connection() as connection:
            row = await sql.pace(connection, tenant_id=tenant_id, provider=provider.name, model=provider.model)
            return Pace(row["calls"], row["milliseconds"] / 1000)
