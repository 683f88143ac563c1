"""Near-duplicates of one tenant: which hashes are candidates, and which candidate is the same picture.

The hash alone is not safe: screenshots of one program and pages of one form collide. So a candidate must also agree in
the 256-bit hash, the aspect ratio and every cell of the thumbnail.
What is not here: whether the donor's result may be reused (`reuse.py`), the index (`clients/postgres/neighbours.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

Strictness = Literal["strict", "normal"]
"""How alike the cells of two thumbnails must be."""

Criterion = Literal["hash_radius", "hash_256", "aspect", "cells"]
"""What two pictures may differ in too much, in the order in which it is asked."""

RADIUS_BITS = 6
RADIUS_256_BITS = 10
ASPECT_TOLERANCE = 0.015
CELL_TOLERANCE: Mapping[Strictness, float] = {"strict": 8, "normal": 12}
"""Largest difference of one of 64×64 luma cells, of 255, after the means are subtracted."""

COMPARED_EDGE = 1280
"""Pixels of the longer edge at which two pictures are compared in the end, or less: that of the smaller one."""

LEAST_SCALE = 0.45
"""Of the larger picture, as it is compared: scaled down further, a letter of it is a few grey pixels."""


class Chunk(NamedTuple):
    """Bits of a hash that lie together.

    Attributes:
        shift: Number of the bits below it.
        radius_bits: So many of its bits may differ.
    """

    shift: int
    bits: int
    radius_bits: int


CHUNKS = (Chunk(0, 16, 1), Chunk(16, 17, 1), Chunk(33, 17, 1), Chunk(50, 14, 0))
"""Of six bits that differ, one chunk at least has no more than its own radius: to be beyond it in all takes seven.

Their lengths leave about as many hashes to each: where one value alone is looked for, a shorter one does.
"""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What of a picture is compared."""

    phash: int
    phash256: bytes
    thumbnail: bytes
    width: int
    height: int


def differences(bits: int, radius_bits: int) -> list[int]:
    """List what a number of so many bits may differ by: itself by nothing, first; none for a negative radius."""
    return [
        sum(1 << bit for bit in turned)
        for count in range(min(radius_bits, bits) + 1)
        for turned in combinations(range(bits), count)
    ]


def distance_bits(left: int, right: int) -> int:
    """Count the bits that differ."""
    return (left ^ right).bit_count()


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far two pictures lie apart.

    Attributes:
        distance_bits: Of 64.
        distance_256_bits: Of 256.
        aspect_difference: By how much of itself the smaller aspect ratio is exceeded by the other.
        cell_difference: Largest difference of one of the thumbnails' cells, of 255, after the means are subtracted.
    """

    distance_bits: int
    distance_256_bits: int
    aspect_difference: float
    cell_difference: float

    def exceeds(self, strictness: Strictness) -> Criterion | None:
        """Name the first criterion by which they are two pictures; None: they are copies of one."""
        if self.distance_bits > RADIUS_BITS:
            return "hash_radius"
        if self.distance_256_bits > RADIUS_256_BITS:
            return "hash_256"
        if self.aspect_difference > ASPECT_TOLERANCE:
            return "aspect"
        return "cells" if self.cell_difference > CELL_TOLERANCE[strictness] else None


def compare(left: Fingerprint, right: Fingerprint) -> Likeness:
    """Measure how far two pictures lie apart; both hashes must be free of flags."""
    aspects = left.width / left.height, right.width / right.height
    cells = [np.frombuffer(side.thumbnail, dtype=np.uint8).astype(np.float32) for side in (left, right)]
    cells = [side - side.mean() for side in cells]
    return Likeness(
        distance_bits=distance_bits(left.phash, right.phash),
        distance_256_bits=distance_bits(int.from_bytes(left.phash256, "big"), int.from_bytes(right.phash256, "big")),
        aspect_difference=max(aspects) / min(aspects) - 1,
        cell_difference=float(np.abs(cells[0] - cells[1]).max()),
    )


def same_picture(left: Fingerprint, right: Fingerprint) -> bool:
    """Decide, strictly, whether two pictures are copies of one in another size or compression.

    Both hashes must be free of flags. Crops, borders, captions and flips are other pictures.
    """
    return compare(left, right).exceeds("strict") is None


def keeps_text(left: Fingerprint, right: Fingerprint) -> bool:
    """Tell whether what is written in the larger picture can be seen at the size at which the two are compared.

    Where not, the pixels agree though a letter differs: then only pictures without a text may be taken for one.
    """
    edges = [max(side.width, side.height) for side in (left, right)]
    return min(*edges, COMPARED_EDGE) >= LEAST_SCALE * max(edges)
