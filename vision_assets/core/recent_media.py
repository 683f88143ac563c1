"""An object store that still has the pictures it has just put, so that the next stage need not fetch them.

What is not here: any real store (`clients/s3.py`), and what is put (`media.py`).
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from cachetools import FIFOCache

from vision_assets.core.storage import ObjectStore, StoredObject

KEPT_BYTES = 64 * 2**20


def _new_cache() -> FIFOCache[str, bytes]:
    return FIFOCache(KEPT_BYTES, getsizeof=len)


@dataclass(frozen=True, slots=True)
class RecentMedia:
    """Implements `ObjectStore` over another one; each picture is given once without asking that.

    A picture's key names its content, so what was put under it is what lies there.
    """

    store: ObjectStore
    _kept: FIFOCache[str, bytes] = field(default_factory=_new_cache, init=False)

    async def get(self, key: str) -> bytes | None:
        """See the Protocol."""
        kept = self._kept.pop(key, None)
        return await self.store.get(key) if kept is None else kept

    async def head(self, key: str) -> StoredObject | None:
        """See the Protocol."""
        return await self.store.head(key)

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """See the Protocol."""
        await self.store.put(key, body, mime=mime, encoding=encoding)
        if key.startswith("media/") and len(body) <= KEPT_BYTES:
            self._kept[key] = body

    async def delete(self, keys: Sequence[str]) -> None:
        """See the Protocol."""
        for key in keys:
            self._kept.pop(key, None)
        await self.store.delete(keys)

    def list(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """See the Protocol."""
        return self.store.list(prefix)
