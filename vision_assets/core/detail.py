"""Whether two pictures that look alike as thumbnails are copies of one: their pixels are compared.

A thumbnail does not show a letter, a digit, or a lamp of another colour. Compression and scaling change a picture
everywhere by a little; an edit changes one place by much. So what counts is the largest difference in a small window,
by itself and beside what is usual between the two.
What is not here: which pairs are worth two bitmaps (`neighbours.py`), and how they are decoded (`pictures.py`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from vision_assets.core.neighbours import COMPARED_EDGE
from vision_assets.core.pictures import Background, decode_upright, probe

LUMA_TOLERANCE = 0.6
OUTSTANDING_LUMA = (0.15, 3.0)
COLOUR_TOLERANCE = 24.0

# A blur and a local gain take away what two scaling filters make of sharp edges; the windows are about a letter wide.
_BLUR = 0.7
_LEAST_GAIN = 0.6
_LUMA_WINDOW = 7
_COLOUR_WINDOW = 8
# Variance of the noise that strong compression leaves in a flat place.
_NOISE = 300.0
# A decoder reduces coarsely, so half of the reduction of a large JPEG is left to the scaling filter.
_DECODED_EDGE = 2 * COMPARED_EDGE
_USUAL_SHARE = 0.99
_LEAST_USUAL = 0.03


@dataclass(frozen=True, slots=True)
class Detail:
    """How far the pixels of two pictures lie apart, where they do most.

    Attributes:
        luma: Root mean square of what differs in a window, as a share of the contrast there.
        luma_outstanding: That, as a multiple of what 99 % of the windows stay below.
        colour: Distance of the mean chroma in a window, of 255.
    """

    luma: float
    luma_outstanding: float
    colour: float

    @property
    def agrees(self) -> bool:
        """The differences are what compression and scaling make."""
        share, multiple = OUTSTANDING_LUMA
        is_outstanding = self.luma > share and self.luma_outstanding > multiple
        return not (self.luma > LUMA_TOLERANCE or is_outstanding or self.colour > COLOUR_TOLERANCE)


def compare_files(left: bytes, right: bytes) -> Detail:
    """Decode and compare two pictures of one aspect ratio: CPU-bound, about 150 ms.

    Raises:
        InputRejected: One of them cannot be decoded.
    """
    # What is white on a transparent ground is nowhere to be seen on white.
    may_be_clear = any(probe(content).has_alpha for content in (left, right))
    backgrounds: tuple[Background, ...] = ("white", "black") if may_be_clear else ("white",)
    compared = (
        compare_detail(*(decode_upright(side, max_edge=_DECODED_EDGE, background=ground) for side in (left, right)))
        for ground in backgrounds
    )
    return max(compared, key=lambda detail: (not detail.agrees, detail.luma))


def compare_detail(left: Image.Image, right: Image.Image) -> Detail:
    """Compare two upright RGB bitmaps of one aspect ratio: pure, CPU-bound, about 130 ms at 1280 px.

    A change of brightness or colour as a whole does not count.
    """
    smaller = min(left, right, key=lambda image: image.width * image.height)
    scale = min(1.0, COMPARED_EDGE / max(smaller.size))
    size = (max(1, round(smaller.width * scale)), max(1, round(smaller.height * scale)))
    sides = [np.asarray(_scaled(image, size).convert("YCbCr"), dtype=np.float32) - 128 for image in (left, right)]
    luma = _luma_difference(*(gaussian_filter(side[..., 0], _BLUR) for side in sides))
    peak, usual = float(luma.max()), float(np.quantile(luma[::2, ::2], _USUAL_SHARE))
    shifts = [uniform_filter(sides[0][..., channel] - sides[1][..., channel], _COLOUR_WINDOW) for channel in (1, 2)]
    colour = np.hypot(*(shift - shift.mean() for shift in shifts))
    return Detail(peak, peak / (usual + _LEAST_USUAL), float(colour.max()))


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _luma_difference(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tell, for each window, what is left of the right side after the left one is taken from it at the best gain."""
    means = [uniform_filter(side, _LUMA_WINDOW) for side in (left, right)]
    variances = [
        np.maximum(uniform_filter(side**2, _LUMA_WINDOW) - mean**2, 0)
        for side, mean in zip((left, right), means, strict=True)
    ]
    covariance = uniform_filter(left * right, _LUMA_WINDOW) - means[0] * means[1]
    gain = np.clip((covariance + _NOISE) / (variances[0] + _NOISE), _LEAST_GAIN, 1 / _LEAST_GAIN)
    rest = np.maximum(variances[1] - 2 * gain * covariance + gain**2 * variances[0], 0)
    difference: NDArray[np.float32] = np.sqrt(rest / ((variances[0] + variances[1]) / 2 + _NOISE))
    return difference
