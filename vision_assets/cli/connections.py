"""The database, the bucket and the search index that the settings lead to, for all commands.

What is not here: what a command does with them.
"""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypedDict

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.s3 import S3Bucket
from vision_assets.clients.s3_uploads import S3Uploads
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.settings import Settings

if TYPE_CHECKING:
    from vision_assets.clients.qdrant import QdrantIndex

START_PARTS = "Start the embedded parts with `vision-assets up --parts`, or set"


def open_database(*, max_size: int = 8) -> AbstractAsyncContextManager[Database]:
    """Open the database.

    Args:
        max_size: Connections at most.

    Raises:
        ConfigurationError: There is none.
    """
    url = Settings().database_url
    if url is None:
        raise ConfigurationError(f"There is no database. {START_PARTS} DATABASE_URL.")
    return Database.open(url.get_secret_value(), max_size=max_size)


def guarded_store(database: Database) -> QuotaGuardedStore:
    """Give the bucket, behind the quota.

    Raises:
        ConfigurationError: There is none.
    """
    return QuotaGuardedStore(
        store=connect_bucket(), ledger=PostgresStorage(database), limits=Settings().storage_limits()
    )


def connect_bucket() -> S3Bucket:
    """Give the bucket, for reading and for what is no tenant's.

    Raises:
        ConfigurationError: There is none.
    """
    settings = Settings()
    return S3Bucket.connect(settings.s3_bucket, **_s3_access(settings))


def connect_uploads() -> S3Uploads:
    """Give the bucket's multipart uploads.

    Raises:
        ConfigurationError: There is no bucket.
    """
    settings = Settings()
    return S3Uploads.connect(settings.s3_bucket, **_s3_access(settings))


class _S3Access(TypedDict):
    endpoint_url: str | None
    access_key_id: str | None
    secret_access_key: str | None
    region: str


def _s3_access(settings: Settings) -> _S3Access:
    """Tell how the settings' bucket is reached."""
    key, secret = settings.aws_access_key_id, settings.aws_secret_access_key
    if settings.s3_endpoint_url is None and key is None:
        raise ConfigurationError(f"There is no bucket. {START_PARTS} S3_ENDPOINT_URL or AWS_ACCESS_KEY_ID.")
    return {
        "endpoint_url": settings.s3_endpoint_url,
        "access_key_id": key.get_secret_value() if key else None,
        "secret_access_key": secret.get_secret_value() if secret else None,
        "region": settings.aws_region,
    }


def open_index() -> "QdrantIndex":
    """Open the search index.

    Raises:
        ConfigurationError: There is none.
    """
    from vision_assets.clients.qdrant import QdrantIndex  # noqa: PLC0415 - it takes seconds to load

    settings = Settings()
    if settings.qdrant_url is None:
        raise ConfigurationError(f"There is no search index. {START_PARTS} QDRANT_URL.")
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    return QdrantIndex(settings.qdrant_url, api_key=key)
