"""Multipart uploads that nobody completed: in no listing and no books, and yet in the bucket."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.cleaning import Cleaning, down_to
from tests.world import World
from vision_assets.clients.s3_uploads import S3Uploads
from vision_assets.core.cleanup import Upload
from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.storage import PREFIXES
from vision_assets.core.tenants import Tenant
from vision_assets.settings import Settings

PART = 5 * 2**20


@pytest.fixture
def cleaning(world: World) -> Cleaning:
    """Clean-ups of this test's world, by a clock that is 25 hours ahead: what is there was begun long ago."""
    return Cleaning(world, ahead=timedelta(hours=25))


@pytest.fixture
def uploads(parts: Settings, bucket: str) -> S3Uploads:
    """The bucket's multipart uploads."""
    return connected(parts, bucket)


def connected(parts: Settings, bucket: str) -> S3Uploads:
    """A client of the embedded S3."""
    assert parts.aws_access_key_id
    assert parts.aws_secret_access_key
    return S3Uploads.connect(
        bucket,
        endpoint_url=parts.s3_endpoint_url,
        access_key_id=parts.aws_access_key_id.get_secret_value(),
        secret_access_key=parts.aws_secret_access_key.get_secret_value(),
    )


def begin(uploads: S3Uploads, key: str, *sizes_bytes: int) -> str:
    """Begin an upload and send some parts."""
    upload_id = uploads.client.create_multipart_upload(Bucket=uploads.bucket, Key=key)["UploadId"]
    for number, size_bytes in enumerate(sizes_bytes, start=1):
        uploads.client.upload_part(
            Bucket=uploads.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=bytes(size_bytes)
        )
    return upload_id


async def under_way(uploads: S3Uploads) -> set[str]:
    """Keys of all uploads of the project that have not ended."""
    end = datetime.now(UTC) + timedelta(days=1)
    return {
        upload.key
        for folder in PREFIXES
        async for page in uploads.abandoned(f"{folder}/", before=end)
        for upload in page
    }


async def test_abandoned_uploads_are_dropped(cleaning: Cleaning, uploads: S3Uploads) -> None:
    """Uploads begun a day ago go with their parts, of all folders, and are counted; a dry run only tells them."""
    tenant = await cleaning.world.tenant("Abandoned")
    keys = {f"{folder}/{tenant.id}/big.bin" for folder in PREFIXES}
    for key in keys:
        begin(uploads, key, PART, 7)
    begin(uploads, "media/nobody/big.bin", 5)
    begin(uploads, f"elsewhere/{tenant.id}/big.bin", 5)
    dry = await cleaning.run(uploads=uploads, dry_run=True)
    assert await under_way(uploads) == keys | {"media/nobody/big.bin"}
    report = await cleaning.run(uploads=uploads)
    assert dry.totals() == report.totals()
    assert (report.totals()[-1].tenants, report.totals()[-1].objects) == (1, 5)
    assert report.totals()[-1].bytes == 4 * (PART + 7) + 5
    assert await under_way(uploads) == set()
    assert len(uploads.client.list_multipart_uploads(Bucket=uploads.bucket)["Uploads"]) == 1
    assert await cleaning.counters(tenant) == {
        "storage_cleanup_freed_bytes_total multipart ttl": 4 * (PART + 7),
        "storage_cleanup_objects_total multipart ttl": 4,
    }


async def test_young_uploads_go_on(cleaning: Cleaning, uploads: S3Uploads) -> None:
    """An upload begun within the last day may be under way, and can be completed."""
    tenant = await cleaning.world.tenant("Young")
    key = f"crawl/{tenant.id}/big.bin"
    upload_id = begin(uploads, key, 5)
    report = await replace(cleaning, ahead=timedelta(hours=23)).run(uploads=uploads)
    assert report.totals()[-1].objects == 0
    [part] = uploads.client.list_parts(Bucket=uploads.bucket, Key=key, UploadId=upload_id)["Parts"]
    uploads.client.complete_multipart_upload(
        Bucket=uploads.bucket,
        Key=key,
        UploadId=upload_id,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    assert key in await cleaning.world.keys()


async def test_uploads_come_last_in_an_emergency(cleaning: Cleaning, uploads: S3Uploads) -> None:
    """They are dropped only when what is in the books was not enough."""
    tenant = await cleaning.world.tenant("Last")
    await cleaning.put_page(tenant, "a.html", days=30)
    begin(uploads, f"crawl/{tenant.id}/big.bin", 5)
    assert (await cleaning.run(down_to(5), uploads=uploads)).reached
    assert len(await under_way(uploads)) == 1
    await cleaning.put_page(tenant, "young.html")
    assert not (await cleaning.run(down_to(5), uploads=uploads)).reached
    assert await under_way(uploads) == set()


async def test_many_uploads(cleaning: Cleaning, uploads: S3Uploads) -> None:
    """More than fit into one page of their listing, and several of one key."""
    tenant = await cleaning.world.tenant("Many")
    for number in range(7):
        begin(uploads, f"vision/{tenant.id}/{number // 2}.json", number)
    report = await cleaning.run(uploads=replace(uploads, page_uploads=2))
    assert (report.totals()[-1].objects, report.totals()[-1].bytes) == (7, 21)
    assert await under_way(uploads) == set()


async def test_upload_that_ended_meanwhile(uploads: S3Uploads) -> None:
    """To drop what is gone is no failure, and nothing was removed."""
    gone = Upload("media/x", begin(uploads, "media/x", 5), datetime.now(UTC), 5)
    assert await uploads.abort(gone)
    assert not await uploads.abort(gone)


@dataclass
class Refusing:
    """A bucket whose uploads cannot be listed in one folder, and not be dropped in another."""

    uploads: S3Uploads

    async def abandoned(self, prefix: str, *, before: datetime) -> AsyncIterator[Sequence[Upload]]:
        """List them, or not."""
        if prefix == "media/":
            raise StorageUnavailable("no list")
        async for page in self.uploads.abandoned(prefix, before=before):
            yield page

    async def abort(self, upload: Upload) -> bool:
        """Drop it, or not."""
        if upload.key.startswith("vision/"):
            raise StorageUnavailable("no abort")
        return await self.uploads.abort(upload)


async def test_folders_fail_alone(cleaning: Cleaning, uploads: S3Uploads) -> None:
    """A folder whose uploads cannot be listed or dropped is reported; those of the others go."""
    tenant = await cleaning.world.tenant("Alone")
    keys = {folder: f"{folder}/{tenant.id}/big.bin" for folder in PREFIXES}
    for key in keys.values():
        begin(uploads, key, 5)
    report = await cleaning.run(uploads=Refusing(uploads))
    assert sorted("no abort" in failure for failure in report.failures) == [False, True]
    assert await under_way(uploads) == {keys["media"], keys["vision"]}


async def test_faults_are_translated(parts: Settings, uploads: S3Uploads) -> None:
    """A missing bucket is a wrong setting; a server that does not answer is a passing fault."""
    elsewhere = connected(parts, "no-such-bucket")
    with pytest.raises(ConfigurationError, match="S3_BUCKET"):
        await elsewhere.abort(Upload("media/x", "1", datetime.now(UTC), 0))
    nobody = S3Uploads.connect("bucket", endpoint_url="http://127.0.0.1:9", access_key_id="a", secret_access_key="b")
    with pytest.raises(StorageUnavailable, match="media/x"):
        await nobody.abort(Upload("media/x", "1", datetime.now(UTC), 0))


async def test_tenant_that_is_gone(cleaning: Cleaning, uploads: S3Uploads) -> None:
    """An upload below the folder of a tenant that does not exist is dropped; there is nobody to count it for."""
    tenant = Tenant(id=(await cleaning.world.tenant("Gone")).id, name="Gone")
    begin(uploads, f"media/{tenant.id}/big.bin", 5)
    await cleaning.world.database.pool.execute("DELETE FROM tenants WHERE id = $1", tenant.id)
    report = await cleaning.run(uploads=uploads)
    assert not report.failures
    assert report.totals()[-1].objects == 1
    assert await cleaning.counters(tenant) == {}
