"""Perceptual hashes against imagehash, the field's reference."""

from contextlib import suppress
from pathlib import Path

import imagehash
import pytest
from PIL import Image

from vision_assets.core.phash import perceptual_hash

PHOTOS = sorted((Path(__file__).parents[2] / "examples").glob("*/photos/*.jpg"))


def readable() -> list[Image.Image]:
    """All example photos that decode, as RGB."""
    pictures = []
    for path in PHOTOS:
        with Image.open(path) as picture, suppress(OSError):  # the examples hold a broken file on purpose
            pictures.append(picture.convert("RGB"))
    return pictures


def test_equals_imagehash() -> None:
    """Both hashes are bit for bit what imagehash computes, on every real photo of the examples."""
    pictures = readable()
    assert len(pictures) >= 25
    for picture in pictures:
        hashed = perceptual_hash(picture)
        assert f"{hashed.phash:016x}" == str(imagehash.phash(picture))
        assert hashed.phash256.hex() == str(imagehash.phash(picture, hash_size=16))
        assert hashed.flags == ()


@pytest.mark.parametrize("colour", ["white", "black", "#777777"])
def test_blank_is_degenerate(colour: str) -> None:
    """The bits of a blank picture are rounding noise, so it is flagged and never matched."""
    assert "degenerate" in perceptual_hash(Image.new("RGB", (400, 300), colour)).flags


def test_known_flags_are_kept() -> None:
    """What the decoder knows (an animation) stands beside what the hash finds."""
    assert perceptual_hash(readable()[0], flags=("animated",)).flags == ("animated",)
