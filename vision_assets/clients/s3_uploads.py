"""Abandoned multipart uploads, through boto3 in threads. They are in no listing, so no usage ever shows them.

What is not here: objects (`s3.py`). boto3 is imported late: it takes a good part of a second, and few commands need it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

from vision_assets.core.cleanup import Upload
from vision_assets.core.errors import ConfigurationError, StorageUnavailable

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class S3Uploads:
    """The multipart uploads of one bucket; implements `core.cleanup_pass.UploadStore`.

    Attributes:
        page_uploads: Listed in one request; 1,000 at most.
    """

    client: "S3Client"
    bucket: str
    page_uploads: int = 1_000

    @classmethod
    def connect(
        cls,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        region: str = "us-east-1",
    ) -> "S3Uploads":
        """Configure a client; nothing is sent yet.

        Args:
            endpoint_url: Of an S3 server; None means AWS.
            access_key_id: None takes what the environment gives (instance role, profile).
        """
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        client = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key_id if secret_access_key else None,
            aws_secret_access_key=secret_access_key if access_key_id else None,
            region_name=region,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 5},
                s3={"addressing_style": "path"} if endpoint_url else {},
            ),
        )
        return cls(client, bucket)

    async def abandoned(self, prefix: str, *, before: datetime) -> AsyncIterator[Sequence[Upload]]:
        """See the Protocol."""
        listing = self.client.get_paginator("list_multipart_uploads")
        pages = iter(
            listing.paginate(Bucket=self.bucket, Prefix=prefix, PaginationConfig={"PageSize": self.page_uploads})
        )

        def next_page() -> list[Upload] | None:
            page = next(pages, None)
            if page is None:
                return None
            found = [upload for upload in page.get("Uploads", ()) if upload["Initiated"] < before]
            return [
                Upload(u["Key"], u["UploadId"], u["Initiated"], self._bytes(u["Key"], u["UploadId"])) for u in found
            ]

        while (uploads := await _called(f"list the uploads below {prefix}", next_page)) is not None:
            yield uploads

    def _bytes(self, key: str, upload_id: str) -> int:
        """Sum up the parts that were sent; 0 when the upload has ended meanwhile."""
        pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=upload_id)
        try:
            return sum(part["Size"] for page in pages for part in page.get("Parts", ()))
        except self.client.exceptions.NoSuchUpload:
            return 0

    async def abort(self, upload: Upload) -> bool:
        """See the Protocol."""

        def abort() -> bool:
            try:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload.key, UploadId=upload.id)
            except self.client.exceptions.NoSuchUpload:
                return False
            return True

        return await _called(f"abort the upload of {upload.key}", abort)


async def _called(what: str, call: Callable[[], Answer]) -> Answer:
    """Run a call in a thread, and turn the driver's errors into the project's."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        return await asyncio.to_thread(call)
    except ClientError as error:
        if error.response["Error"].get("Code") == "NoSuchBucket":
            raise ConfigurationError(f"The S3 bucket does not exist: make it, or check S3_BUCKET. {error}") from error
        raise StorageUnavailable(f"S3 could not {what}: {error}") from error
    except (BotoCoreError, OSError) as error:
        raise StorageUnavailable(f"S3 could not {what}: {error}") from error
