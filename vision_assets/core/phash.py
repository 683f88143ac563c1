"""Perceptual hashes of one decoded picture, as `imagehash.phash` computes them.

One resize gives the 64×64 luma thumbnail: the 256-bit hash is made of it, and `neighbours.py` compares its cells.
What is not here: decoding (`pictures.py`) and comparing (`neighbours.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fftpack import dct

ALGORITHM = "luma-lanczos-dct/2"
"""Stored with each hash. Hashes of different algorithms are never compared."""

THUMBNAIL_EDGE = 64


@dataclass(frozen=True, slots=True)
class PerceptualHash:
    """What is kept of a picture to find near-duplicates.

    Attributes:
        phash: 64 bits, most significant first, as an unsigned integer; `f"{phash:016x}"` is imagehash's form.
        phash256: The same with `hash_size=16`: 32 bytes.
        thumbnail: 64×64 luma, row by row: 4096 bytes.
        flags: Why this hash must never be matched; empty when it may be.
    """

    phash: int
    phash256: bytes
    thumbnail: bytes
    flags: tuple[str, ...] = ()


def perceptual_hash(image: Image.Image, *, flags: tuple[str, ...] = ()) -> PerceptualHash:
    """Hash a decoded, upright picture.

    Args:
        image: RGB or L, in full size or scaled to at least 1024 px.
        flags: What is known already, for example `animated`. `degenerate` is added for blank and symmetric
            pictures, whose bits are noise of the last decimal place.
    """
    luma = image.convert("L")
    small = np.asarray(luma.resize((32, 32), Image.Resampling.LANCZOS))
    thumbnail = np.asarray(luma.resize((THUMBNAIL_EDGE, THUMBNAIL_EDGE), Image.Resampling.LANCZOS))
    bits, clear = _low_frequencies(small, 8)
    bits256, clear256 = _low_frequencies(thumbnail, 16)
    if not (clear and clear256):
        flags = (*flags, "degenerate")
    return PerceptualHash(
        phash=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        phash256=np.packbits(bits256).tobytes(),
        thumbnail=thumbnail.tobytes(),
        flags=flags,
    )


def _low_frequencies(pixels: NDArray[np.uint8], size: int) -> tuple[NDArray[np.bool_], bool]:
    """Tell which of the lowest frequencies lie above their median, and whether that is beyond doubt."""
    frequencies = dct(dct(pixels, axis=0), axis=1)[:size, :size]
    median = np.median(frequencies)
    # An even count's median lies between two coefficients; more of them that close mean that rounding decides.
    clear = int(np.count_nonzero(np.abs(frequencies - median) < 1e-6)) < 2
    return frequencies > median, clear
