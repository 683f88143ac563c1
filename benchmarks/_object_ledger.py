"""A tenant's object ledger as large as its bucket, and drift of every class in it.

What is not here: the bucket (`_bucket.py`), and the reconciliation (`reconcile.py`).
"""

from datetime import UTC, datetime, timedelta
from itertools import islice

from benchmarks._bucket import objects
from vision_assets.clients.postgres import Database
from vision_assets.core.tenants import TenantId

_BATCH = 100_000

_ADD_TENANT = "INSERT INTO tenants (id, name) VALUES ($1, 'benchmark')"
_MISSING = """
INSERT INTO storage_objects (tenant_id, s3_key, content_type, bytes, recorded_at)
SELECT $1, format('media/%s/00/%s.jpg', $1::uuid, md5(number::text)), 'media', 1000, $3
FROM generate_series(1, $2::int) AS number
"""
_UNTRACKED = "DELETE FROM storage_objects WHERE tenant_id = $1 AND s3_key = ANY($2)"
_WRONG_SIZE = "UPDATE storage_objects SET bytes = bytes + 1, recorded_at = $3 WHERE tenant_id = $1 AND s3_key = ANY($2)"
_STALE = """
UPDATE storage_objects SET
    op_id = gen_random_uuid(), op_kind = 'put', op_bytes = bytes, op_delta = 1000, op_until = $3, recorded_at = $3
WHERE tenant_id = $1 AND s3_key = ANY($2)
"""


def _long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


async def fill_ledger(database: Database, tenant_id: TenantId, count: int) -> None:
    """Book every object of the bucket, and leave the table as the server's own upkeep would."""
    await database.pool.execute(_ADD_TENANT, tenant_id)
    rows = ((tenant_id, key, "media", size, _long_ago()) for key, size in objects(tenant_id, count))
    async with database.connection() as connection:
        while batch := list(islice(rows, _BATCH)):
            await connection.copy_records_to_table(
                "storage_objects",
                records=batch,
                columns=("tenant_id", "s3_key", "content_type", "bytes", "recorded_at"),
            )
        await connection.execute("VACUUM ANALYZE storage_objects")


async def drift(database: Database, tenant_id: TenantId, each: int) -> None:
    """Put the ledger out of step with the bucket, in every class by the same number of objects."""
    keys = (key for key, _ in objects(tenant_id, 3 * each))

    def some() -> list[str]:
        return list(islice(keys, each))

    async with database.transaction() as connection:
        await connection.execute(_MISSING, tenant_id, each, _long_ago())
        await connection.execute(_UNTRACKED, tenant_id, some())
        await connection.execute(_WRONG_SIZE, tenant_id, some(), _long_ago())
        await connection.execute(_STALE, tenant_id, some(), _long_ago())
