"""Hashes of several tenants in Postgres, as the assets leave them there, and the look-up of a step among them.

What is not here: the statement that finds neighbours (`clients/postgres/neighbours.sql`), and figures
(`neighbours.py`).
"""

import hashlib
import io
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import psycopg2

from benchmarks._hashes import Hashes
from tests.hashed import hashed, write_objects
from tests.hashed import sha256_of as named_sha256
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.media import PostgresMedia
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.neighbours import Fingerprint
from vision_assets.core.phash import ALGORITHM
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import VisionProvider
from vision_assets.core.vision_ledger import Medium

TENANT = TenantId(UUID("2f6f3f1f-7c1d-4f55-9d2a-0b9f2a4e0010"))
OTHERS = [TenantId(UUID(int=TENANT.int + number)) for number in range(1, 4)]
"""Each has a tenth of the tenant's hashes, the same ones: what crosses would be found."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_ROW = np.dtype([("fields", ">i2"), ("a", ">i4"), ("number", ">i8"), ("b", ">i4"), ("phash", ">i8")])

_FILL = """
SET session_replication_role = replica;
INSERT INTO media_objects
    (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq, first_position)
SELECT %(tenant_id)s, sha256, 'image/jpeg', 100000, 1280, 960, %(tenant_id)s || sha256, number, 0
FROM (SELECT number, encode(sha256(int8send(number)), 'hex') AS sha256 FROM hashes) h;
INSERT INTO phash_index (tenant_id, sha256, algorithm, phash, phash256, thumbnail)
SELECT %(tenant_id)s, encode(sha256(int8send(number)), 'hex'), %(algorithm)s, phash,
       decode(repeat('5a', 32), 'hex'), decode(repeat('00', 4096), 'hex')
FROM hashes;
"""
"""Foreign keys are not looked up row by row; thumbnails are all alike, so that ten million fit on a disk."""

_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'phash_index' AND indexname <> 'phash_index_pkey'
ORDER BY indexname
"""


def sha256_of(number: int) -> str:
    """Name the picture of this number."""
    return hashlib.sha256(number.to_bytes(8, "big")).hexdigest()


def fill(database_url: str, tenant_id: TenantId, hashes: Hashes) -> None:
    """Add a tenant with these hashes, picture by picture in their order."""
    rows = np.empty(len(hashes), _ROW)
    rows["fields"], rows["a"], rows["b"] = 2, 8, 8
    rows["number"], rows["phash"] = np.arange(len(hashes)), hashes.view(np.int64)
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO tenants (id, name) VALUES (%s, %s)", (str(tenant_id), f"benchmark {tenant_id}"))
        cursor.execute("CREATE TEMPORARY TABLE hashes (number bigint, phash bigint) ON COMMIT DROP")
        cursor.copy_expert(
            "COPY hashes FROM STDIN (FORMAT binary)", io.BytesIO(_HEADER + rows.tobytes() + struct.pack(">h", -1))
        )
        cursor.execute(_FILL, {"tenant_id": str(tenant_id), "algorithm": ALGORITHM})


def index_definitions(database_url: str) -> Iterator[tuple[str, str]]:
    """Name the indexes of hashes, each with the statement that makes it."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(_INDEXES)
        yield from cursor.fetchall()


def index_bytes(database_url: str) -> int:
    """Tell what the indexes of hashes take."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_indexes_size('phash_index') - pg_relation_size('phash_index_pkey')")
        return int(cursor.fetchone()[0])


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks for a picture's neighbours as the step of `vision_results` does."""

    database: Database
    provider: VisionProvider

    async def neighbours(self, tenant_id: TenantId, phash: int) -> list[str]:
        """Name the neighbours of a picture that comes after all others."""
        medium = Medium(
            sha256="f" * 64,
            mime="image/jpeg",
            s3_key="",
            order=(1 << 60, 0),
            fingerprint=Fingerprint(phash, bytes(32), bytes(4096), 1280, 960),
        )
        found = await PostgresVision(self.database).earlier_neighbours(tenant_id, medium, provider=self.provider)
        return [neighbour.sha256 for neighbour in found]


async def add_rows(database: Database, tenant_id: TenantId, hashes: Hashes) -> float:
    """Add hashes as the step does, and tell how many seconds that took; their pictures are there before."""
    named = [(f"added {number}", hashed(phash)) for number, phash in enumerate(hashes.tolist())]
    await write_objects(database, tenant_id, [name for name, _ in named], size=(1280, 960))
    started = time.perf_counter()
    await PostgresMedia(database).record_hashes(tenant_id, [(named_sha256(name), one) for name, one in named])
    return time.perf_counter() - started
