"""The store that still has what it has just put, over one in memory."""

from obstore.store import MemoryStore

from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.recent_media import KEPT_BYTES, RecentMedia

KEY, RESULT = "media/tenant/ab/abcd.jpg", "vision/tenant/abcd.json.gz"


def a_bucket() -> S3Bucket:
    """An empty bucket."""
    return S3Bucket(MemoryStore())  # type: ignore[arg-type]  # the operations are the same


async def test_a_picture_is_given_once_without_asking() -> None:
    """The bucket has it, too: what is asked for again comes from there."""
    bucket = a_bucket()
    recent = RecentMedia(bucket)
    await recent.put(KEY, b"picture", mime="image/jpeg")
    assert await bucket.get(KEY) == b"picture"
    await bucket.put(KEY, b"from the bucket", mime="image/jpeg")
    assert [await recent.get(KEY), await recent.get(KEY)] == [b"picture", b"from the bucket"]


async def test_what_may_change_under_its_key_is_not_kept() -> None:
    """Somebody else may have written it since."""
    bucket = a_bucket()
    recent = RecentMedia(bucket)
    await recent.put(RESULT, b"mine", mime="application/json")
    await bucket.put(RESULT, b"another's", mime="application/json")
    assert await recent.get(RESULT) == b"another's"


async def test_what_is_deleted_is_gone() -> None:
    """Also from here."""
    recent = RecentMedia(a_bucket())
    await recent.put(KEY, b"picture", mime="image/jpeg")
    await recent.delete([KEY])
    assert await recent.get(KEY) is None


async def test_the_memory_is_bounded() -> None:
    """The oldest goes; what is larger than all of it is never kept."""
    bucket = a_bucket()
    recent = RecentMedia(bucket)
    half = bytes(KEPT_BYTES // 2)
    for key, body in {"media/1": half, "media/2": half, "media/3": b"small", "media/4": bytes(KEPT_BYTES + 1)}.items():
        await recent.put(key, body, mime="image/jpeg")
        await bucket.put(key, b"from the bucket", mime="image/jpeg")
    assert await recent.get("media/1") == b"from the bucket"
    assert await recent.get("media/2") == half
    assert await recent.get("media/3") == b"small"
    assert await recent.get("media/4") == b"from the bucket"


async def test_the_rest_is_the_buckets() -> None:
    """Looking and listing."""
    recent = RecentMedia(a_bucket())
    await recent.put(KEY, b"picture", mime="image/jpeg")
    there = await recent.head(KEY)
    assert there is not None
    assert there.bytes == 7
    assert [one.key async for page in recent.list("media/") for one in page] == [KEY]
