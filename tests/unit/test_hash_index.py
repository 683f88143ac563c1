"""The index in memory finds exactly what comparing everything with everything finds."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vision_assets.core import hash_index
from vision_assets.core.hash_index import Hashes, HashIndex, Pairs

BITS = st.integers(min_value=0, max_value=63)
radii = st.integers(min_value=0, max_value=12)


@st.composite
def families(draw: st.DrawFn) -> Hashes:
    """Hashes of which many lie near each other, some are equal, and all that is shared may be a single chunk."""
    strangers = draw(st.lists(st.integers(min_value=0, max_value=2**64 - 1), max_size=12))
    relatives = [
        origin ^ sum(1 << bit for bit in turned)
        for origin in strangers
        for turned in draw(st.lists(st.sets(BITS, max_size=14), max_size=5))
    ]
    return np.array(draw(st.permutations(strangers + relatives)), np.uint64)


def found(blocks: Iterable[Pairs]) -> Counter[tuple[int, int, int]]:
    """All pairs of all blocks, with their distances."""
    return Counter(
        pair
        for near in blocks
        for pair in zip(near.left.tolist(), near.right.tolist(), near.distance_bits.tolist(), strict=True)
    )


def brute(asked: Hashes, hashes: Hashes, radius_bits: int) -> Counter[tuple[int, int, int]]:
    """The same by comparing everything."""
    distances = np.bitwise_count(asked[:, None] ^ hashes[None, :])
    return Counter(
        (left, right, int(distances[left, right])) for left, right in np.argwhere(distances <= radius_bits).tolist()
    )


@given(families(), families(), radii)
def test_batch_is_exact(hashes: Hashes, strangers: Hashes, radius_bits: int) -> None:
    """A batch finds each neighbour of each hash once, whether the hash is in the index or not."""
    asked = np.concatenate([hashes, strangers])
    assert found(HashIndex(hashes).batch(asked, radius_bits)) == brute(asked, hashes, radius_bits)


@given(families(), radii)
def test_self_join_is_exact(hashes: Hashes, radius_bits: int) -> None:
    """All pairs are found once, the lower position first, equal hashes among them."""
    expected = {pair: 1 for pair in brute(hashes, hashes, radius_bits) if pair[0] < pair[1]}
    assert found(HashIndex(hashes).pairs(radius_bits)) == expected


@given(families(), st.integers(min_value=0, max_value=2**64 - 1), radii)
def test_one_hash_finds_the_nearest_first(hashes: Hashes, phash: int, radius_bits: int) -> None:
    """The neighbours of one hash come by distance, then by position."""
    near = HashIndex(hashes).within(phash, radius_bits)
    expected = sorted((bits, right) for _, right, bits in brute(np.array([phash], np.uint64), hashes, radius_bits))
    assert list(zip(near.distance_bits.tolist(), near.right.tolist(), strict=True)) == expected


def test_many_equal_hashes_are_found_in_bounded_blocks() -> None:
    """However many are equal, no block compares more than the bound; what is found and how far it is stay right."""
    rng = np.random.default_rng(1)
    equal = 2 * hash_index._COMPARED_AT_ONCE + 1
    hashes = np.concatenate([np.full(equal, 7, np.uint64), rng.integers(0, 2**64, 1_000, dtype=np.uint64)])
    blocks = list(HashIndex(hashes).batch(np.array([7, 8], np.uint64), 6))
    assert max(len(near.left) for near in blocks) <= 2 * hash_index._COMPARED_AT_ONCE
    right = np.concatenate([near.right for near in blocks])
    assert np.array_equal(np.sort(right), np.repeat(np.arange(equal), 2))
    assert blocks[-1].done == 1
    blocks = list(HashIndex(hashes[equal - 1_000 :]).pairs(6))
    assert sum(len(near.left) for near in blocks) == 1_000 * 999 // 2
    assert max(len(near.left) for near in blocks) <= 2 * hash_index._COMPARED_AT_ONCE
    assert [near.done for near in blocks] == sorted(near.done for near in blocks)
