"""Enriched posts in Postgres. What is not here: how results are aggregated (`core/enrichment.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.ledger import record_counts
from vision_assets.core.enrichment import AGGREGATION_VERSION, NO_ROOM, Enrichment, PictureOfPost, PostToEnrich
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import SCHEMA_VERSION, VisionResult

sql = statements("enrichment")


@dataclass(frozen=True, slots=True)
class PostgresEnrichment:
    """Implements `core.enrichment.EnrichmentLedger`."""

    database: Database

    async def unenriched(
        self, tenant_id: TenantId, *, provider: str, model: str, after: int, limit: int, again: bool
    ) -> tuple[Sequence[PostToEnrich], int]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = [
                row
                async for row in sql.unenriched(
                    connection,
                    tenant_id=tenant_id,
                    provider=provider,
                    model=model,
                    schema_version=SCHEMA_VERSION,
                    aggregation_version=AGGREGATION_VERSION,
                    after_seq=after,
                    row_limit=limit,
                    again=again,
                    no_room=NO_ROOM,
                )
            ]
        posts = [
            PostToEnrich(
                post_id=row["post_id"],
                grouped_id=row["grouped_id"],
                params_hash=row["params_hash"],
                pictures=tuple(
                    PictureOfPost(
                        **picture | {"result": picture["result"] and VisionResult.from_document(picture["result"])}
                    )
                    for picture in row["pictures"]
                ),
            )
            for row in rows
        ]
        return posts, rows[-1]["seq"] if rows else after

    async def record(self, tenant_id: TenantId, rows: Sequence[Enrichment]) -> None:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await sql.record(
                connection,
                tenant_id=tenant_id,
                post_ids=[row.post_id for row in rows],
                providers=[row.provider for row in rows],
                params_hashes=[row.params_hash for row in rows],
                data=[row.data for row in rows],
                statuses=[row.status for row in rows],
                errors=[row.error for row in rows],
            )
            await record_counts(connection, tenant_id, "posts_enriched_total", [{"status": row.status} for row in rows])
