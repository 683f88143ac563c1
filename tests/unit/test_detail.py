"""Whether the pixels of two pictures that look alike agree."""

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from tests.pictures import encoded
from vision_assets.core.detail import compare_detail, compare_files
from vision_assets.core.errors import InputRejected
from vision_assets.core.neighbours import COMPARED_EDGE, Fingerprint, keeps_text, same_picture
from vision_assets.core.phash import perceptual_hash
from vision_assets.core.pictures import decode_upright

PHOTO = Path(__file__).parents[2] / "examples" / "city_walks" / "photos" / "photo_1@20-10-2026_12-00-00.jpg"
RED, GREEN_AS_BRIGHT = (214, 48, 49), (0, 158, 30)


def page(*, word: str = "signed", lamp: tuple[int, int, int] = RED, has_tick: bool = True) -> Image.Image:
    """A page of text with a lamp and a box."""
    image = Image.new("RGB", (720, 900), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=20)
    for line in range(20):
        text = f"Item {'abcdefghijklmnopqrst'[line]}: the paper is {word if line == 11 else 'closed'} by the two sides"
        draw.text((40, 40 + 36 * line), text, (40, 44, 52), font)
    draw.ellipse((600, 780, 620, 800), fill=lamp)
    draw.rectangle((600, 820, 620, 840), outline="black", width=2)
    if has_tick:
        draw.line((604, 830, 609, 836, 617, 824), fill="black", width=2)
    return image


def sent(image: Image.Image, *, quality: int, scale: float = 1.0) -> Image.Image:
    """The picture after it was scaled and compressed."""
    file = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return decode_upright(file.getvalue())


def is_near(left: Image.Image, right: Image.Image) -> bool:
    """Tell whether hashes and thumbnails take the two for one picture."""
    hashes = [(perceptual_hash(image), image.size) for image in (left, right)]
    return same_picture(*(Fingerprint(h.phash, h.phash256, h.thumbnail, *size) for h, size in hashes))


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("quality", [40, 87])
def test_copies_agree(quality: int, scale: float) -> None:
    """Compression and scaling alone part neither photographs nor pages, whichever of the two came first."""
    for original in (decode_upright(PHOTO.read_bytes()), page()):
        copy = sent(original, quality=quality, scale=scale)
        assert compare_detail(original, copy).agrees
        assert compare_detail(copy, original).agrees


@pytest.mark.parametrize("scale", [0.7, 1.0])
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(page(word="singed"), id="two letters"),
        pytest.param(page(word="sighed"), id="letter"),
        pytest.param(page(has_tick=False), id="tick"),
        pytest.param(page(lamp=GREEN_AS_BRIGHT), id="lamp of one luma"),
    ],
)
def test_one_small_thing_parts_pages(changed: Image.Image, scale: float) -> None:
    """A letter, a tick and a lamp's colour part two pages, also when one of them was sent on."""
    assert not compare_detail(page(), changed).agrees
    assert not compare_detail(sent(page(), quality=87), sent(changed, quality=75, scale=scale)).agrees


def test_thumbnails_do_not_show_it() -> None:
    """The pixels are asked because hashes and thumbnails take pages with lamps of two colours for one."""
    assert is_near(page(), page(lamp=GREEN_AS_BRIGHT))


def test_colour_and_brightness_as_a_whole_do_not_count() -> None:
    """A slight change of all brightness or colour is that of a copy; a grey copy is another picture."""
    photo = decode_upright(PHOTO.read_bytes())
    assert compare_detail(photo, ImageEnhance.Brightness(photo).enhance(1.03)).agrees
    assert compare_detail(photo, ImageEnhance.Color(photo).enhance(0.92)).agrees
    assert not compare_detail(photo, photo.convert("L").convert("RGB")).agrees


def test_files_are_compared_as_they_come() -> None:
    """Files of two formats and sizes agree if their pictures do; one that cannot be decoded is refused."""
    photo = PHOTO.read_bytes()
    assert compare_files(photo, encoded(decode_upright(photo).resize((640, 416)), "PNG")).agrees
    assert not compare_files(encoded(page(), "PNG"), encoded(page(has_tick=False), "PNG")).agrees
    with pytest.raises(InputRejected):
        compare_files(photo, photo[: len(photo) // 2])


@pytest.mark.parametrize(
    ("edge", "other", "is_kept"),
    [
        (2048, 2048, True),
        (2048, 922, True),
        (2048, 921, False),
        (2048, 320, False),
        (2844, 2844, True),
        (2845, 2845, False),
    ],
)
def test_text_is_kept_down_to_a_scale(edge: int, other: int, is_kept: bool) -> None:
    """What is written in a screen can be seen in a messenger's copy, not in a preview, nor if both are large."""
    screen = Fingerprint(0, bytes(32), bytes(4096), edge // 2, edge)
    copy = Fingerprint(0, bytes(32), bytes(4096), other // 2, other)
    assert keeps_text(screen, copy) is is_kept
    assert keeps_text(copy, screen) is is_kept


def test_what_is_white_on_a_clear_ground_is_seen() -> None:
    """Two stickers that are nothing but white letters on no ground are two pictures, however they are encoded."""

    def sticker(text: str, mode: str = "RGBA") -> bytes:
        image = Image.new("RGBA", (512, 512), (255, 255, 255, 0))
        draw = ImageDraw.Draw(image)
        draw.ellipse((40, 40, 200, 200), fill="navy")
        draw.text((60, 320), text, "white", ImageFont.load_default(size=60))
        return encoded(image.convert(mode), "PNG")

    assert compare_files(sticker("welcome"), sticker("welcome")).agrees
    assert not compare_files(sticker("welcome"), sticker("get lost")).agrees
    assert not compare_files(sticker("welcome", "LA"), sticker("get lost", "LA")).agrees


def test_larger_bitmaps_are_compared_at_the_edge() -> None:
    """Two bitmaps beyond the edge are scaled down to it, and tiny and blank ones are compared as they are."""
    large = page().resize((COMPARED_EDGE * 2, COMPARED_EDGE * 5 // 2))
    changed = page(lamp=GREEN_AS_BRIGHT).resize(large.size)
    assert compare_detail(large, sent(large, quality=60)).agrees
    assert not compare_detail(large, changed).agrees
    blank = Image.new("RGB", (3, 1), "white")
    assert compare_detail(blank, blank).agrees
    assert not compare_detail(
        Image.new("RGB", (20, 10)), Image.linear_gradient("L").resize((20, 10)).convert("RGB")
    ).agrees
