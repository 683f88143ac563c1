"""The walk over a tenant's listing: every key once, whatever the parts, and nothing but the whole."""

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.listing import Sizes, TenantWalk
from vision_assets.core.storage import PREFIXES
from vision_assets.core.tenants import TenantId

TENANT = TenantId(UUID(int=1))


@dataclass
class Shelf:
    """Keys in memory, listed as S3 lists.

    Attributes:
        ignores_after: A server that does not know `start-after`.
        breaks_after: The key after which every listing breaks off.
        most_at_once: Listings that were under way together.
    """

    keys: list[str]
    page_size: int = 3
    ignores_after: bool = False
    breaks_after: str | None = None
    requests: int = 0
    most_at_once: int = 0
    _now: int = 0

    async def list_sizes(self, prefix: str, *, after: str | None = None) -> AsyncGenerator[Sizes, None]:
        """List page by page; a key's size is its place."""
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            keys = sorted(key for key in self.keys if key.startswith(prefix))
            place = bisect_right(keys, after) if after and not self.ignores_after else 0
            while True:
                self.requests += 1
                await asyncio.sleep(0)
                page = keys[place : place + self.page_size]
                if self.breaks_after and any(key > self.breaks_after for key in page):
                    raise StorageUnavailable("broke off")
                yield Sizes(page, [self.keys.index(key) for key in page])
                place += self.page_size
                if place >= len(keys):
                    return
        finally:
            self._now -= 1


async def walked(shelf: Shelf, *, pages_before_shards: int = 2, concurrency: int = 4) -> Counter[tuple[str, int]]:
    """Walk the shelf, and count what was handed out."""
    found: Counter[tuple[str, int]] = Counter()

    async def take(listed: Sizes) -> None:
        await asyncio.sleep(0)
        found.update(zip(listed.keys, listed.sizes_bytes, strict=True))

    await TenantWalk(TENANT, shelf, take, concurrency, pages_before_shards).run()
    return found


NAMES = st.text(st.sampled_from("0189aefgz/-~é中"), min_size=1, max_size=5)


@settings(deadline=None, max_examples=150)
@given(
    keys=st.sets(st.tuples(st.sampled_from([*PREFIXES, "else"]), st.sampled_from([1, 2]), NAMES), max_size=60),
    page_size=st.integers(1, 7),
    pages_before_shards=st.integers(1, 4),
)
def test_every_key_is_handed_out_once(
    keys: set[tuple[str, int, str]], page_size: int, pages_before_shards: int
) -> None:
    """All keys of the tenant and no others, in however many parts; keys on a part's edge are in one of the two."""
    paths = [f"{folder}/{UUID(int=tenant)}/{name}" for folder, tenant, name in keys]
    shelf = Shelf(paths, page_size)
    found = asyncio.run(walked(shelf, pages_before_shards=pages_before_shards))
    expected = {
        (key, place) for place, key in enumerate(paths) if key.split("/")[0] in PREFIXES and f"/{TENANT}/" in key
    }
    assert found == dict.fromkeys(expected, 1)


def keys(count: int, folder: str = "media") -> list[str]:
    """Keys that are spread over the parts."""
    return [f"{folder}/{TENANT}/{number * 2654435761 % 2**32:08x}" for number in range(count)]


async def test_small_folders_cost_one_request_each() -> None:
    """A folder that ends in its first page is asked for once."""
    shelf = Shelf(keys(2), page_size=3)
    assert len(await walked(shelf)) == 2
    assert shelf.requests == len(PREFIXES)


async def test_large_folders_are_walked_in_parts_at_once() -> None:
    """A large folder is listed from several places at once, but no more than allowed."""
    shelf = Shelf(keys(2000), page_size=20)
    assert len(await walked(shelf, concurrency=5)) == 2000
    assert shelf.most_at_once == 5
    assert shelf.requests < 2000 / 20 + 2 * 16 + len(PREFIXES)


async def test_keys_on_the_edges_of_parts() -> None:
    """A key that is itself the edge between two parts belongs to the first of them."""
    names = [first + rest for first in "0123456789abcdef" for rest in ("", "0", "f")]
    found = await walked(Shelf([f"media/{TENANT}/{name}" for name in names], page_size=4), pages_before_shards=1)
    assert {key.rsplit("/", 1)[1]: count for (key, _), count in found.items()} == dict.fromkeys(names, 1)


async def test_one_part_that_breaks_off_breaks_the_walk() -> None:
    """The fault of one part is the walk's, as it is and not in a group."""
    shelf = Shelf(keys(200), page_size=5, breaks_after=f"media/{TENANT}/9")
    with pytest.raises(StorageUnavailable, match="broke off"):
        await walked(shelf)


async def test_a_server_that_ignores_where_to_begin_is_found_out() -> None:
    """Its listing is refused: parts of it could not be told from the whole."""
    with pytest.raises(ConfigurationError, match="came after"):
        await walked(Shelf(keys(200), page_size=5, ignores_after=True))


async def test_a_server_that_lists_out_of_order_is_found_out() -> None:
    """Its listing is refused: nobody knows where its parts end."""

    @dataclass
    class Backwards(Shelf):
        async def list_sizes(self, prefix: str, *, after: str | None = None) -> AsyncGenerator[Sizes, None]:
            pages = [page async for page in Shelf.list_sizes(self, prefix, after=after)]
            for page in reversed(pages):
                yield page

    with pytest.raises(ConfigurationError, match="in the order of the keys"):
        await walked(Backwards(keys(20)))


async def test_folders_of_their_own_are_no_disorder() -> None:
    """A client that tells `a/` as `a` tells it out of order; everything is handed out all the same."""
    names = ["8", "8-1", "8.jpg", "8/", "8/1", "9", "9/", "90"]
    paths = [f"media/{TENANT}/{name}" for name in names]

    @dataclass
    class Stripping(Shelf):
        async def list_sizes(self, prefix: str, *, after: str | None = None) -> AsyncGenerator[Sizes, None]:
            async for page in Shelf.list_sizes(self, prefix, after=after):
                yield Sizes([key.rstrip("/") for key in page.keys], page.sizes_bytes)

    found = await walked(Stripping(paths, page_size=4), pages_before_shards=1)
    assert {key for key, _ in found} == {path.rstrip("/") for path in paths}
