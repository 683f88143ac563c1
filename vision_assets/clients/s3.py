"""S3 through obstore. What is not here: keys and quota (`core/`)."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore.store import S3Config

from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.storage import StoredObject

NO_BUCKET = "The S3 bucket does not exist: make it, or check S3_BUCKET."


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """One bucket; implements `core.storage.ObjectStore`."""

    store: S3Store

    @classmethod
    def connect(
        cls,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        region: str = "us-east-1",
    ) -> "S3Bucket":
        """Configure a client; nothing is sent yet.

        Args:
            endpoint_url: Of an S3 server; None means AWS.
            access_key_id: None takes what the environment gives (instance role, profile).
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
                    "timeout": timedelta(seconds=60),
                },
                retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
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

    async def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """See `core.storage.ObjectStore.list`."""
        try:
            async for chunk in obstore.list(self.store, prefix, chunk_size=1000):
                yield [StoredObject(key=line["path"], bytes=line["size"]) for line in chunk]
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"S3 broke off the listing of {prefix}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Leave out the page of internals that the driver adds to its errors."""
    return str(error).split("\n", 1)[0]
