"""The storage quota's decision."""

import pytest

from vision_assets.core.quota import StorageLimits, UsedBytes, refusal

LIMITS = StorageLimits(bucket_bytes=1000, tenant_bytes=500, type_bytes={"media": 700, "vision": 100, "crawl": 100})


@pytest.mark.parametrize(
    ("used", "growth", "content_type", "expected"),
    [
        (UsedBytes(bucket=0, tenant=0, type=0, object=0), 500, "media", None),
        (UsedBytes(bucket=0, tenant=1, type=0, object=0), 500, "media", "tenant_limit"),
        (UsedBytes(bucket=900, tenant=0, type=0, object=0), 101, "media", "bucket_full"),
        (UsedBytes(bucket=0, tenant=0, type=99, object=0), 2, "vision", "type_limit"),
        (UsedBytes(bucket=2000, tenant=2000, type=2000, object=50), 0, "media", None),
        (UsedBytes(bucket=2000, tenant=2000, type=2000, object=50), -10, "media", None),
    ],
)
def test_refusal(used: UsedBytes, growth: int, content_type: str, expected: str | None) -> None:
    """Each limit blocks by its own reason; what does not grow is never refused."""
    assert refusal(used, LIMITS, growth, content_type) == expected  # type: ignore[arg-type]
