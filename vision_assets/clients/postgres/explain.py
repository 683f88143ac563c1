"""What is known of one picture and of the decisions about its result, in Postgres, for people.

What is not here: how it is shown (`cli/explain.py`), and writing any of it (`media.py`, `vision.py`, `reuse.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vision_assets.clients.postgres import Database, statements
from vision_assets.core.errors import PictureUnknown
from vision_assets.core.tenants import TenantId

sql = statements("explain")

_SHA256 = re.compile(r"[0-9a-f]{1,64}")
_BEYOND = "g"  # after every hex digit
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class PictureOverview:
    """A stored picture.

    Attributes:
        first_seen_at: Aware UTC.
        algorithm: Of its hash; None: it has none.
        phash: As imagehash prints it; None: it has none.
        quality: Of the hash, 0–1; None: not known.
        flags: Why the hash is never matched; empty when it may be.
        taken_by: Pictures that took its result.
    """

    sha256: str
    mime: str
    bytes: int
    width: int
    height: int
    s3_key: str
    first_seen_at: datetime
    algorithm: str | None
    phash: str | None
    quality: float | None
    flags: tuple[str, ...]
    taken_by: int


@dataclass(frozen=True, slots=True)
class ResultOverview:
    """What a picture has got of one provider and model.

    Attributes:
        reason: Why there is no answer, or none in S3.
        kind: Of picture, by the answer; None: there is none.
        analyzed_at: Aware UTC.
    """

    provider: str
    model: str
    status: str
    method: str
    reason: str | None
    donor_sha256: str | None
    kind: str | None
    tokens_used: int
    analyzed_at: datetime


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """What was decided about one candidate.

    Attributes:
        aspect_difference: By how much of itself the smaller aspect ratio is exceeded by the other.
        cell_difference: Largest of one of 64×64 luma cells, of 255.
        quality: Of both hashes the lower one, 0–1; None: not known.
        decided_at: Aware UTC.
        s3_key: Of the candidate; None, as its size: it is gone.
    """

    candidate_sha256: str
    provider: str
    model: str
    distance_bits: int
    distance_256_bits: int
    aspect_difference: float
    cell_difference: float
    quality: float | None
    strictness: str
    verdict: str
    reason: str
    decided_at: datetime
    s3_key: str | None
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class Explained:
    """All that is known of a picture and of the reuse of results for it."""

    picture: PictureOverview
    results: tuple[ResultOverview, ...]
    decisions: tuple[StoredDecision, ...]


async def find_picture(database: Database, tenant_id: TenantId, beginning: str) -> str:
    """Find the one picture of a tenant whose sha256 begins so; denied ones count, even if they are gone.

    Raises:
        PictureUnknown: There is none, or more than one, or this is no sha256.
    """
    first = beginning.strip().lower()
    if not _SHA256.fullmatch(first):
        raise PictureUnknown(f"{beginning!r} is no sha256: write its 64 hex digits, or the first few.")
    async with database.connection() as connection:
        rows = sql.beginning_with(
            connection, tenant_id=tenant_id, first=first, beyond=first + _BEYOND, row_limit=_EXAMPLES + 1
        )
        found = [row["sha256"] async for row in rows]
    if not found:
        raise PictureUnknown(f"No picture of this tenant has a sha256 that begins with {first}.")
    if len(found) > 1:
        examples = ", ".join(f"{sha256[: len(first) + 8]}…" for sha256 in found[:_EXAMPLES])
        more = " and more" if len(found) > _EXAMPLES else ""
        raise PictureUnknown(f"Several pictures begin with {first}: {examples}{more}. Write more digits.")
    return str(found[0])


async def explain(database: Database, tenant_id: TenantId, sha256: str) -> Explained:
    """Read what is known of a picture.

    Raises:
        PictureUnknown: It is not stored.
    """
    async with database.connection() as connection:
        row = await sql.picture(connection, tenant_id=tenant_id, sha256=sha256)
        if row is None:
            raise PictureUnknown(f"The picture {sha256} is not stored any more.")
        results = [ResultOverview(**one) async for one in sql.results(connection, tenant_id=tenant_id, sha256=sha256)]
        decided = sql.decisions(connection, tenant_id=tenant_id, sha256=sha256)
        return Explained(_picture(row), tuple(results), tuple([StoredDecision(**one) async for one in decided]))


def _picture(row: Mapping[str, Any]) -> PictureOverview:
    fields = dict(row)
    phash = fields.pop("phash")
    return PictureOverview(
        **fields | {"flags": tuple(row["flags"] or ())},
        phash=None if phash is None else f"{phash & 0xFFFF_FFFF_FFFF_FFFF:016x}",
    )
