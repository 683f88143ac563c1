"""Which of two pictures that look alike takes the other's result: a short form of `benchmarks/reuse.py`."""

import pytest

from benchmarks._browser import CHROMIUM
from benchmarks.reuse import CHANGED, COPY, DIFFERENT, MEANING, QUICK, REENCODED, SMALL, judged, shares, sums

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; .ci/run installs it"),
]


def test_only_copies_are_taken_for_one_picture() -> None:
    """Copies are recognised; other pictures are not, and neither are those that differ in one small thing."""
    counts = shares(judged(QUICK))
    copied, different = sums(counts[COPY], REENCODED), sums(counts[DIFFERENT])
    meaning, changed = sums(counts[MEANING]), sums(counts[CHANGED])
    assert copied["strict_in_detail"] >= 0.95 * copied["pairs"]
    assert copied["normal_in_detail"] >= 0.98 * copied["pairs"]
    assert different["normal"] == 0
    assert changed["normal_in_detail"] == 0
    # The thumbnails take some of them for one picture, so the pixels decide.
    assert meaning["strict"] > 0
    assert meaning["normal_in_detail"] == 0
    assert meaning["reused"] == 0
    assert sums(counts[SMALL])["reused"] == 0
