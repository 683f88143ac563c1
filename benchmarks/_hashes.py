"""Hashes to search among: uniform ones, and ones that fill buckets as unevenly as real pictures do.

What is not here: any search.
"""

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

COPIES = 0.1
"""Of the hashes: they are an earlier one, with up to eight bits turned."""
TURNED_PAIRS = 4
BLOCK = 100_000


def uniform(count: int, *, seed: int = 1) -> Hashes:
    """Draw every bit by itself, which no picture does."""
    return np.random.default_rng(seed).integers(0, 2**64, size=count, dtype=np.uint64)


def lifelike(count: int, *, seed: int = 1) -> Hashes:
    """Draw low frequencies as pictures have them, and cut them at the median, as a perceptual hash is made.

    The first is always positive, low ones lean (skies are above and bright), so some chunks are far more frequent than
    others; a tenth are near-duplicates of others.
    """
    rng = np.random.default_rng(seed)
    vertical, horizontal = np.mgrid[:8, :8]
    falloff = 1 / (1 + vertical + horizontal)
    lean = np.random.default_rng(1).normal(0, 1.1, (8, 8)) * falloff**0.5  # the same for whatever pictures
    lean[0, 0] = 50
    parts = []
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        frequencies = (rng.standard_normal((size, 8, 8), dtype=np.float32) + lean) * falloff
        bits = frequencies.reshape(size, 64)
        packed = np.packbits(bits > np.median(bits, axis=1, keepdims=True), axis=1)
        parts.append(packed.view(">u8").ravel().astype(np.uint64))
    hashes = np.concatenate(parts)
    copies = rng.choice(count, size=int(count * COPIES), replace=False)
    hashes[copies] = turned(hashes[rng.integers(0, count, size=len(copies))], rng)
    return hashes


def turned(hashes: Hashes, rng: np.random.Generator) -> Hashes:
    """Turn up to eight bits of each, an even number, as another compression does."""
    for _ in range(TURNED_PAIRS):
        masks = np.uint64(1) << rng.integers(0, 64, size=(2, len(hashes)), dtype=np.uint64)
        hashes = np.where(rng.random(len(hashes)) < 0.5, hashes ^ masks[0] ^ masks[1], hashes)
    return hashes


def unevenness(hashes: Hashes) -> float:
    """Tell how many times more candidates a 16-bit chunk leaves than if all values were alike; the mean of four."""
    found = []
    for chunk in range(4):
        sizes = np.bincount(((hashes >> np.uint64(16 * chunk)) & np.uint64(0xFFFF)).astype(np.int64), minlength=65536)
        pairs = (sizes.astype(float) * (sizes - 1)).sum()
        found.append(float(pairs * 65536 / (len(hashes) * (len(hashes) - 1))))
    return round(sum(found) / 4, 2)
