"""What of each post lies in the search collection, in Postgres.

What is not here: the index itself (`clients/qdrant.py`) and when to index (`core/search.py`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.ledger import record_counts
from vision_assets.core.search import IndexablePost, IndexEntry, LedgerCounts
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import NO_POST

sql = statements("search")


@dataclass(frozen=True, slots=True)
class PostgresIndexLedger:
    """Implements `core.search.IndexLedger`."""

    database: Database

    async def posts_to_index(
        self, tenant_id: TenantId, *, encoder_version: str, collection: str, after_seq: int, limit: int
    ) -> list[IndexablePost]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.posts_to_index(
                connection,
                tenant_id=tenant_id,
                encoder_version=encoder_version,
                collection=collection,
                after_seq=after_seq,
                row_limit=limit,
            )
            return [IndexablePost(**row) async for row in rows]

    async def record(self, tenant_id: TenantId, entries: Sequence[IndexEntry], *, collection: str) -> None:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await sql.record_indexed(
                connection,
                tenant_id=tenant_id,
                collection=collection,
                post_ids=[entry.post_id for entry in entries],
                content_hashes=[entry.content_hash for entry in entries],
                reasons=[entry.reason for entry in entries],
            )
            upserted: list[dict[str, str]] = [{} for entry in entries if entry.reason is None]
            await record_counts(connection, tenant_id, "search_upserts_total", upserted)

    async def counts(self, tenant_id: TenantId, *, collection: str) -> LedgerCounts:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = [row async for row in sql.count_indexed(connection, tenant_id=tenant_id, collection=collection)]
        return LedgerCounts(
            expected=sum(row["posts"] for row in rows),
            indexed=sum(row["posts"] for row in rows if row["state"] == "indexed"),
            skipped={row["reason"]: row["posts"] for row in rows if row["state"] == "skipped"},
            first_left=min((row["first_seq"] for row in rows if row["state"] is None), default=NO_POST),
        )

    async def deleted(self, tenant_id: TenantId, post_ids: Collection[UUID]) -> set[UUID]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.deleted_posts(connection, tenant_id=tenant_id, post_ids=list(post_ids))
            return {row["post_id"] async for row in rows}

    async def indexed_posts(self, tenant_id: TenantId, *, collection: str) -> set[UUID]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.indexed_posts(connection, tenant_id=tenant_id, collection=collection)
            return {row["post_id"] async for row in rows}

    async def forget(self, tenant_id: TenantId, post_ids: Collection[UUID]) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.forget_indexed(connection, tenant_id=tenant_id, post_ids=list(post_ids))
