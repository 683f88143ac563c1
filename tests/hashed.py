"""Pictures that are stored and hashed, written straight into the registry. What is not here: assertions."""

import hashlib
from collections.abc import Sequence

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.media import PostgresMedia
from vision_assets.core.phash import PerceptualHash
from vision_assets.core.storage import media_key
from vision_assets.core.tenants import TenantId

FLAT = bytes(4096)
"""A thumbnail that any other of one colour is the same picture as."""


def sha256_of(name: str) -> str:
    """Name a picture."""
    return hashlib.sha256(name.encode()).hexdigest()


def hashed(phash: int, *, flags: tuple[str, ...] = ()) -> PerceptualHash:
    """A hash beside which nothing of the picture differs from others."""
    return PerceptualHash(phash=phash, phash256=bytes(32), thumbnail=FLAT, quality=1.0, flags=flags)


async def write_objects(
    database: Database, tenant_id: TenantId, names: Sequence[str], *, size: tuple[int, int]
) -> None:
    """Register pictures of a tenant that are not hashed yet, in the order given, each of 1000 bytes."""
    await database.pool.execute(
        """
        INSERT INTO media_objects
            (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq, first_position)
        SELECT $1, sha256, 'image/jpeg', 1000, $4, $5, s3_key, number, 0
        FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS picture (sha256, s3_key, number)
        """,
        tenant_id,
        [sha256_of(name) for name in names],
        [media_key(tenant_id, sha256_of(name), extension="jpg") for name in names],
        *size,
    )


async def write_hashes(
    database: Database, tenant_id: TenantId, hashes: Sequence[tuple[str, PerceptualHash]], *, size: tuple[int, int]
) -> None:
    """Register pictures of a tenant by their names, in the order given, each of 1000 bytes."""
    await write_objects(database, tenant_id, [name for name, _ in hashes], size=size)
    await PostgresMedia(database).record_hashes(tenant_id, [(sha256_of(name), one) for name, one in hashes])
