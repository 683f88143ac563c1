"""Where objects lie in S3, and what the core needs of an object store.

What is not here: limits and usage (`quota.py`, `guarded_store.py`), and any real store (`clients/s3.py`).
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, get_args

from vision_assets.core.tenants import TenantId

ContentType = Literal["crawl", "media", "vision"]
"""What usage is counted by. Albums' summaries count as `vision`: the usage table knows three types."""

CONTENT_TYPES: tuple[ContentType, ...] = get_args(ContentType)

PREFIXES: dict[str, ContentType] = {"media": "media", "vision": "vision", "crawl": "crawl", "album": "vision"}
"""Top-level folders of the bucket; below each stands one folder a tenant."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as S3 tells of it.

    Attributes:
        modified_at: Aware UTC, by the store's clock; whole seconds when it comes from `head`.
    """

    key: str
    bytes: int
    modified_at: datetime


class ObjectStore(Protocol):
    """An S3 bucket."""

    async def get(self, key: str) -> bytes | None:
        """Read a whole object.

        Returns:
            The body, decompressed never; None when there is no such object.

        Raises:
            StorageUnavailable: Transient.
        """
        ...

    async def head(self, key: str) -> StoredObject | None:
        """Look whether an object is there, and how large it is.

        Returns:
            None when there is no such object.

        Raises:
            StorageUnavailable: Transient.
            ConfigurationError: There is no such bucket, so nothing can be told of the object.
        """
        ...

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Write a whole object; it is there in full or not at all.

        Raises:
            StorageUnavailable: Transient; the object may or may not be there.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there counts as removed.

        Raises:
            StorageUnavailable: Transient; any of them may or may not be there.
        """
        ...

    def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """Walk all objects below a prefix, in chunks.

        Raises:
            StorageUnavailable: The walk broke off: what came so far is not the whole.
        """
        ...


def is_placed(tenant_id: TenantId, key: str, content_type: ContentType) -> bool:
    """Tell whether a key lies in a folder of the tenant where objects of the type lie."""
    folder = key.split("/", 1)[0]
    return PREFIXES.get(folder) == content_type and key.startswith(f"{folder}/{tenant_id}/")


def media_key(tenant_id: TenantId, sha256: str, *, extension: str) -> str:
    """Name the S3 object of a picture; the form is a contract with other readers."""
    return f"media/{tenant_id}/{sha256[:2]}/{sha256}.{extension}"


def album_key(tenant_id: TenantId, album_id: object) -> str:
    """Name the S3 object of an album's summary; the form is a contract with other readers."""
    return f"album/{tenant_id}/{album_id}_vision_summary_v1.json"
