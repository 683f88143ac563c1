"""Damaged files of every format: cut off anywhere, or with bytes flipped; and what fuzzing went through once."""

import random
from collections.abc import Iterator

import pytest

from tests.fuzz.seeds import seeds
from tests.pictures import photo
from tests.safety.bounded import verdicts
from tests.safety.encoding import encoded
from vision_assets.core.media import examine

SEEDS = seeds()
LARGER = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FLIPPED_BYTES = 40


@pytest.mark.parametrize("name", SEEDS)
def test_a_tiny_file_may_be_damaged_in_any_way(name: str) -> None:
    """Cut off at every fifth byte, and with bytes flipped in thirty ways: a result or a clean refusal."""
    content = SEEDS[name]
    damaged = [content[:end] for end in range(0, len(content), max(5, len(content) // 60))]
    _all_within_bounds([*damaged, *_flipped(content, times=30, count=3)])


@pytest.mark.parametrize("picture_format", LARGER)
def test_a_larger_file_may_be_damaged_in_any_way(picture_format: str) -> None:
    """Cut off at forty places, and with forty bytes flipped in ten ways: a result or a clean refusal."""
    content = encoded(photo(320, 240), picture_format)
    damaged = [content[: len(content) * part // 40] for part in range(40)]
    _all_within_bounds([*damaged, *_flipped(content, times=10, count=FLIPPED_BYTES)])


def _flipped(content: bytes, *, times: int, count: int) -> Iterator[bytes]:
    chance = random.Random(40)
    for _ in range(times):
        changed = bytearray(content)
        for at in chance.sample(range(len(content)), count):
            changed[at] ^= 0xFF
        yield bytes(changed)


def _all_within_bounds(damaged: list[bytes]) -> None:
    found = verdicts(damaged, examine)
    assert len(found) == len(damaged)
    for content, verdict in zip(damaged, found, strict=True):
        assert verdict.is_within_bounds, (content[:200].hex(), verdict)
    assert {verdict.reason for verdict in found} & {"truncated", "decode_failed", "empty"}
