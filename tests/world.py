"""The core's passes over the real parts, without Dagster, for tests of what they leave behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from vision_assets.clients.local_vision import LocalVision
from vision_assets.clients.media_files import LocalFiles
from vision_assets.clients.picture_folder import PictureFolder
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.enrichment import PostgresEnrichment
from vision_assets.clients.postgres.media import PostgresMedia
from vision_assets.clients.postgres.posts import PostgresPosts, ensure_tenant
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.postgres.usage import PostgresReconciliation
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.analysis import VisionPass
from vision_assets.core.enrichment import EnrichmentPass, EnrichmentReport
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.importing import ImportReport, PostSource, import_posts
from vision_assets.core.listing import Lister
from vision_assets.core.media import MediaPass, MediaReport, MediaSlots
from vision_assets.core.quota import StorageLimits
from vision_assets.core.reconcile import Reconciliation, ReconciliationReport
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision import VisionProvider
from vision_assets.core.vision_report import VisionReport
from vision_assets.settings import Settings

ROOMY = StorageLimits(
    bucket_bytes=2**40, tenant_bytes=2**40, type_bytes=dict.fromkeys(("media", "vision", "crawl"), 2**40)
)


@dataclass(slots=True)
class World:
    """One database and one bucket; `limits` may be set between passes."""

    database: Database
    bucket: S3Bucket
    provider: VisionProvider
    limits: StorageLimits = ROOMY

    def quota(self) -> QuotaGuardedStore:
        """The store behind the quota."""
        return QuotaGuardedStore(store=self.bucket, ledger=PostgresStorage(self.database), limits=self.limits)

    async def tenant(self, name: str) -> Tenant:
        """The tenant of this name."""
        return await ensure_tenant(self.database, name)

    async def load(self, tenant: Tenant, source: Path | PostSource) -> ImportReport:
        """Import a folder of pictures, or any other source."""
        source = PictureFolder(source) if isinstance(source, Path) else source
        return await import_posts(tenant.id, source, store=PostgresPosts(self.database))

    async def store_media(self, tenant: Tenant) -> MediaReport:
        """Run the pass of `media_objects` and `phash_index`."""
        return await self.media_pass(tenant).store_media()

    def media_pass(self, tenant: Tenant) -> MediaPass:
        """The pass of `media_objects` and `phash_index`."""
        return MediaPass(
            tenant_id=tenant.id,
            source=LocalFiles(),
            store=self.bucket,
            quota=self.quota(),
            ledger=PostgresMedia(self.database),
            slots=MediaSlots.of(),
        )

    async def analyse(self, tenant: Tenant, *, store: ObjectStore | None = None) -> VisionReport:
        """Run the pass of `vision_results`."""
        return await VisionPass(
            tenant_id=tenant.id,
            provider=self.provider,
            store=store or self.bucket,
            quota=self.quota(),
            ledger=PostgresVision(self.database),
        ).analyse_media()

    async def enrich(self, tenant: Tenant, *, limit: int | None = None) -> EnrichmentReport:
        """Run the pass of `post_enrichment`."""
        return await EnrichmentPass(
            tenant_id=tenant.id,
            provider=self.provider.name,
            model=self.provider.model,
            quota=self.quota(),
            ledger=PostgresEnrichment(self.database),
            limit=limit,
        ).enrich_posts()

    async def reconcile(self, tenant: Tenant, *, store: Lister | None = None) -> ReconciliationReport:
        """Run the pass of `tenant_storage_usage`.

        Args:
            store: Lists; objects are looked at in the bucket itself.
        """
        return await Reconciliation(
            tenant_id=tenant.id,
            store=store or self.bucket,
            guard=self.quota(),
            ledger=PostgresReconciliation(self.database),
        ).run()

    async def keys(self, prefix: str = "") -> dict[str, int]:
        """All objects of the bucket below a prefix: key → bytes."""
        return {stored.key: stored.bytes async for chunk in self.bucket.list(prefix) for stored in chunk}


@asynccontextmanager
async def open_world(database_url: str, bucket: str, settings: Settings) -> AsyncIterator[World]:
    """Open a world on the test session's parts."""
    store = S3Bucket.connect(
        bucket,
        endpoint_url=settings.s3_endpoint_url,
        access_key_id=settings.aws_access_key_id.get_secret_value() if settings.aws_access_key_id else None,
        secret_access_key=settings.aws_secret_access_key.get_secret_value() if settings.aws_secret_access_key else None,
    )
    async with Database.open(database_url) as database, LocalVision.open(languages="rus+eng") as provider:
        yield World(database, store, provider)
