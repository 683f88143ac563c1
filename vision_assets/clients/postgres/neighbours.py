"""Which pictures of a tenant look alike, by their hashes. What is not here: which one is a donor (`core/reuse.py`)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.ledger import identity
from vision_assets.clients.postgres.media import signed
from vision_assets.core.neighbours import CHUNKS, RADIUS_BITS, Fingerprint, differences
from vision_assets.core.phash import ALGORITHM
from vision_assets.core.quoting import Near
from vision_assets.core.reuse import Neighbour
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import ProviderIdentity, VisionResult
from vision_assets.core.vision_ledger import Medium

sql = statements("neighbours")

MAX_NEIGHBOURS = 64
"""Of one picture; each brings a thumbnail and a result into memory."""

MAX_REUSING_NEIGHBOURS = 4
"""Of one picture: others that took another's result. A picture may have thousands of copies, and none is a donor."""

_DIFFERENCES = {f"chunk{number}": differences(chunk.bits, chunk.radius_bits) for number, chunk in enumerate(CHUNKS)}


def fingerprint_of(row: Mapping[str, Any]) -> Fingerprint:
    """Read what of a picture is compared."""
    return Fingerprint(
        phash=row["phash"] & 0xFFFF_FFFF_FFFF_FFFF,
        phash256=row["phash256"],
        thumbnail=row["thumbnail"],
        width=row["width"],
        height=row["height"],
    )


async def near(
    database: Database, tenant_id: TenantId, media: Sequence[Medium], *, provider: ProviderIdentity
) -> Mapping[str, Near]:
    """List, by sha256, what looks like each of the pictures, as `VisionLedger.earlier_neighbours` tells of one."""
    hashed = [(medium, medium.fingerprint.phash) for medium in media if medium.fingerprint is not None]
    if not hashed:
        return {}
    earlier: dict[str, list[Neighbour]] = defaultdict(list)
    awaited = set()
    async with database.connection() as connection:
        rows = sql.near(
            connection,
            tenant_id=tenant_id,
            sha256s=[medium.sha256 for medium, _ in hashed],
            phashes=[signed(phash) for _, phash in hashed],
            post_seqs=[medium.order[0] for medium, _ in hashed],
            positions=[medium.order[1] for medium, _ in hashed],
            algorithm=ALGORITHM,
            radius_bits=RADIUS_BITS,
            row_limit=MAX_NEIGHBOURS,
            reuse_limit=MAX_REUSING_NEIGHBOURS,
            **_DIFFERENCES,
            **identity(provider),
        )
        async for row in rows:
            if row["sha256"] is None:
                awaited.add(row["of_sha256"])
                continue
            neighbour = Neighbour(
                sha256=row["sha256"],
                order=(row["first_post_seq"], row["first_position"]),
                fingerprint=fingerprint_of(row),
                result=None if row["result"] is None else VisionResult.from_document(row["result"]),
                method=row["method"],
            )
            earlier[row["of_sha256"]].append(neighbour)
    return {sha256: Near(earlier.get(sha256, ()), sha256 in awaited) for sha256 in earlier.keys() | awaited}
