"""References, picture objects and hashes in Postgres.

What is not here: results (`vision.py`) and usage (`storage.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.clients.postgres.ledger import record_counts, record_dead_letters, resolve_dead_letters
from vision_assets.core.errors import MediaMissing
from vision_assets.core.media import MediaObject, Outcome, Reference
from vision_assets.core.phash import ALGORITHM, PerceptualHash
from vision_assets.core.tenants import TenantId

sql = statements("media")

STAGE = "media_objects"


def signed(phash: int) -> int:
    """Turn an unsigned 64-bit hash into Postgres's signed bigint."""
    return phash - (1 << 64) if phash >> 63 else phash


@dataclass(frozen=True, slots=True)
class PostgresMedia:
    """Implements `core.media.MediaLedger`."""

    database: Database

    async def count_unfinished(self, tenant_id: TenantId) -> int:
        """See the Protocol."""
        async with self.database.connection() as connection:
            count: int = await sql.count_unfinished(connection, tenant_id=tenant_id)
            return count

    async def unfinished(
        self, tenant_id: TenantId, *, after: tuple[int, int] | None, limit: int, again: bool
    ) -> Sequence[Reference]:
        """See the Protocol."""
        after_seq, after_position = after or (-1, -1)
        async with self.database.connection() as connection:
            rows = sql.unfinished(
                connection,
                tenant_id=tenant_id,
                after_seq=after_seq,
                after_position=after_position,
                row_limit=limit,
                again=again,
            )
            return [Reference(**row) async for row in rows]

    async def find_object(self, tenant_id: TenantId, sha256: str) -> MediaObject | None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            row = await sql.find_object(connection, tenant_id=tenant_id, sha256=sha256)
            return MediaObject(**row) if row else None

    async def record(self, tenant_id: TenantId, outcomes: Sequence[Outcome]) -> None:
        """See the Protocol."""
        stored = [
            (outcome.reference, outcome.object, outcome.hash)
            for outcome in outcomes
            if outcome.object is not None and outcome.hash is not None
        ]
        async with self.database.transaction() as connection:
            await sql.record_objects(
                connection,
                tenant_id=tenant_id,
                sha256s=[picture.sha256 for _, picture, _ in stored],
                mimes=[picture.mime for _, picture, _ in stored],
                bytes=[picture.bytes for _, picture, _ in stored],
                widths=[picture.width for _, picture, _ in stored],
                heights=[picture.height for _, picture, _ in stored],
                frames=[picture.frames for _, picture, _ in stored],
                s3_keys=[picture.s3_key for _, picture, _ in stored],
                measured=[
                    picture.measured.model_dump(mode="json") if picture.measured else None for _, picture, _ in stored
                ],
                post_seqs=[reference.post_seq for reference, _, _ in stored],
                positions=[reference.position for reference, _, _ in stored],
            )
            await _record_hashes(connection, tenant_id, [(picture.sha256, hashed) for _, picture, hashed in stored])
            await sql.record_states(
                connection,
                tenant_id=tenant_id,
                post_ids=[outcome.reference.post_id for outcome in outcomes],
                positions=[outcome.reference.position for outcome in outcomes],
                source_uris=[outcome.reference.source_uri for outcome in outcomes],
                states=[outcome.state for outcome in outcomes],
                sha256s=[outcome.object.sha256 if outcome.object else None for outcome in outcomes],
                reasons=[outcome.reason for outcome in outcomes],
                errors=[outcome.error for outcome in outcomes],
            )
            await sql.reconsider(connection, tenant_id=tenant_id, sha256s=[picture.sha256 for _, picture, _ in stored])
            await record_dead_letters(
                connection,
                tenant_id,
                [
                    (STAGE, _item(o.reference), o.error_class or "", o.reason or "", o.error or "")
                    for o in outcomes
                    if o.object is None
                ],
            )
            await resolve_dead_letters(
                connection, tenant_id, stage=STAGE, items=[_item(reference) for reference, _, _ in stored]
            )
            await resolve_dead_letters(
                connection, tenant_id, stage="phash_index", items=[picture.sha256 for _, picture, _ in stored]
            )
            await record_counts(
                connection,
                tenant_id,
                "media_references_total",
                [{"state": outcome.state, "reason": outcome.reason or "stored"} for outcome in outcomes],
            )

    async def unhashed(
        self, tenant_id: TenantId, *, algorithm: str, after: str | None, limit: int
    ) -> Sequence[MediaObject]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.unhashed(
                connection, tenant_id=tenant_id, algorithm=algorithm, after=after or "", row_limit=limit
            )
            return [MediaObject(**row) async for row in rows]

    async def record_hashes(self, tenant_id: TenantId, hashes: Sequence[tuple[str, PerceptualHash]]) -> None:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await _record_hashes(connection, tenant_id, hashes)
            await resolve_dead_letters(
                connection, tenant_id, stage="phash_index", items=[sha256 for sha256, _ in hashes]
            )

    async def record_dead_letter(
        self, tenant_id: TenantId, *, stage: str, item: str, error_class: str, reason: str, message: str
    ) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await record_dead_letters(connection, tenant_id, [(stage, item, error_class, reason, message)])

    async def record_object_lost(self, tenant_id: TenantId, sha256: str, error: MediaMissing, *, stage: str) -> None:
        """See the Protocol."""
        await record_object_lost(self.database, tenant_id, sha256, error, stage=stage)


async def record_object_lost(
    database: Database, tenant_id: TenantId, sha256: str, error: MediaMissing, *, stage: str
) -> None:
    """Forget a picture whose object is gone from S3; its references are to do again, and a dead letter says so."""
    async with database.transaction() as connection:
        await sql.reopen_references(connection, tenant_id=tenant_id, sha256=sha256)
        await sql.forget_object(connection, tenant_id=tenant_id, sha256=sha256)
        await record_dead_letters(
            connection, tenant_id, [(stage, sha256, type(error).__name__, error.reason, str(error))]
        )


def _item(reference: Reference) -> str:
    return f"{reference.post_id}/{reference.position}"


async def _record_hashes(
    connection: Connection, tenant_id: TenantId, hashes: Sequence[tuple[str, PerceptualHash]]
) -> None:
    await sql.record_hashes(
        connection,
        tenant_id=tenant_id,
        algorithm=ALGORITHM,
        sha256s=[sha256 for sha256, _ in hashes],
        phashes=[signed(hashed.phash) for _, hashed in hashes],
        phash256s=[hashed.phash256 for _, hashed in hashes],
        thumbnails=[hashed.thumbnail for _, hashed in hashes],
        qualities=[hashed.quality for _, hashed in hashes],
        flags=[",".join(hashed.flags) for _, hashed in hashes],
    )
