"""S3 through obstore. What is not here: keys and quota (`core/`)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Config

from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.listing import Sizes
from vision_assets.core.storage import StoredObject

NO_BUCKET = "The S3 bucket does not exist: make it, or check S3_BUCKET."


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """One bucket; implements `core.storage.ObjectStore`."""

    store: S3Store
    _seen: asyncio.Event = field(default_factory=asyncio.Event, init=False)  # set: the bucket is known to exist

    @classmethod
    def connect(
        cls,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        region: str = "us-east-1",
        timeout_seconds: float = 60,
        max_retries: int = 4,
    ) -> "S3Bucket":
        """Configure a client; nothing is sent yet.

        Args:
            endpoint_url: Of an S3 server; None means AWS.
            access_key_id: None takes what the environment gives (instance role, profile).
            timeout_seconds: Of one attempt, from its beginning to the end of the answer.
            max_retries: Attempts after the first one; none begins later than `timeout_seconds` after the first did.
        """
        config: S3Config = {"region": region, "checksum_algorithm": "SHA256"}
        if endpoint_url:
            config["endpoint"] = endpoint_url
        if access_key_id and secret_access_key:
            config |= {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
        return cls(
            S3Store(
                bucket,
                config=config,
                client_options={
                    "allow_http": (endpoint_url or "").startswith("http://"),
                    "connect_timeout": timedelta(seconds=5),
                    "timeout": timedelta(seconds=timeout_seconds),
                },
                retry_config={"max_retries": max_retries, "retry_timeout": timedelta(seconds=timeout_seconds)},
            )
        )

    async def get(self, key: str) -> bytes | None:
        """See `core.storage.ObjectStore.get`."""
        try:
            response = await obstore.get_async(self.store, key)
            return bytes(await response.bytes_async())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise ConfigurationError(f"{NO_BUCKET} {_said(error)}") from error
            return None
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"S3 could not read {key}: {_said(error)}") from error

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """See `core.storage.ObjectStore.put`."""
        attributes = {"Content-Type": mime} | ({"Content-Encoding": encoding} if encoding else {})
        try:
            await obstore.put_async(self.store, key, body, attributes=attributes, use_multipart=False)
        except FileNotFoundError as error:
            raise ConfigurationError(f"{NO_BUCKET} {_said(error)}") from error
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"S3 could not write {key}: {_said(error)}") from error

    async def head(self, key: str) -> StoredObject | None:
        """See `core.storage.ObjectStore.head`."""
        try:
            return _stored(await obstore.head_async(self.store, key))
        except FileNotFoundError:
            if not self._seen.is_set():
                # The answer has no body, so it does not tell an absent object from an absent bucket; a listing does.
                await self.folders(key)
                self._seen.set()
            return None
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"S3 could not tell of {key}: {_said(error)}") from error

    async def delete(self, keys: Sequence[str]) -> None:
        """See `core.storage.ObjectStore.delete`."""
        try:
            await obstore.delete_async(self.store, keys)
        except FileNotFoundError as error:
            raise ConfigurationError(f"{NO_BUCKET} {_said(error)}") from error
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"S3 could not delete {len(keys)} objects: {_said(error)}") from error

    async def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """See `core.storage.ObjectStore.list`."""
        try:
            async for chunk in obstore.list(self.store, prefix, chunk_size=1000):
                yield [_stored(line) for line in chunk]
        except (BaseError, OSError) as error:
            raise _listing_failed(prefix, error) from error

    async def list_sizes(self, prefix: str, *, after: str | None = None) -> AsyncGenerator[Sizes, None]:
        """See `core.listing.Lister.list_sizes`. By columns it takes half of the CPU time that lines take."""
        try:
            async for page in obstore.list(self.store, prefix, offset=after, chunk_size=1000, return_arrow=True):
                # Lists, whatever the library's stubs say.
                yield Sizes(cast("list[str]", page["path"].to_pylist()), cast("list[int]", page["size"].to_pylist()))
        except (BaseError, OSError) as error:
            raise _listing_failed(prefix, error) from error

    async def folders(self, prefix: str) -> Sequence[str]:
        """See `core.orphans.FolderStore.folders`."""
        try:
            found = await obstore.list_with_delimiter_async(self.store, prefix)
        except (BaseError, OSError) as error:
            raise _listing_failed(prefix, error) from error
        return [path.rsplit("/", 1)[-1] for path in found["common_prefixes"]]


def _stored(line: "ObjectMeta") -> StoredObject:
    return StoredObject(key=line["path"], bytes=line["size"], modified_at=line["last_modified"])


def _listing_failed(prefix: str, error: Exception) -> ConfigurationError | StorageUnavailable:
    """Tell from a listing that broke off what no retry mends: no bucket, or a key that this client has no words for."""
    if "NoSuchBucket" in str(error):
        return ConfigurationError(f"{NO_BUCKET} {_said(error)}")
    if "invalid path" in str(error):
        return ConfigurationError(
            f"{prefix} cannot be listed because of one object there, which no client of this project wrote: "
            f"{_said(error)}. Rename or delete it."
        )
    return StorageUnavailable(f"S3 broke off the listing of {prefix}: {_said(error)}")


def _said(error: Exception) -> str:
    """Leave out the page of internals that the driver adds to its errors."""
    return str(error).split("\n", 1)[0]
