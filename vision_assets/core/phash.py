"""Perceptual hashes of one decoded picture, as `imagehash.phash` computes them.

The 64×64 luma thumbnail gives the 256-bit hash, and `neighbours.py` compares its cells.
What is not here: decoding (`pictures.py`), reducing (`reduction.py`) and comparing (`neighbours.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fftpack import dct

from vision_assets.core.reduction import reduction

ALGORITHM = "luma-lanczos-dct/3"
"""Stored with each hash. Hashes of different algorithms are never compared."""

THUMBNAIL_EDGE = 64

# Cells of two thumbnails may differ by 8 levels and be called the same: with less contrast all pictures are alike.
_LEAST_CONTRAST = 16

# Noise of one level in each of the 32×32 pixels moves a coefficient by 4 × 32 / 2 on the average (as `dct` scales).
_NOISE = 64.0


@dataclass(frozen=True, slots=True)
class PerceptualHash:
    """What is kept of a picture to find near-duplicates.

    Attributes:
        phash: 64 bits, most significant first, as an unsigned integer; `f"{phash:016x}"` is imagehash's form.
        phash256: The same with `hash_size=16`: 32 bytes.
        thumbnail: 64×64 luma, row by row: 4096 bytes.
        quality: 0–1: the share of the 64 bits that stay when each pixel of the reduced picture is off by one level.
        flags: Why this hash must never be matched; empty when it may be.
    """

    phash: int
    phash256: bytes
    thumbnail: bytes
    quality: float
    flags: tuple[str, ...] = ()


def perceptual_hash(image: Image.Image, *, flags: tuple[str, ...] = ()) -> PerceptualHash:
    """Hash a decoded, upright picture: RGB or L; else as `hash_of_luma`."""
    return hash_of_luma(np.asarray(image.convert("L")), flags=flags)


def hash_of_luma(pixels: NDArray[np.uint8], *, flags: tuple[str, ...] = ()) -> PerceptualHash:
    """Hash the brightness of a decoded, upright picture.

    Args:
        pixels: Rows, contiguous, in full size or with a shorter edge of at least 1024 px.
        flags: What is known already, for example `animated`. `degenerate` is added for blank, nearly blank and
            symmetric pictures: their bits are noise, and their thumbnails tell too little.
    """
    square = reduction().square
    thumbnail = square(pixels, THUMBNAIL_EDGE)
    low, low256 = _low_frequencies(square(pixels, 32), 8), _low_frequencies(thumbnail, 16)
    contrast = int(thumbnail.max()) - int(thumbnail.min())
    if contrast < _LEAST_CONTRAST or _is_undecided(low) or _is_undecided(low256):
        flags = (*flags, "degenerate")
    return PerceptualHash(
        phash=int.from_bytes(np.packbits(low > 0).tobytes(), "big"),
        phash256=np.packbits(low256 > 0).tobytes(),
        thumbnail=thumbnail.tobytes(),
        quality=float(np.mean(np.abs(low) > _NOISE)),
        flags=flags,
    )


def _low_frequencies(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Tell how far the lowest frequencies lie above their median; its sign is the bit."""
    frequencies: NDArray[np.float64] = dct(dct(pixels, axis=0), axis=1)[:size, :size]
    return frequencies - np.median(frequencies)


def _is_undecided(low: NDArray[np.float64]) -> bool:
    # An even count's median lies between two coefficients; more of them that close mean that rounding decides.
    return int(np.count_nonzero(np.abs(low) < 1e-6)) >= 2
