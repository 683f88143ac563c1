"""Reducing a grey picture to a small square as `Image.resize` with LANCZOS does, bit for bit.

Pillow runs one pass after the other, and its versions differ in the order for tall pictures. Here the order is fixed:
that of Pillow 13. What is not here: the compiled passes (`lanczos.py`) and what the square is for (`phash.py`).
"""

from collections.abc import Callable
from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pass = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]

COMPILED_AFTER = 200
"""Pictures of this process. The compiled passes take a second of CPU to load and save 5 ms a picture."""


class Reduction(NamedTuple):
    """Two passes that reduce a picture, either way to the same bits.

    Attributes:
        across: Brings the rows to a length.
        down: Brings the columns to a length.
    """

    across: Pass
    down: Pass

    def square(self, pixels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
        """Reduce rows of luma of any size, contiguous, to edge × edge; a smaller picture is enlarged."""
        height, width = pixels.shape
        if height > edge and height - edge > 2 * (width - edge):
            return self.across(self.down(pixels, edge), edge)
        return self.down(self.across(pixels, edge), edge)


def reduction() -> Reduction:
    """Choose the passes for one more picture: a process that has hashed many is worth loading the compiled ones."""
    return compiled_reduction() if next(_pictures) >= COMPILED_AFTER else PILLOW


@cache
def compiled_reduction() -> Reduction:
    """Load the compiled passes."""
    from vision_assets.core import lanczos  # noqa: PLC0415 - see COMPILED_AFTER

    return Reduction(lanczos.across, lanczos.down)


def _across(pixels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    return _resized(pixels, edge, pixels.shape[0])


def _down(pixels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    return _resized(pixels, pixels.shape[1], edge)


def _resized(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


PILLOW = Reduction(_across, _down)
_pictures = count()
