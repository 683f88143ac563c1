"""Odd pictures come out as people see them, whole and in bounds."""

import pytest

from tests.safety.bounded import verdicts
from tests.safety.odd import Odd, all_odd
from vision_assets.core.media import examine
from vision_assets.core.pictures import decode_upright


@pytest.mark.parametrize("odd", all_odd(), ids=lambda odd: odd.name)
def test_it_is_taken(odd: Odd) -> None:
    """Its size, its frames and the colour in its middle are what they should be."""
    header, _, measured = examine(odd.content)
    assert (header.width, header.height, header.frames) == (*odd.size, odd.frames)
    assert (measured.measurement.width, measured.measurement.height) == odd.size
    bitmap = decode_upright(odd.content)
    assert (bitmap.mode, bitmap.size) == ("RGB", odd.size)
    middle = bitmap.getpixel((odd.size[0] // 2, odd.size[1] // 2))
    assert middle == pytest.approx(odd.colour, abs=2)


def test_none_takes_more_than_bounded_time_and_memory() -> None:
    """One process looks at all of them: nothing is warned of, and its memory does not grow from one to the next."""
    pictures = all_odd()
    for odd, verdict in zip(pictures, verdicts([odd.content for odd in pictures], examine), strict=True):
        assert verdict.is_within_bounds, (odd.name, verdict)
        assert verdict.reason is None, (odd.name, verdict)
