"""What a quote asks of Postgres: nothing here writes. What is not here: what is to do (`vision.py`)."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.media import signed
from vision_assets.clients.postgres.reuse import read_denials
from vision_assets.clients.postgres.vision import (
    MAX_NEIGHBOURS,
    MAX_REUSING_NEIGHBOURS,
    PostgresVision,
    fingerprint_of,
    identity,
)
from vision_assets.core.neighbours import CHUNK_BITS, RADIUS_BITS
from vision_assets.core.phash import ALGORITHM
from vision_assets.core.quote import Pace
from vision_assets.core.quoting import Near
from vision_assets.core.reuse import Denials, Neighbour
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import ProviderIdentity, VisionResult
from vision_assets.core.vision_ledger import Medium, ToDo

sql = statements("quote")

_MASKS = [0, *(1 << bit for bit in range(CHUNK_BITS))]


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
        hashed = [(medium, medium.fingerprint.phash) for medium in media if medium.fingerprint is not None]
        earlier: dict[str, list[Neighbour]] = defaultdict(list)
        awaited = set()
        async with self.database.connection() as connection:
            rows = sql.near(
                connection,
                tenant_id=tenant_id,
                sha256s=[medium.sha256 for medium, _ in hashed],
                phashes=[signed(phash) for _, phash in hashed],
                post_seqs=[medium.order[0] for medium, _ in hashed],
                positions=[medium.order[1] for medium, _ in hashed],
                masks=_MASKS,
                algorithm=ALGORITHM,
                radius_bits=RADIUS_BITS,
                row_limit=MAX_NEIGHBOURS,
                reuse_limit=MAX_REUSING_NEIGHBOURS,
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

    async def denials(self, tenant_id: TenantId) -> Denials:
        """See the Protocol."""
        return await read_denials(self.database, tenant_id)

    async def pace(self, tenant_id: TenantId, *, provider: ProviderIdentity) -> Pace:
        """See the Protocol."""
        async with self.database.connection() as connection:
            row = await sql.pace(connection, tenant_id=tenant_id, provider=provider.name, model=provider.model)
            return Pace(row["calls"], row["milliseconds"] / 1000)
