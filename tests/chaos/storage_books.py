"""What must be true of the storage's books at every moment, and what at the end. What is not here: any load."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import obstore
from obstore.store import S3Store

from tests.chaos.watch import Connection
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import PREFIXES

_LEDGER = """
SELECT tenant_id, content_type, coalesce(sum(bytes), 0)::bigint AS total_bytes, count(bytes) AS objects_count,
       coalesce(sum(op_delta), 0)::bigint AS reserved_bytes, count(op_id) AS operations
FROM storage_objects GROUP BY 1, 2
"""
_USAGE = """
SELECT tenant_id, content_type, total_bytes, objects_count, reserved_bytes, metered_bytes FROM tenant_storage_usage
"""
_TOTALS = "SELECT content_type, total_bytes, objects_count, reserved_bytes FROM storage_totals"
_FIGURES = ("total_bytes", "objects_count", "reserved_bytes")

# Looks at every single version of the figures; what looks now and then may miss an excess that was given back.
_GUARD = """
CREATE TABLE storage_excesses (said text);
CREATE FUNCTION note_storage_excess() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'tenant_storage_usage' THEN
        INSERT INTO storage_excesses
        SELECT format('tenant %s: %s bytes', NEW.tenant_id, sum(total_bytes + reserved_bytes))
        FROM tenant_storage_usage WHERE tenant_id = NEW.tenant_id
        HAVING sum(total_bytes + reserved_bytes) > {tenant_bytes};
    ELSE
        INSERT INTO storage_excesses
        SELECT format('%s: %s bytes, bucket: %s bytes', NEW.content_type, NEW.total_bytes + NEW.reserved_bytes,
                      sum(total_bytes + reserved_bytes))
        FROM storage_totals
        HAVING NEW.total_bytes + NEW.reserved_bytes > {type_bytes}
            OR sum(total_bytes + reserved_bytes) > {bucket_bytes};
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER noted AFTER UPDATE ON tenant_storage_usage FOR EACH ROW EXECUTE FUNCTION note_storage_excess();
CREATE TRIGGER noted AFTER UPDATE ON storage_totals FOR EACH ROW EXECUTE FUNCTION note_storage_excess();
"""

Figures = tuple[int, int, int]
"""Bytes, objects, bytes reserved."""


@dataclass(frozen=True, slots=True)
class Books:
    """The storage's books at one moment."""

    ledger: Mapping[tuple[UUID, str], Figures]
    usage: Mapping[tuple[UUID, str], Figures]
    metered: Mapping[tuple[UUID, str], int]
    totals: Mapping[str, Figures]
    operations: int


async def note_excesses(connection: Connection, limits: StorageLimits) -> None:
    """Have the database note every moment at which the books exceed a limit; the types' limits are all alike."""
    figures = {
        "tenant_bytes": limits.tenant_bytes,
        "bucket_bytes": limits.bucket_bytes,
        "type_bytes": limits.type_bytes["media"],
    }
    await connection.execute(_GUARD.format(**figures))


async def excesses(connection: Connection) -> list[str]:
    """Tell what was noted since the last time."""
    return [row["said"] for row in await connection.fetch("DELETE FROM storage_excesses RETURNING said")]


async def read_books(connection: Connection) -> Books:
    """Read all at one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        ledger = await connection.fetch(_LEDGER)
        usage = await connection.fetch(_USAGE)
        totals = await connection.fetch(_TOTALS)
    return Books(
        {(row["tenant_id"], row["content_type"]): _figures(row) for row in ledger},
        {(row["tenant_id"], row["content_type"]): _figures(row) for row in usage},
        {(row["tenant_id"], row["content_type"]): row["metered_bytes"] for row in usage},
        {row["content_type"]: _figures(row) for row in totals},
        sum(row["operations"] for row in ledger),
    )


def _figures(row: asyncpg.Record) -> Figures:
    bytes_, objects, reserved = (int(row[name]) for name in _FIGURES)
    return bytes_, objects, reserved


def violations(books: Books, limits: StorageLimits) -> list[str]:
    """Name what contradicts itself: usage, meter and totals are the ledger's sums; used + reserved keeps the limits."""
    found = []
    nothing = (0, 0, 0)
    for place in books.ledger.keys() | books.usage.keys():
        ledger, usage = books.ledger.get(place, nothing), books.usage.get(place, nothing)
        if ledger != usage:
            found.append(f"usage of {place} is {usage}, the ledger says {ledger}")
        if place in books.metered and books.metered[place] != ledger[0]:
            found.append(f"{books.metered[place]} bytes of {place} are metered, the ledger says {ledger[0]}")
    by_type: dict[str, list[Figures]] = defaultdict(list)
    by_tenant: Counter[UUID] = Counter()
    for (tenant, content_type), figures in books.ledger.items():
        by_type[content_type].append(figures)
        by_tenant[tenant] += figures[0] + figures[2]
    for content_type, total in books.totals.items():
        expected = tuple(sum(column) for column in zip(*by_type[content_type], strict=True)) or nothing
        if total != expected:
            found.append(f"total of {content_type} is {total}, the ledger says {expected}")
        if total[0] + total[2] > limits.type_bytes[content_type]:  # type: ignore[index]
            found.append(f"{content_type} is over its limit: {total}")
    found += [f"{tenant} is over its limit: {used}" for tenant, used in by_tenant.items() if used > limits.tenant_bytes]
    if (bucket := sum(total[0] + total[2] for total in books.totals.values())) > limits.bucket_bytes:
        found.append(f"the bucket is over its limit: {bucket}")
    return found


async def list_bucket(store: S3Store) -> dict[str, int]:
    """List all objects afresh: key → bytes."""
    return {line["path"]: line["size"] async for chunk in obstore.list(store, chunk_size=1000) for line in chunk}


def over_limit(listing: Mapping[str, int], limits: StorageLimits) -> list[str]:
    """Name limits that what lies in S3 itself breaks."""
    by_tenant: Counter[str] = Counter()
    by_type: Counter[str] = Counter()
    for key, size in listing.items():
        folder, tenant, _ = key.split("/", 2)
        by_tenant[tenant] += size
        by_type[PREFIXES[folder]] += size
    found = [f"S3 holds {used} bytes of {tenant}" for tenant, used in by_tenant.items() if used > limits.tenant_bytes]
    found += [
        f"S3 holds {used} bytes of {content_type}"
        for content_type, used in by_type.items()
        if used > limits.type_bytes[content_type]  # type: ignore[index]
    ]
    if by_type.total() > limits.bucket_bytes:
        found.append(f"S3 holds {by_type.total()} bytes")
    return found


async def differences(connection: Connection, listing: Mapping[str, int]) -> list[str]:
    """Name what differs between the ledger and a fresh listing, and slots that are still taken."""
    rows: Sequence[asyncpg.Record] = await connection.fetch("SELECT s3_key, bytes, op_id FROM storage_objects")
    ledger = {row["s3_key"]: row["bytes"] for row in rows}
    found = [f"slot still taken: {row['s3_key']}" for row in rows if row["op_id"]]
    return found + [
        f"{key}: ledger {ledger.get(key)}, S3 {listing.get(key)}"
        for key in sorted(ledger.keys() | listing.keys())
        if ledger.get(key) != listing.get(key)
    ]


async def false_entry(connection: Connection, store: S3Store, key: str) -> str | None:
    """Hold one row of the ledger against S3 in the middle of everything.

    A row that no operation has and that is the same version before and after the look must be the truth.

    Returns:
        What is wrong; None: nothing, or the row was in motion.
    """
    look = "SELECT bytes, xmin::text AS version FROM storage_objects WHERE s3_key = $1 AND op_id IS NULL"
    before = await connection.fetchrow(look, key)
    try:
        size: int | None = (await obstore.head_async(store, key))["size"]
    except FileNotFoundError:
        size = None
    after = await connection.fetchrow(look, key)
    if before is None or before != after or before["bytes"] == size:
        return None
    return f"{key}: ledger {before['bytes']}, S3 {size}"
