"""Where objects lie, what keeps them within the quota, and where imported pictures are read."""

import dagster as dg
from pydantic import Field

from vision_assets.clients.media_files import LocalFiles
from vision_assets.clients.s3 import S3Bucket
from vision_assets.clients.s3_uploads import S3Uploads
from vision_assets.core.cleanup import Plan, emergency_plan, ttl_plan
from vision_assets.core.guarded_store import QuotaGuardedStore, Unbooked
from vision_assets.core.media import MediaSource
from vision_assets.core.quota import StorageLimits
from vision_assets.core.storage import ContentType, ObjectStore
from vision_assets.resources.postgres import Ledgers

UNBOOKED = Unbooked()
"""One a process: its steps share what is let through without a check."""


class S3Resource(dg.ConfigurableResource[None]):
    """The bucket of all tenants' objects."""

    bucket: str
    endpoint_url: str | None = Field(default=None, description="Of an S3 server; None means AWS")
    access_key_id: str | None = None
    secret_access_key: str | None = None
    region: str = "us-east-1"

    def connect(self) -> S3Bucket:
        """Configure a client; nothing is sent yet."""
        return S3Bucket.connect(
            self.bucket,
            endpoint_url=self.endpoint_url,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            region=self.region,
        )

    def connect_uploads(self) -> S3Uploads:
        """Configure a client for multipart uploads; nothing is sent yet."""
        return S3Uploads.connect(
            self.bucket,
            endpoint_url=self.endpoint_url,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            region=self.region,
        )


class StorageQuotaResource(dg.ConfigurableResource[None]):
    """Storage limits in bytes."""

    bucket_bytes: int
    tenant_bytes: int
    media_bytes: int
    vision_bytes: int
    crawl_bytes: int
    unchecked_bytes: int = Field(description="Of puts of this process while the ledger cannot be reached")

    def guard(self, store: ObjectStore, ledgers: Ledgers) -> QuotaGuardedStore:
        """Put the quota before a store."""
        types: dict[ContentType, int] = {
            "media": self.media_bytes,
            "vision": self.vision_bytes,
            "crawl": self.crawl_bytes,
        }
        limits = StorageLimits(bucket_bytes=self.bucket_bytes, tenant_bytes=self.tenant_bytes, type_bytes=types)
        return QuotaGuardedStore(
            store=store,
            ledger=ledgers.storage,
            limits=limits,
            unbooked=UNBOOKED,
            unchecked_limit_bytes=self.unchecked_bytes,
        )


class StorageCleanupResource(dg.ConfigurableResource[None]):
    """When the storage is cleaned up, and what goes."""

    emergency_bytes: int = Field(description="Stored and reserved by all tenants")
    emergency_target_bytes: int
    media_ttl_days: int = Field(description="Of media that no post refers to, since the last use")
    vision_ttl_days: int
    crawl_ttl_days: int

    def emergency(self) -> Plan:
        """Plan the clean-up for the case that the bucket runs full.

        Raises:
            ConfigurationError: The target is above the threshold.
        """
        return emergency_plan(threshold_bytes=self.emergency_bytes, target_bytes=self.emergency_target_bytes)

    def daily(self) -> Plan:
        """Plan the clean-up of what has outlived its time."""
        return ttl_plan(
            crawl_days=self.crawl_ttl_days, vision_days=self.vision_ttl_days, media_days=self.media_ttl_days
        )


class MediaSourceResource(dg.ConfigurableResource[None]):
    """Where imported posts' pictures are read, and how many at once."""

    concurrency: int = Field(default=8, description="Files read and uploaded at once")
    decode_threads: int = Field(default=2, description="Pictures decoded at once; each holds a bitmap")

    def connect(self) -> MediaSource:
        """Give the reader of the references."""
        return LocalFiles()
