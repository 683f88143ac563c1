"""All hashes of a tenant, and the pictures of its clusters, from Postgres.

What is not here: which pictures are one cluster (`core/clusters.py`), and a single picture's neighbours (`vision.py`).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_assets.clients.postgres import Database, statements
from vision_assets.clients.postgres.neighbours import fingerprint_of
from vision_assets.core.clusters import ClusterPicture, PictureSize, TenantHashes
from vision_assets.core.errors import DatabaseUnavailable
from vision_assets.core.hash_index import Hashes
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.phash import ALGORITHM
from vision_assets.core.tenants import TenantId

sql = statements("clusters")

# aiosql knows no COPY. Of another algorithm's hashes no fingerprint is found: an index alone answers this.
_ALL_HASHES = "SELECT decode(sha256, 'hex'), phash FROM phash_index WHERE tenant_id = $1 AND flags = '{}'"

_ROW = np.dtype([("fields", ">i2"), ("a", ">i4"), ("sha256", "u1", 32), ("b", ">i4"), ("phash", ">u8")])
_HEADER_BYTES = len(b"PGCOPY\n\xff\r\n\0") + struct.calcsize(">ii")
_TRAILER_BYTES = struct.calcsize(">h")
_PARSED_AT_ONCE_BYTES = 1 << 20


@dataclass(slots=True)
class _CopiedHashes:
    """Takes rows of a binary COPY in pieces of any length, and keeps 40 bytes of each."""

    sha256s: list[NDArray[np.uint8]] = field(default_factory=list)
    phashes: list[Hashes] = field(default_factory=list)
    _waiting: bytearray = field(default_factory=bytearray)
    _skipped_header: bool = False

    async def take(self, piece: bytes) -> None:
        """Add a piece."""
        self._waiting += piece
        if len(self._waiting) >= _PARSED_AT_ONCE_BYTES:
            self._parse()

    def _parse(self) -> None:
        begin = 0 if self._skipped_header else _HEADER_BYTES
        self._skipped_header = True
        count = (len(self._waiting) - begin) // _ROW.itemsize
        rows = np.frombuffer(bytes(self._waiting), _ROW, count, begin)
        self.sha256s.append(rows["sha256"].copy())
        self.phashes.append(rows["phash"].astype(np.uint64))
        del self._waiting[: begin + count * _ROW.itemsize]

    def all(self) -> TenantHashes:
        """Give what was copied, when the last piece has come."""
        self._parse()
        if len(self._waiting) != _TRAILER_BYTES:
            raise DatabaseUnavailable("Postgres broke off in the middle of the hashes.")
        return TenantHashes(np.concatenate(self.sha256s), np.concatenate(self.phashes))


@dataclass(frozen=True, slots=True)
class PostgresClusters:
    """Implements `core.clusters.ClusterLedger`."""

    database: Database

    async def has_more_hashes(self, tenant_id: TenantId, than: int) -> bool:
        """See the Protocol."""
        async with self.database.connection() as connection:
            has_more: bool = await sql.has_more_hashes(connection, tenant_id=tenant_id, than=than)
            return has_more

    async def hashes(self, tenant_id: TenantId) -> TenantHashes:
        """See the Protocol."""
        copied = _CopiedHashes()
        async with self.database.connection() as connection:
            await connection.copy_from_query(_ALL_HASHES, tenant_id, output=copied.take, format="binary")
        return copied.all()

    async def fingerprints(self, tenant_id: TenantId, sha256s: Sequence[str]) -> Mapping[str, Fingerprint]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.fingerprints(connection, tenant_id=tenant_id, sha256s=sha256s, algorithm=ALGORITHM)
            return {row["sha256"]: fingerprint_of(row) async for row in rows}

    async def sizes(self, tenant_id: TenantId, sha256s: Sequence[str]) -> Sequence[PictureSize]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            return [PictureSize(**row) async for row in sql.sizes(connection, tenant_id=tenant_id, sha256s=sha256s)]

    async def pictures(self, tenant_id: TenantId, sha256s: Sequence[str]) -> Mapping[str, ClusterPicture]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            rows = sql.pictures(connection, tenant_id=tenant_id, sha256s=sha256s, algorithm=ALGORITHM)
            return {row["sha256"]: _picture(dict(row)) async for row in rows}


def _picture(row: dict[str, Any]) -> ClusterPicture:
    username, message_id = row.pop("username"), row.pop("message_id")
    return ClusterPicture(**row, link=f"https://t.me/{username}/{message_id}" if username else None)
