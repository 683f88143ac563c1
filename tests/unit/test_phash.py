"""Perceptual hashes: quality, and which must never be matched. Their bits stand in test_golden_hashes.py."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import pictures
from vision_assets.core.errors import InputRejected
from vision_assets.core.media import examine, examine_hash
from vision_assets.core.phash import PerceptualHash, perceptual_hash

PHOTO = Path(__file__).parents[2] / "examples" / "city_walks" / "photos" / "photo_1@20-10-2026_12-00-00.jpg"


def with_noise(picture: Image.Image) -> Image.Image:
    """The picture with each pixel of its 32×32 form off by about one level."""
    small = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)).astype(float)
    noise = np.random.default_rng(7).normal(0, 1, small.shape)
    return Image.fromarray(np.clip(np.rint(small + noise), 0, 255).astype(np.uint8))


def turned_bits(picture: Image.Image) -> int:
    """Of 64, how many a level of noise turns."""
    return (perceptual_hash(picture).phash ^ perceptual_hash(with_noise(picture)).phash).bit_count()


@pytest.mark.parametrize("colour", ["white", "black", "#777777"])
def test_blank_is_degenerate(colour: str) -> None:
    """The bits of a blank picture are rounding noise, so it is flagged and never matched."""
    hashed = perceptual_hash(Image.new("RGB", (400, 300), colour))
    assert hashed.flags == ("degenerate",)
    assert hashed.quality < 0.1


def test_symmetric_is_degenerate() -> None:
    """Half of the frequencies of a picture and its mirror image side by side are nothing."""
    half = pictures.photo(320, 480)
    picture = Image.new("RGB", (640, 480))
    picture.paste(half, (0, 0))
    picture.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (320, 0))
    assert perceptual_hash(picture).flags == ("degenerate",)


@pytest.mark.parametrize(("levels", "flags"), [(8, ("degenerate",)), (40, ())])
def test_nearly_blank_is_degenerate(levels: int, flags: tuple[str, ...]) -> None:
    """A contrast under 16 levels is less than what two pictures may differ by and be called the same."""
    grey = np.asarray(pictures.photo(640, 480).convert("L")).astype(int)
    faint = 200 + (grey - grey.min()) * levels // (int(grey.max()) - int(grey.min()))
    assert perceptual_hash(Image.fromarray(faint.astype(np.uint8))).flags == flags


def test_quality_tells_how_many_bits_stay() -> None:
    """A photo keeps its bits under noise, and a faint one loses many: the share that stays is about the quality."""
    photo = pictures.photo(640, 480)
    grey = np.asarray(photo.convert("L")).astype(int)
    faint = Image.fromarray((240 + grey // 40).astype(np.uint8))
    assert perceptual_hash(photo).quality > 0.9
    assert turned_bits(photo) <= 4
    assert perceptual_hash(faint).quality < 0.5
    assert turned_bits(faint) >= 6


def test_known_flags_are_kept() -> None:
    """What the decoder knows (an animation) stands beside what the hash finds."""
    with Image.open(PHOTO) as photo:
        assert perceptual_hash(photo, flags=("animated",)).flags == ("animated",)


def hashed(content: bytes) -> PerceptualHash:
    """Hash it on both ways."""
    alone = examine_hash(content)
    assert examine(content)[1] == alone
    return alone


def test_a_damaged_jpeg_is_hashed_and_never_matched() -> None:
    """Decoders guess what stood there and say nothing; the picture is stored, and its hash flagged."""
    content = bytearray(PHOTO.read_bytes())
    assert hashed(bytes(content)).flags == ()
    places = random.Random(1)
    for _ in range(40):
        content[places.randrange(len(content) // 2, len(content) - 2)] ^= 0xFF
    assert hashed(bytes(content)).flags == ("damaged",)


def test_a_jpeg_that_is_cut_off_is_rejected() -> None:
    """It has no hash, whichever way it comes."""
    content = PHOTO.read_bytes()
    for examined in (examine, examine_hash):
        with pytest.raises(InputRejected) as caught:
            examined(content[: len(content) // 2])
        assert caught.value.reason == "truncated"


def test_limits_hold_where_only_brightness_is_decoded() -> None:
    """A progressive JPEG of more than 25 megapixels is refused by its header."""
    content = pictures.encoded(Image.new("L", (5_200, 5_000)), "JPEG", progressive=True)
    with pytest.raises(InputRejected) as caught:
        examine_hash(content)
    assert caught.value.reason == "too_many_pixels"


def test_an_animation_is_never_matched() -> None:
    """Its first frame is often blank, and never the whole of it."""
    frames = [pictures.photo(64, 48, seed=seed) for seed in (1, 2)]
    assert hashed(pictures.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).flags == ("animated",)
