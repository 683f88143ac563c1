"""Reducing to a square against Pillow's own `resize`, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from vision_assets.core.reduction import COMPILED_AFTER, PILLOW, compiled_reduction, reduction

EDGES = (32, 64)
lengths = st.one_of(st.integers(1, 150), st.integers(150, 2000))


def noise(width: int, height: int, seed: int, *, levels: int) -> NDArray[np.uint8]:
    """Pixels without any order; of two levels they are black and white, and the lobes of the filter overshoot."""
    pixels = np.random.default_rng(seed).integers(0, levels, (height, width)) * (255 // (levels - 1))
    return pixels.astype(np.uint8)


def resized(pixels: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """What Pillow makes of it."""
    return np.asarray(Image.fromarray(pixels).resize((edge, edge), Image.Resampling.LANCZOS))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(width=lengths, height=lengths, seed=st.integers(0, 2**32), levels=st.sampled_from((2, 256)))
@example(width=1280, height=2528, seed=1, levels=256)
@example(width=1280, height=2529, seed=1, levels=256)
@example(width=1, height=2000, seed=1, levels=2)
@example(width=2000, height=1, seed=1, levels=2)
@example(width=32, height=64, seed=1, levels=2)
def test_both_ways_equal_pillow(width: int, height: int, seed: int, levels: int) -> None:
    """Every size, wide or tall, larger or smaller than the square: Pillow's bits, compiled or not."""
    pixels = noise(width, height, seed, levels=levels)
    for edge in EDGES:
        expected = resized(pixels, edge)
        assert np.array_equal(PILLOW.square(pixels, edge), expected)
        assert np.array_equal(compiled_reduction().square(pixels, edge), expected)


def test_pixels_that_may_only_be_read_are_reduced() -> None:
    """Pillow lends its pixels for reading; the compiled passes take them."""
    pixels = np.asarray(Image.fromarray(noise(300, 200, 1, levels=256)))
    assert not pixels.flags.writeable
    assert np.array_equal(compiled_reduction().square(pixels, 64), resized(pixels, 64))


def test_a_process_that_hashes_many_uses_the_compiled_passes() -> None:
    """Few pictures are not worth loading them."""
    chosen = [reduction() for _ in range(COMPILED_AFTER + 1)]
    assert chosen[-1] is compiled_reduction()
    script = "from vision_assets.core.reduction import PILLOW, reduction; assert reduction() is PILLOW"
    subprocess.run([sys.executable, "-c", f"{script}; import sys; assert 'numba' not in sys.modules"], check=True)


@pytest.mark.slow
def test_machine_code_that_cannot_be_kept_is_compiled_each_time(tmp_path: Path) -> None:
    """A system that may only be read, and no home: the bits are the same."""
    (tmp_path / "no-folder").touch()
    script = (
        "import numpy as np\n"
        "from vision_assets.core.reduction import PILLOW, compiled_reduction\n"
        "pixels = np.arange(30_000, dtype=np.uint8).reshape(150, 200)\n"
        "assert np.array_equal(compiled_reduction().square(pixels, 32), PILLOW.square(pixels, 32))\n"
    )
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserWideCacheLocator", "XDG_CACHE_HOME": str(tmp_path / "no-folder")}
    subprocess.run([sys.executable, "-c", script], env=os.environ | nowhere, check=True)
