"""A tenant's listing, walked in parallel and in small pieces: no more than a few pages are in memory at any time.

What is not here: what the listing is compared with (`reconcile.py`), and any real store (`clients/s3.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from vision_assets.core.errors import ConfigurationError
from vision_assets.core.storage import PREFIXES
from vision_assets.core.tenants import TenantId

PAGES_BEFORE_SHARDS = 8
"""A folder that ends sooner is walked in one go: most tenants are small, and each shard costs a request."""

SHARDS = 16
"""Parts of a large folder, by the first character of what follows the tenant: media and results lie under a hash."""

_HEX = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Sizes:
    """A piece of a listing, by columns: a million objects do not become a million Python objects.

    Attributes:
        keys: In the order of their bytes.
        sizes_bytes: One for each key.
    """

    keys: Sequence[str]
    sizes_bytes: Sequence[int]


class Lister(Protocol):
    """An S3 bucket, as far as its listings go."""

    def list_sizes(self, prefix: str, *, after: str | None = None) -> AsyncGenerator[Sizes, None]:
        """Walk all objects below a prefix in the order of their keys' bytes, in pieces of about a page.

        Args:
            after: A key, which need not exist: only what comes after it.

        Raises:
            StorageUnavailable: The walk broke off: what came so far is not the whole.
        """
        ...


@dataclass(slots=True)
class TenantWalk:
    """One walk over all folders of a tenant.

    Attributes:
        take: Is handed every object at least once, several pieces at once; who takes long slows the walk down.
        concurrency: Listings under way at once.
        pages_before_shards: See the constant.
    """

    tenant_id: TenantId
    store: Lister
    take: Callable[[Sizes], Awaitable[None]]
    concurrency: int = 8
    pages_before_shards: int = PAGES_BEFORE_SHARDS

    async def run(self) -> None:
        """Walk to the end.

        Raises:
            StorageUnavailable: The walk broke off: what was handed out is not the whole.
            ConfigurationError: The server does not list in order, so parts of the listing cannot be told apart.
        """
        slots = asyncio.Semaphore(self.concurrency)
        try:
            async with asyncio.TaskGroup() as group:
                for folder in PREFIXES:
                    group.create_task(self._folder(f"{folder}/{self.tenant_id}/", slots))
        except ExceptionGroup as errors:
            raise _first(errors) from errors

    async def _folder(self, prefix: str, slots: asyncio.Semaphore) -> None:
        """Walk the beginning of a folder, and what is left, if anything, in parts at once."""
        last = await self._part(prefix, None, None, slots, max_pages=self.pages_before_shards)
        if last is None:
            return
        bounds = [last, *(bound for digit in _HEX[:: len(_HEX) // SHARDS] if (bound := prefix + digit) > last), None]
        async with asyncio.TaskGroup() as group:
            for after, to in pairwise(bounds):
                group.create_task(self._part(prefix, after, to, slots))

    async def _part(
        self, prefix: str, after: str | None, to: str | None, slots: asyncio.Semaphore, *, max_pages: int | None = None
    ) -> str | None:
        """Walk what comes after a key, up to and with another one.

        Returns:
            The last key handed out, when `max_pages` were walked and more may follow; else None.
        """
        pages = 0
        last = after
        async with slots, aclosing(self.store.list_sizes(prefix, after=after)) as pages_of_keys:
            async for page in pages_of_keys:
                if not page.keys:
                    continue
                if last is not None and page.keys[-1] <= last:
                    raise ConfigurationError(
                        f"The S3 server does not list {prefix} in the order of the keys, or not from where it was "
                        f"asked to: {page.keys[-1]} came after {last}. Its listing is of no use; nothing was changed."
                    )
                if to is not None and page.keys[-1] > to:
                    await self.take(_up_to(page, to))
                    return None
                await self.take(page)
                last = page.keys[-1]
                pages += 1
                if pages == max_pages:
                    return last
        return None


def _up_to(page: Sizes, to: str) -> Sizes:
    """Cut a page. A client may tell a folder's own key, which ends in a slash, without it and so out of order."""
    kept = [(key, size) for key, size in zip(page.keys, page.sizes_bytes, strict=True) if key <= to]
    return Sizes([key for key, _ in kept], [size for _, size in kept])


def _first(errors: ExceptionGroup) -> Exception:
    """Tell the first of what went wrong at once: the others are the same fault, seen from other parts."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
