"""An index of one tenant's hashes in memory, for work over all of them: exact, by Hamming distance.

A hash is cut into four chunks of 16 bits. Bits that differ are spread over them, so within a radius at least one chunk
differs in few: only hashes that share such a chunk are compared. It is built for one piece of work and thrown away; a
single picture's neighbours are a question to Postgres, whose indexes are the same idea (`neighbours.py`).
What is not here: which of the neighbours are the same picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision_assets.core.neighbours import differences

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

_CHUNKS = 4
_CHUNK_BITS = 16
_BUCKETS = 1 << _CHUNK_BITS
_PROBES_A_BLOCK = 1 << 16
_COMPARED_AT_ONCE = 1 << 17
"""Hashes copied side by side, up to twice as many; few enough to stay in the processor's cache."""
_LONG_BUCKET = 24
"""From here on, copying a bucket as a whole costs less than picking its hashes one by one."""


class Pairs(NamedTuple):
    """Pairs within the radius, found in one block of work.

    Attributes:
        left: Positions of the hashes that were asked for; in a self-join the lower ones.
        right: Positions of their neighbours in the index.
        distance_bits: By pair.
        done: Share of the whole work that is behind, 0 to 1.
    """

    left: Positions
    right: Positions
    distance_bits: NDArray[np.uint8]
    done: float


class _Probes(NamedTuple):
    """Ranges of a chunk's sorted hashes, each to be compared with one hash."""

    asked: Positions
    starts: Positions
    lengths: Positions


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The hashes, sorted by one chunk.

    Attributes:
        hashes: In that order.
        order: Their positions in the index.
        offsets: Where each value of the chunk begins; one more at the end.
    """

    shift: int
    hashes: Hashes
    order: NDArray[np.uint32]
    offsets: Positions

    @classmethod
    def of(cls, hashes: Hashes, chunk: int) -> "_Chunk":
        shift = _CHUNK_BITS * chunk
        values = (hashes >> np.uint64(shift)).astype(np.uint16)
        order = np.argsort(values, kind="stable").astype(np.uint32)
        offsets = np.zeros(_BUCKETS + 1, np.int64)
        np.cumsum(np.bincount(values, minlength=_BUCKETS), out=offsets[1:])
        return cls(shift, hashes[order], order, offsets)

    def values(self, hashes: Hashes) -> NDArray[np.int64]:
        """Cut this chunk out of hashes."""
        return ((hashes >> np.uint64(self.shift)) & np.uint64(_BUCKETS - 1)).astype(np.int64)

    def probes(self, values: NDArray[np.int64], masks: NDArray[np.int64]) -> _Probes:
        """Name the ranges that differ from each value in the bits of one of the masks."""
        buckets = (values[:, None] ^ masks).ravel()
        starts = self.offsets[buckets]
        asked = np.repeat(np.arange(len(values)), len(masks))
        return _Probes(asked, starts, self.offsets[buckets + 1] - starts)

    def probes_among_themselves(self, begin: int, end: int, masks: NDArray[np.int64]) -> _Probes:
        """The same for the chunk's own hashes from `begin` to `end`, each pair from one side only."""
        positions = np.arange(begin, end)
        values = self.values(self.hashes[begin:end])
        asked, starts, lengths = self.probes(values, masks)
        own = values[asked]
        other = own ^ np.tile(masks, end - begin)
        same = other == own
        starts = np.where(same, positions[asked] + 1, starts)
        lengths = np.where(same, self.offsets[own + 1] - starts, np.where(other > own, lengths, 0))
        return _Probes(positions[asked], starts, lengths)

    def compare(self, hashes: Hashes, probes: _Probes, radius_bits: int) -> Iterator[tuple[Positions, Positions]]:
        """Compare hashes with the ranges named, in blocks.

        Args:
            hashes: That `probes.asked` counts in.

        Yields:
            Positions in `hashes`, and of those in `self.hashes` that are within the radius.
        """
        for asked, starts, lengths in _blocks(probes):
            ends = np.cumsum(lengths)
            differing = np.repeat(hashes[asked], lengths)
            differing ^= self._copied(starts, lengths, ends)
            hits = np.flatnonzero(np.bitwise_count(differing) <= radius_bits)
            probe = np.searchsorted(ends, hits, side="right")
            yield asked[probe], starts[probe] + hits - (ends - lengths)[probe]

    def _copied(self, starts: Positions, lengths: Positions, ends: Positions) -> Hashes:
        """Copy ranges side by side."""
        if ends[-1] >= _LONG_BUCKET * len(starts):
            ranges = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
            return np.concatenate([self.hashes[start:end] for start, end in ranges])
        picked: Hashes = self.hashes[np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])]
        return picked


def _blocks(probes: _Probes) -> Iterator[_Probes]:
    """Cut probes into blocks of bounded size; a range longer than that is cut, too."""
    some = probes.lengths > 0
    asked, starts, lengths = probes.asked[some], probes.starts[some], probes.lengths[some]
    if not len(lengths):
        return
    if lengths.max() > _COMPARED_AT_ONCE:
        parts = -(-lengths // _COMPARED_AT_ONCE)
        ends = np.repeat(starts + lengths, parts)
        number = np.arange(len(ends)) - np.repeat(np.cumsum(parts) - parts, parts)
        asked, starts = np.repeat(asked, parts), np.repeat(starts, parts) + number * _COMPARED_AT_ONCE
        lengths = np.minimum(ends - starts, _COMPARED_AT_ONCE)
    block = (np.cumsum(lengths) - 1) // _COMPARED_AT_ONCE
    cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]
    for begin, end in pairwise(cuts):
        yield _Probes(asked[begin:end], starts[begin:end], lengths[begin:end])


@cache
def _masks(radius_bits: int) -> NDArray[np.int64]:
    return np.array(differences(_CHUNK_BITS, radius_bits), np.int64)


@dataclass(frozen=True, slots=True)
class HashIndex:
    """Finds all hashes within a Hamming distance; 48 bytes a hash, beside the hashes given.

    Attributes:
        hashes: 64 bits each, up to 2³² of them; a position in here is what the answers speak of.
    """

    hashes: Hashes
    _chunks: tuple[_Chunk, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chunks", tuple(_Chunk.of(self.hashes, chunk) for chunk in range(_CHUNKS)))

    def within(self, phash: int, radius_bits: int) -> Pairs:
        """Find the neighbours of one hash, nearest first, then by position.

        Args:
            phash: Unsigned 64 bits; it need not be in the index.
        """
        nothing = np.empty(0, np.int64)
        found = [Pairs(nothing, nothing, nothing.astype(np.uint8), 1)]
        found += self.batch(np.array([phash], np.uint64), radius_bits)
        left, right, distances = (np.concatenate([some[column] for some in found]) for column in range(3))
        order = np.lexsort((right, distances))
        return Pairs(left[order], right[order], distances[order], 1)

    def batch(self, asked: Hashes, radius_bits: int) -> Iterator[Pairs]:
        """Find the neighbours of many hashes, each pair once, in no order."""
        radii = _chunk_radii(radius_bits)
        masks = [_masks(radius) for radius in radii]
        block = max(1, _PROBES_A_BLOCK // max(1, *map(len, masks)))
        for begin in range(0, len(asked), block):
            some = asked[begin : begin + block]
            done = min(1, (begin + block) / len(asked))
            for number, chunk in enumerate(self._chunks):
                for left, found in chunk.compare(some, chunk.probes(chunk.values(some), masks[number]), radius_bits):
                    differing = some[left] ^ chunk.hashes[found]
                    new = _not_found_before(differing, radii[:number])
                    yield Pairs(
                        left[new] + begin,
                        chunk.order[found[new]].astype(np.int64),
                        np.bitwise_count(differing[new]),
                        done,
                    )

    def pairs(self, radius_bits: int) -> Iterator[Pairs]:
        """Find all pairs of the index within the radius, each once, in no order."""
        radii = _chunk_radii(radius_bits)
        masks = [_masks(radius) for radius in radii]
        block = max(1, _PROBES_A_BLOCK // max(1, *map(len, masks)))
        count = len(self.hashes)
        for number, chunk in enumerate(self._chunks):
            for begin in range(0, count, block):
                end = min(count, begin + block)
                done = (number + end / count) / _CHUNKS
                probes = chunk.probes_among_themselves(begin, end, masks[number])
                for one, other in chunk.compare(chunk.hashes, probes, radius_bits):
                    differing = chunk.hashes[one] ^ chunk.hashes[other]
                    new = _not_found_before(differing, radii[:number])
                    ends = chunk.order[one[new]].astype(np.int64), chunk.order[other[new]].astype(np.int64)
                    yield Pairs(np.minimum(*ends), np.maximum(*ends), np.bitwise_count(differing[new]), done)


def _chunk_radii(radius_bits: int) -> list[int]:
    """Tell in how many bits a neighbour differs in at least one chunk, chunk by chunk; -1: it need not be looked at.

    Were all chunks further off than that, they would differ in more bits than the radius together.
    """
    whole, rest = divmod(radius_bits, _CHUNKS)
    return [whole if chunk <= rest else whole - 1 for chunk in range(_CHUNKS)]


def _not_found_before(differing: Hashes, radii: list[int]) -> Positions:
    """Leave out the pairs that an earlier chunk has found already."""
    new = np.ones(len(differing), np.bool_)
    for chunk, radius in enumerate(radii):
        bits = (differing >> np.uint64(_CHUNK_BITS * chunk)) & np.uint64(_BUCKETS - 1)
        new &= np.bitwise_count(bits) > radius
    return np.flatnonzero(new)
