"""Decisions about the reuse of results, and denials, in Postgres.

What is not here: candidates and results (`vision.py`), and what is shown of a decision (`explain.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.core.phash import ALGORITHM
from vision_assets.core.reuse import Denials, Denier, Judged
from vision_assets.core.storable_text import storable
from vision_assets.core.tenants import TenantId

sql = statements("reuse")


@dataclass(frozen=True, slots=True)
class Denial:
    """That a picture is never reused.

    Attributes:
        tenant: Its name.
        reason: For people.
        created_at: Aware UTC.
    """

    tenant: str
    sha256: str
    origin: Denier
    reason: str
    created_at: datetime


async def record_reuse(
    connection: Connection, tenant_id: TenantId, decided: Sequence[Judged], *, provider: str, model: str
) -> None:
    """Write what was decided about candidates; all that stood about the same pictures goes."""
    await sql.record_reuse(
        connection,
        tenant_id=tenant_id,
        provider=provider,
        model=model,
        sha256s=[one.sha256 for one in decided],
        candidate_sha256s=[one.candidate.sha256 for one in decided],
        distances_bits=[one.likeness.distance_bits for one in decided],
        distances_256_bits=[one.likeness.distance_256_bits for one in decided],
        aspect_differences=[one.likeness.aspect_difference for one in decided],
        cell_differences=[one.likeness.cell_difference for one in decided],
        strictnesses=[one.strictness for one in decided],
        verdicts=[one.verdict for one in decided],
        reasons=[one.reason for one in decided],
    )


async def record_refusals(
    connection: Connection, tenant_id: TenantId, refused: Sequence[Judged], **identity: str
) -> None:
    """Write why pictures took no candidate's result, but for those that got one meanwhile, from another worker.

    Args:
        connection: In a transaction.
        identity: Of the provider's results, by the columns' names.
    """
    sha256s = sorted({one.sha256 for one in refused})
    await sql.lock_pictures(connection, tenant_id=tenant_id, sha256s=sha256s)
    rows = sql.reusing(connection, tenant_id=tenant_id, sha256s=sha256s, **identity)
    reusing = {row["sha256"] async for row in rows}
    await record_reuse(
        connection,
        tenant_id,
        [one for one in refused if one.sha256 not in reusing],
        provider=identity["provider"],
        model=identity["model"],
    )


async def record_quarantine(connection: Connection, tenant_id: TenantId, reasons: Mapping[str, str]) -> None:
    """Deny pictures that share their hash with too many others, unless they are denied already.

    Args:
        reasons: For people, by sha256.
    """
    await sql.quarantine(
        connection,
        tenant_id=tenant_id,
        algorithm=ALGORITHM,
        sha256s=list(reasons),
        reasons=list(reasons.values()),
    )


async def read_denials(database: Database, tenant_id: TenantId) -> Denials:
    """Read which pictures take no result and give none; where both say so of one hash, the operator's word counts."""
    found = Denials()
    async with database.connection() as connection:
        async for row in sql.denials(connection, tenant_id=tenant_id, algorithm=ALGORITHM):
            found.by_sha256[row["sha256"]] = row["origin"]
            if row["phash"] is not None:
                phash = row["phash"] & 0xFFFF_FFFF_FFFF_FFFF
                if found.by_phash.get(phash) != "operator":
                    found.by_phash[phash] = row["origin"]
    return found


async def take_back_denied(connection: Connection, tenant_id: TenantId) -> int:
    """Make results to do again that were taken from denied pictures, or by them.

    Returns:
        Of how many pictures.
    """
    count: int = await sql.take_back_denied(connection, tenant_id=tenant_id, algorithm=ALGORITHM)
    return count


async def deny(database: Database, tenant_id: TenantId, sha256: str, *, reason: str) -> int:
    """Let a picture, and whatever has exactly its hash, never take a result nor give one.

    Returns:
        Of how many pictures results are to do again, because they were taken from it or by it.
    """
    async with database.transaction() as connection:
        await sql.deny(connection, tenant_id=tenant_id, algorithm=ALGORITHM, sha256=sha256, reason=storable(reason))
        return await take_back_denied(connection, tenant_id)


async def allow(database: Database, tenant_id: TenantId, sha256: str) -> bool:
    """Take a denial back.

    Returns:
        False: There is none.
    """
    async with database.connection() as connection:
        return bool(await sql.allow(connection, tenant_id=tenant_id, sha256=sha256))


async def list_denials(database: Database, tenant_id: TenantId | None) -> list[Denial]:
    """List denials, of one tenant or of all active ones."""
    async with database.connection() as connection:
        return [Denial(**row) async for row in sql.list_denials(connection, tenant_id=tenant_id)]
