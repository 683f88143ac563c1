"""Objects of chosen ages in a world, and clean-ups of them.

What is not here: what must come of them (`integration/test_cleanup*.py`).
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from tests.world import World
from vision_assets.clients.postgres.cleanup import PostgresCleanup
from vision_assets.core.cleanup import CleanupReport, Plan, Upload, emergency_plan, ttl_plan
from vision_assets.core.cleanup_pass import CleanupLedger, CleanupPass, UploadStore
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.storage import ContentType, ObjectStore, StoredObject, media_key
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision import vision_key

DAILY = ttl_plan(crawl_days=7, vision_days=14, media_days=30)


def down_to(target_bytes: int) -> Plan:
    """An emergency that begins at once."""
    return emergency_plan(threshold_bytes=target_bytes, target_bytes=target_bytes)


class NoUploads:
    """A bucket without multipart uploads."""

    async def abandoned(self, prefix: str, *, before: datetime) -> AsyncIterator[Sequence[Upload]]:
        """List none."""
        nothing: list[Sequence[Upload]] = []
        for uploads in nothing:
            yield uploads

    async def abort(self, upload: Upload) -> bool:
        """Never called."""
        raise AssertionError(upload)


@dataclass
class WrappedStore:
    """A bucket to which a test adds something of its own."""

    store: ObjectStore

    async def get(self, key: str) -> bytes | None:
        """Read as ever."""
        return await self.store.get(key)

    async def head(self, key: str) -> StoredObject | None:
        """Look as ever."""
        return await self.store.head(key)

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Write as ever."""
        await self.store.put(key, body, mime=mime, encoding=encoding)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete as ever."""
        await self.store.delete(keys)

    def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """List as ever."""
        return self.store.list(prefix)


@dataclass
class Cleaning:
    """Clean-ups of one world.

    Attributes:
        ahead: By how much the clean-up's clock is ahead of the world's.
    """

    world: World
    ahead: timedelta = field(default_factory=timedelta)

    def guard(self, store: ObjectStore | None = None) -> QuotaGuardedStore:
        """The store behind the quota, with this clock."""
        guard = self.world.quota()
        guard.store = store or self.world.bucket
        guard.clock = lambda: datetime.now(UTC) + self.ahead
        guard.patience_seconds = 0.2
        return guard

    async def run(
        self,
        plan: Plan = DAILY,
        *,
        dry_run: bool = False,
        store: ObjectStore | None = None,
        ledger: CleanupLedger | None = None,
        uploads: UploadStore | None = None,
    ) -> CleanupReport:
        """Clean up."""
        return await CleanupPass(
            plan=plan,
            ledger=ledger or PostgresCleanup(self.world.database),
            guard=self.guard(store),
            uploads=uploads or NoUploads(),
            dry_run=dry_run,
        ).run()

    async def put(
        self, tenant: Tenant, key: str, content_type: ContentType, *, size_bytes: int = 10, days: float = 0
    ) -> str:
        """Put an object below the tenant's folder, so many days ago, and give its key."""
        folder, rest = key.split("/", 1)
        full = f"{folder}/{tenant.id}/{rest}"
        await self.world.quota().put(
            tenant.id, full, bytes(size_bytes), content_type=content_type, mime="application/octet-stream"
        )
        await self.world.database.pool.execute(
            "UPDATE storage_objects SET recorded_at = now() - $3::interval WHERE tenant_id = $1 AND s3_key = $2",
            tenant.id,
            full,
            timedelta(days=days),
        )
        return full

    async def put_page(self, tenant: Tenant, name: str, *, size_bytes: int = 10, days: float = 0) -> str:
        """Put a crawled page."""
        return await self.put(tenant, f"crawl/{name}", "crawl", size_bytes=size_bytes, days=days)

    async def put_picture(self, tenant: Tenant, name: str, *, size_bytes: int = 10, days: float = 0) -> str:
        """Put and register a picture that no post refers to, last used so many days ago."""
        sha256 = sha256_of(name)
        key = await self.put(
            tenant,
            _below_tenant(media_key(tenant.id, sha256, extension="jpg")),
            "media",
            size_bytes=size_bytes,
            days=days,
        )
        await self.world.database.pool.execute(
            "INSERT INTO media_objects (tenant_id, sha256, mime, bytes, width, height, s3_key, first_post_seq,"
            " first_position, first_seen_at, last_used_at)"
            " VALUES ($1, $2, 'image/jpeg', $3, 1, 1, $4, 0, 0, now() - $5::interval, now() - $5::interval)",
            tenant.id,
            sha256,
            size_bytes,
            key,
            timedelta(days=days),
        )
        return key

    async def put_result(
        self, tenant: Tenant, name: str, *, provider: str = "local", size_bytes: int = 10, days: float = 0
    ) -> str:
        """Put and register a result of a picture that is registered."""
        sha256 = sha256_of(name)
        key = await self.put(
            tenant,
            _below_tenant(vision_key(tenant.id, sha256, provider=provider, model="m")),
            "vision",
            size_bytes=size_bytes,
            days=days,
        )
        await self.world.database.pool.execute(
            "INSERT INTO vision_results (tenant_id, sha256, provider, model, schema_version, fingerprint, status,"
            " method, result, s3_key, s3_bytes) VALUES ($1, $2, $3, 'm', '1.0', '', 'ok', 'new', '{}', $4, $5)",
            tenant.id,
            sha256,
            provider,
            key,
            size_bytes,
        )
        return key

    async def refer(self, tenant: Tenant, name: str) -> UUID:
        """Make a post that refers to a picture."""
        post_id, channel_id = uuid4(), uuid4()
        pool = self.world.database.pool
        await pool.execute(
            "INSERT INTO channels (id, tenant_id, source_key, title) VALUES ($1, $2, $3, '')",
            channel_id,
            tenant.id,
            str(channel_id),
        )
        await pool.execute(
            "INSERT INTO posts (id, tenant_id, channel_id, message_id, posted_at) VALUES ($1, $2, $3, 1, now())",
            post_id,
            tenant.id,
            channel_id,
        )
        await pool.execute(
            "INSERT INTO post_media (post_id, position, tenant_id, message_id, role, source_uri, sha256, state)"
            " VALUES ($1, 0, $2, 1, 'photo', '', $3, 'stored')",
            post_id,
            tenant.id,
            sha256_of(name),
        )
        return post_id

    async def taken_bytes(self) -> int:
        """Stored and reserved by all."""
        return await PostgresCleanup(self.world.database).taken_bytes()

    async def assert_books_are_true(self) -> None:
        """The ledger equals a listing, usage and totals equal the ledger, and nothing is under way."""
        pool = self.world.database.pool
        rows = await pool.fetch("SELECT s3_key, bytes, op_id FROM storage_objects")
        assert {row["s3_key"]: row["bytes"] for row in rows} == await self.world.keys()
        assert [row["s3_key"] for row in rows if row["op_id"]] == []
        expected = sum(row["bytes"] for row in rows), len(rows), 0
        for table in ("tenant_storage_usage", "storage_totals"):
            sums = (
                f"SELECT sum(total_bytes)::bigint, sum(objects_count)::bigint, sum(reserved_bytes)::bigint FROM {table}"  # noqa: S608
            )
            assert tuple(*await pool.fetch(sums)) == expected

    async def counters(self, tenant: Tenant) -> dict[str, int]:
        """The tenant's counters of clean-ups, by name and labels."""
        rows = await self.world.database.pool.fetch(
            "SELECT name, labels, value FROM counters WHERE tenant_id = $1"
            " AND name ~ 'cleanup|evictions' ORDER BY name, labels",
            tenant.id,
        )
        return {" ".join([row["name"], *sorted(row["labels"].values())]): row["value"] for row in rows}


def sha256_of(name: str) -> str:
    """A picture's hash."""
    return hashlib.sha256(name.encode()).hexdigest()


def _below_tenant(key: str) -> str:
    folder, _, rest = key.split("/", 2)
    return f"{folder}/{rest}"
