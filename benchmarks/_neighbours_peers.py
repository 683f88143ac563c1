"""The sides that find neighbours in memory: ours, and named peers. What is not here: clocks (`neighbours.py`)."""

from collections.abc import Sequence
from typing import Any, Protocol

import faiss
import numpy as np
import pybktree
from numpy.typing import NDArray

from benchmarks._hashes import Hashes
from vision_assets.core.hash_index import HashIndex
from vision_assets.core.neighbours import RADIUS_BITS, distance_bits

Found = NDArray[np.int64]

SCANNED_AT_ONCE = 32_768


class Side(Protocol):
    """An index in memory; `add` appends."""

    def __init__(self, hashes: Hashes) -> None: ...

    def batch(self, asked: Hashes) -> Sequence[Found]:
        """The positions of each hash's neighbours, in no order."""
        ...

    def add(self, hashes: Hashes) -> None:
        """Add hashes behind those that are there."""
        ...


class Ours:
    """`core.hash_index`; it is built anew to add to it."""

    def __init__(self, hashes: Hashes) -> None:
        self.index = HashIndex(hashes)

    def batch(self, asked: Hashes) -> Sequence[Found]:
        found = [(pairs.left, pairs.right) for pairs in self.index.batch(asked, RADIUS_BITS)]
        left, right = (np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*found, strict=True))
        order = np.argsort(left, kind="stable")
        return np.split(right[order], np.searchsorted(left[order], np.arange(1, len(asked))))

    def add(self, hashes: Hashes) -> None:
        self.index = HashIndex(np.concatenate([self.index.hashes, hashes]))


class Brute:
    """Everything compared with everything, in blocks that stay in the cache."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes

    def batch(self, asked: Hashes) -> Sequence[Found]:
        return [self._one(phash) for phash in asked]

    def _one(self, phash: np.uint64) -> Found:
        return np.concatenate(
            [
                np.flatnonzero(np.bitwise_count(self.hashes[start : start + SCANNED_AT_ONCE] ^ phash) <= RADIUS_BITS)
                + start
                for start in range(0, len(self.hashes), SCANNED_AT_ONCE)
            ]
        )

    def add(self, hashes: Hashes) -> None:
        self.hashes = np.concatenate([self.hashes, hashes])


class _Faiss:
    """An index of faiss on one thread."""

    def __init__(self, hashes: Hashes) -> None:
        faiss.omp_set_num_threads(1)
        self.index = self.new()
        self.add(hashes)

    @staticmethod
    def new() -> Any:
        raise NotImplementedError

    def batch(self, asked: Hashes) -> Sequence[Found]:
        ends, _, found = self.index.range_search(asked.view(np.uint8).reshape(-1, 8), RADIUS_BITS + 1)
        return np.split(found, ends[1:-1].astype(np.int64))

    def add(self, hashes: Hashes) -> None:
        self.index.add(hashes.view(np.uint8).reshape(-1, 8))


class FaissFlat(_Faiss):
    """A scan in C++."""

    @staticmethod
    def new() -> Any:
        return faiss.IndexBinaryFlat(64)


class FaissMultiHash(_Faiss):
    """Four tables of 16 bits, one bit turned in each look-up: exact up to 7 bits."""

    @staticmethod
    def new() -> Any:
        index = faiss.IndexBinaryMultiHash(64, 4, 16)
        index.nflip = 1
        return index


class BkTree:
    """A tree by distances, in Python."""

    def __init__(self, hashes: Hashes) -> None:
        self.tree = pybktree.BKTree(lambda left, right: distance_bits(left[0], right[0]))
        self.count = 0
        self.add(hashes)

    def batch(self, asked: Hashes) -> Sequence[Found]:
        return [
            np.array([item[1] for _, item in self.tree.find((phash, -1), RADIUS_BITS)], np.int64)
            for phash in asked.tolist()
        ]

    def add(self, hashes: Hashes) -> None:
        for phash in hashes.tolist():
            self.tree.add((phash, self.count))
            self.count += 1


SIDES: dict[str, tuple[str, type[Side], int, int]] = {
    "ours": ("ours in memory", Ours, 10_000_000, 1_000),
    "numpy": ("numpy, a scan", Brute, 10_000_000, 1_000),
    "faiss_flat": ("faiss, a scan", FaissFlat, 10_000_000, 1_000),
    "faiss_multihash": ("faiss MultiHash 4×16", FaissMultiHash, 10_000_000, 1_000),
    "bk_tree": ("pybktree", BkTree, 100_000, 100),
}
"""What each is; up to how many hashes, and by how many queries it is measured."""
