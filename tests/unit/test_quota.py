"""The storage quota's decision."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from vision_assets.core.errors import DatabaseUnavailable, QuotaExceeded, StorageUnavailable
from vision_assets.core.quota import QuotaGuardedStore, StorageLimits, UsedBytes, refusal
from vision_assets.core.storage import ContentType, StoredObject
from vision_assets.core.tenants import TenantId

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


@dataclass
class Books:
    """A ledger in memory; a check may be made to wait or to fail."""

    sizes: dict[str, int] = field(default_factory=dict)
    wait: asyncio.Event | None = None
    down: bool = False

    async def used_bytes(self, tenant_id: TenantId, content_type: ContentType, key: str) -> UsedBytes:
        """Sum up what is recorded."""
        total = sum(self.sizes.values())
        if self.wait:
            await self.wait.wait()
        if self.down:
            raise DatabaseUnavailable("down")
        return UsedBytes(bucket=total, tenant=total, type=total, object=self.sizes.get(key, 0))

    async def record_put(self, tenant_id: TenantId, key: str, content_type: ContentType, size_bytes: int) -> None:
        """Record a put."""
        self.sizes[key] = size_bytes


@dataclass
class Shelf:
    """An object store in memory; a put may be made to fail."""

    objects: dict[str, bytes] = field(default_factory=dict)
    broken: bool = False

    async def get(self, key: str) -> bytes | None:
        """Read."""
        return self.objects.get(key)

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """Write."""
        if self.broken:
            raise StorageUnavailable("broken")
        self.objects[key] = body

    async def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """List nothing."""
        yield []


TENANT = TenantId(UUID(int=1))


async def put(store: QuotaGuardedStore, key: str, size: int, *, immutable: bool = False) -> bool:
    """Put an object of a size."""
    return await store.put(TENANT, key, bytes(size), content_type="media", mime="image/png", immutable=immutable)


async def test_puts_at_once_do_not_overshoot() -> None:
    """Of puts that all look before any is counted, only as many go through as the limit has room for."""
    books = Books(wait=asyncio.Event())
    store = QuotaGuardedStore(Shelf(), books, LIMITS)
    tasks = [asyncio.create_task(put(store, f"k{number}", 200)) for number in range(8)]
    await asyncio.sleep(0)
    assert books.wait is not None
    books.wait.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(outcome is True for outcome in outcomes) == 2  # 500 bytes a tenant
    assert sum(books.sizes.values()) <= LIMITS.tenant_bytes
    assert all(outcome is True or isinstance(outcome, QuotaExceeded) for outcome in outcomes)


async def test_a_failed_put_gives_its_room_back() -> None:
    """A put that breaks off holds nothing afterwards."""
    shelf, books = Shelf(broken=True), Books()
    store = QuotaGuardedStore(shelf, books, LIMITS)
    with pytest.raises(StorageUnavailable):
        await put(store, "a", 400)
    shelf.broken = False
    assert await put(store, "a", 400)
    assert books.sizes == {"a": 400}


async def test_a_failing_check_lets_the_upload_go_on() -> None:
    """The books being closed does not stop an upload."""
    shelf = Shelf()
    assert await put(QuotaGuardedStore(shelf, Books(down=True), LIMITS), "a", 400)
    assert shelf.objects.keys() == {"a"}


async def test_what_is_there_is_not_sent_again() -> None:
    """An object whose key names its content is sent once; one that may change is sent again."""
    store = QuotaGuardedStore(Shelf(), Books(), LIMITS)
    assert [await put(store, "a", 10, immutable=True) for _ in range(2)] == [True, False]
    assert [await put(store, "b", 10) for _ in range(2)] == [True, True]
