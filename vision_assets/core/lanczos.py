"""The two passes of Pillow's `resize` with LANCZOS over one channel, bit for bit, and several times as fast: compiled.

Importing this takes about a second of CPU: machine code that was compiled at the first import is loaded.
What is not here: in which order the passes run, and when the import is worth its time (`reduction.py`).
"""

from collections.abc import Callable
from functools import lru_cache
from math import ceil, pi, sin
from typing import Any, cast

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_LOBES = 3
# Pillow's weights: 32 bits less 8 of the pixel and 2 for negative lobes.
_BITS = 22
_HALF = 1 << (_BITS - 1)

# Pixels that a vector loop takes at once: weights of zero fill them up, and no pixel is left for a slow loop.
_STRIDE = 32

_Plan = tuple[NDArray[np.int32], NDArray[np.int32]]


def across(pixels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """Bring the rows of a picture to `edge` pixels each."""
    result: NDArray[np.uint8] = _across(pixels, *_plan(pixels.shape[1], edge))
    return result


def down(pixels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """Bring the columns of a picture to `edge` pixels each."""
    result: NDArray[np.uint8] = _down(pixels, *_plan(pixels.shape[0], edge))
    return result


@lru_cache(maxsize=64)  # 60 kB at 1280 px; the pictures of a channel come in few sizes
def _plan(length: int, edge: int) -> _Plan:
    """Tell of each new pixel where its old ones start, and their weights."""
    starts, weights = _weigh(length, edge)
    return starts, weights


def _compiled(*signature: types.Type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return cast(Callable[..., Any], njit(signature, nogil=True, cache=True)(function))
        except RuntimeError:
            # Neither beside this file nor in a home can the code be kept, so each process compiles it.
            return cast(Callable[..., Any], njit(signature, nogil=True)(function))

    return compiled


@_compiled(types.float64)
def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else sin(x * pi) / (x * pi)


@_compiled(types.int64, types.int64)
def _weigh(length: int, edge: int) -> _Plan:
    scale = length / edge
    stretch = max(scale, 1.0)
    support = _LOBES * stretch
    most = ceil(support) * 2 + 1
    size = min(-(-most // _STRIDE) * _STRIDE, length)
    starts = np.zeros(edge, np.int32)
    weights = np.zeros((edge, size), np.int32)
    row = np.zeros(most, np.float64)
    for place in range(edge):
        centre = (place + 0.5) * scale
        start = max(int(centre - support + 0.5), 0)
        count = min(int(centre + support + 0.5), length) - start
        total = 0.0
        for at in range(count):
            x = (at + start - centre + 0.5) * (1.0 / stretch)
            row[at] = _sinc(x) * _sinc(x / _LOBES) if -_LOBES <= x < _LOBES else 0.0
            total += row[at]
        starts[place] = min(start, length - size)
        for at in range(count):
            weight = row[at] / total * (1 << _BITS)
            weights[place, start - starts[place] + at] = int(weight - 0.5 if weight < 0 else weight + 0.5)
    return starts, weights


@_compiled(types.int32)
def _rounded(total: int) -> int:
    return min(max(total >> _BITS, 0), 255)


_of_a_pass = _compiled(
    types.Array(types.uint8, 2, "C", readonly=True),
    types.Array(types.int32, 1, "C", readonly=True),
    types.Array(types.int32, 2, "C", readonly=True),
)


# The casts keep all sums in 32 bits, of which a vector holds twice as many as of 64.
@_of_a_pass
def _across(pixels: NDArray[np.uint8], starts: NDArray[np.int32], weights: NDArray[np.int32]) -> NDArray[np.uint8]:
    result = np.empty((pixels.shape[0], starts.size), np.uint8)
    for y in range(pixels.shape[0]):
        for x in range(starts.size):
            # Slices, for no index of theirs can be negative: a test for it would keep the loop from using vectors.
            seen = pixels[y, starts[x] : starts[x] + weights.shape[1]]
            weight = weights[x]
            total = np.int32(_HALF)
            for at in range(weight.size):
                total = np.int32(total + np.int32(np.int32(seen[at]) * weight[at]))
            result[y, x] = _rounded(total)
    return result


@_of_a_pass
def _down(pixels: NDArray[np.uint8], starts: NDArray[np.int32], weights: NDArray[np.int32]) -> NDArray[np.uint8]:
    result = np.empty((starts.size, pixels.shape[1]), np.uint8)
    totals = np.empty(pixels.shape[1], np.int32)
    for y in range(starts.size):
        totals[:] = _HALF
        for at in range(weights.shape[1]):
            row = pixels[starts[y] + at]
            weight = weights[y, at]
            for x in range(totals.size):
                totals[x] = np.int32(totals[x] + np.int32(np.int32(row[x]) * weight))
        for x in range(totals.size):
            result[y, x] = _rounded(totals[x])
    return result
