"""What goes to a provider: untouched where it may, else a JPEG within the limits."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests import pictures
from vision_assets.core.errors import InputRejected
from vision_assets.core.measurement import measure
from vision_assets.core.pictures import decode_upright, probe
from vision_assets.core.provider_pictures import FittedPicture, PictureLimits, fitted
from vision_assets.core.vision import Kind

LIMITS = PictureLimits(mimes=frozenset({"image/jpeg", "image/png"}), max_bytes=15 * 2**20, max_pixels=40_000_000)


def limits(**changed: Any) -> PictureLimits:
    """The limits of a provider that takes less."""
    return replace(LIMITS, **changed)


def opened(picture: FittedPicture) -> Image.Image:
    """Decode what would be sent, and hold it against what is said of it."""
    header = probe(picture.content)
    assert (header.mime, header.width, header.height) == (picture.mime, picture.width, picture.height)
    return decode_upright(picture.content)


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_what_the_provider_takes_goes_as_it_is(name: str) -> None:
    """Byte by byte where there is nothing to cut out, and measured."""
    content = pictures.encoded(pictures.photo(320, 240), name)
    found = fitted(content, limits=LIMITS)
    assert (found.content, found.transcoded) == (content, False)
    assert found.mime == f"image/{name.lower()}"
    assert found.measured.measurement == measure(decode_upright(content))
    opened(found)


@pytest.mark.parametrize("name", ["WEBP", "GIF", "AVIF", "TIFF", "BMP"])
def test_what_it_does_not_take_becomes_a_jpeg_of_the_same_size(name: str) -> None:
    """The picture looks the same, and is measured as it is stored."""
    content = pictures.encoded(pictures.photo(320, 240), name)
    found = fitted(content, limits=LIMITS)
    assert (found.transcoded, found.mime, found.width, found.height) == (True, "image/jpeg", 320, 240)
    assert found.measured.measurement == measure(decode_upright(content))
    difference = np.abs(np.asarray(opened(found), dtype=int) - np.asarray(decode_upright(content), dtype=int))
    assert difference.mean() < 8  # a GIF is dithered


SECRET = b"Nevsky prospekt 28"


def telling_exif(orientation: int) -> Image.Exif:
    """EXIF with a place, and the orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (59.0, 56.0, 8.0), 3: "E", 4: (30.0, 19.0, 33.0)})
    return exif


def telling(image: Image.Image, name: str) -> bytes:
    """Encode with everything that a file may tell beside its pixels, and something after its end."""
    options: dict[str, Any] = {"exif": telling_exif(1)}
    if name in ("JPEG", "WEBP"):
        options["xmp"] = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
    if name in ("JPEG", "GIF"):
        options["comment"] = SECRET
    if name == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("Location", SECRET.decode())
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", SECRET.decode())
    content = pictures.encoded(image, name, **options)
    if name == "JPEG":  # IPTC stands in a segment of Photoshop's
        block = b"Photoshop 3.0\0" + SECRET
        content = content[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]
    return content + (SECRET if name in ("JPEG", "PNG") else b"")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_nothing_is_told_beside_the_pixels(name: str) -> None:
    """No place, no comment, no hidden tail; where the provider takes the format its pixels stay as they are."""
    content = telling(pictures.photo(320, 240), name)
    assert SECRET in content
    found = fitted(content, limits=LIMITS)
    assert SECRET not in found.content
    assert b"Exif" not in found.content
    assert b"eXIf" not in found.content
    with Image.open(io.BytesIO(found.content)) as sent:
        sent.load()
        assert not sent.getexif()
    assert found.transcoded == (name not in ("JPEG", "PNG"))
    if not found.transcoded:
        assert np.array_equal(np.asarray(opened(found)), np.asarray(decode_upright(content)))
        assert len(found.content) < len(content)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (pictures.photo(64, 48), {"progressive": True, "icc_profile": b"profile" * 20_000}),
        (pictures.photo(64, 48).convert("CMYK"), {}),
        (pictures.photo(64, 48).convert("L"), {"restart_marker_blocks": 2}),
    ],
    ids=["progressive, with a long profile", "cmyk", "grey, with restarts"],
)
def test_every_kind_of_jpeg_keeps_its_pixels(image: Image.Image, options: dict[str, Any]) -> None:
    """Several scans, a colour profile in several segments, Adobe's colours, and restarts in a scan."""
    content = pictures.encoded(image, "JPEG", exif=telling_exif(1), **options)
    found = fitted(content, limits=LIMITS)
    assert not found.transcoded
    assert SECRET not in found.content
    assert np.array_equal(np.asarray(opened(found)), np.asarray(decode_upright(content)))
    with Image.open(io.BytesIO(found.content)) as sent:
        assert sent.info.get("icc_profile") == options.get("icc_profile")


def test_a_jpeg_turned_by_exif_is_sent_upright_and_without_its_place() -> None:
    """Whoever looks at it may not read EXIF, so its pixels are turned."""
    upright = pictures.blank(64, 32)
    upright.paste("red", (0, 0, 24, 12))
    content = pictures.encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=telling_exif(6))
    found = fitted(content, limits=LIMITS)
    assert (found.width, found.height, found.transcoded) == (64, 32, True)
    assert SECRET not in found.content
    with Image.open(io.BytesIO(found.content)) as sent:
        assert not sent.getexif()
        red, green, _ = np.asarray(sent).astype(int)[6, 8]
    assert red > 180
    assert green < 80


def test_a_jpeg_that_only_a_lenient_decoder_reads_is_encoded_anew() -> None:
    """Its parts cannot be told apart, so none of them is sent."""
    content = pictures.encoded(pictures.photo(64, 48), "JPEG", progressive=True)
    tables = content.index(b"\xff\xc4", content.index(b"\xff\xda")) + 2
    end = tables + int.from_bytes(content[tables : tables + 2], "big")
    content = content[:end] + SECRET + content[end:]
    found = fitted(content, limits=LIMITS)
    assert found.transcoded
    assert SECRET not in found.content


@pytest.mark.parametrize(
    ("image", "kind"),
    [(pictures.photo(320, 240), Kind.PHOTO), (pictures.screenshot(), Kind.SCREENSHOT), (pictures.blank(), Kind.OTHER)],
    ids=["photo", "screenshot", "blank"],
)
def test_the_kind_is_told_on_the_way(image: Image.Image, kind: Kind) -> None:
    """By the rules, without a word read: it chooses the question."""
    assert fitted(pictures.encoded(image, "PNG"), limits=LIMITS).measured.kind == kind


@pytest.mark.parametrize("name", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_goes(name: str) -> None:
    """Also where the provider takes the format: it might look at another frame than we do."""
    frames = [pictures.blank(64, 48, colour) for colour in ("red", "green", "blue")]
    content = pictures.encoded(frames[0], name, save_all=True, append_images=frames[1:])
    assert probe(content).frames == 3
    found = fitted(content, limits=LIMITS)
    red, green, blue = np.asarray(opened(found)).astype(int)[24, 32]
    assert red > 240
    assert max(green, blue) < 15
    assert found.transcoded


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_transcoded_picture_stands_upright(orientation: int) -> None:
    """The red corner is at the top left, and no orientation is left that would turn it again."""
    upright = pictures.blank(64, 32)
    upright.paste("red", (0, 0, 24, 12))
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = fitted(pictures.encoded(upright.transpose(undo[orientation]), "WEBP", exif=exif), limits=LIMITS)
    assert (found.width, found.height) == (64, 32)
    with Image.open(io.BytesIO(found.content)) as sent:
        assert sent.getexif().get(0x0112, 1) == 1
        red, green, _ = np.asarray(sent).astype(int)[6, 8]
    assert red > 180
    assert green < 80


def palette_with_transparency() -> Image.Image:
    """A palette whose first colour is clear."""
    image = pictures.blank(64, 48, "red").convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    return image


@pytest.mark.parametrize(
    ("image", "name", "colour"),
    [
        (Image.new("RGBA", (64, 48), (255, 0, 0, 0)), "WEBP", (255, 255, 255)),
        (palette_with_transparency(), "GIF", (255, 255, 255)),
        (palette_with_transparency(), "PNG", (255, 255, 255)),
        (Image.fromarray(np.full((48, 64), 257 * 100, dtype=np.uint16)), "PNG", (100, 100, 100)),
        (Image.new("CMYK", (64, 48), (0, 0, 0, 255)), "JPEG", (0, 0, 0)),
        (Image.new("CMYK", (64, 48), (0, 0, 0, 255)), "TIFF", (0, 0, 0)),
        (Image.new("1", (64, 48), 1), "BMP", (255, 255, 255)),
    ],
    ids=["alpha", "clear gif", "clear png", "16 bits", "cmyk jpeg", "cmyk tiff", "bilevel"],
)  # fmt: skip
def test_odd_pixel_layouts_become_plain_ones(image: Image.Image, name: str, colour: tuple[int, int, int]) -> None:
    """Clear parts are white, and every JPEG that is sent has three channels."""
    found = fitted(pictures.encoded(image, name), limits=limits(max_pixels=1000))
    assert found.transcoded
    with Image.open(io.BytesIO(found.content)) as sent:
        assert sent.mode == "RGB"
        assert np.abs(np.asarray(sent).astype(int)[10, 10] - colour).max() < 6


def test_a_file_over_15_mb_is_scaled_down_and_not_refused() -> None:
    """As a JPEG its size may do; else what is sent is near the limit, of the same shape, measured at its own size."""
    noise = np.random.default_rng(1).integers(0, 256, (2000, 2800, 3), dtype=np.uint8)
    content = pictures.encoded(Image.fromarray(noise), "PNG")
    assert len(content) > LIMITS.max_bytes
    found, smaller = fitted(content, limits=LIMITS), fitted(content, limits=limits(max_bytes=2 * 2**20))
    assert (found.width, found.height, found.transcoded) == (2800, 2000, True)
    assert len(found.content) <= LIMITS.max_bytes
    assert 2**20 < len(smaller.content) <= 2 * 2**20
    assert smaller.width < 2800
    assert smaller.width / smaller.height == pytest.approx(1.4, abs=0.01)
    assert (smaller.measured.measurement.width, smaller.measured.measurement.height) == (2800, 2000)


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (320, 1), (1, 320)])
@pytest.mark.parametrize("max_pixels", [1, 2, 250, 319, 76_799])
def test_pixels_stay_within_the_limit(size: tuple[int, int], max_pixels: int) -> None:
    """However small it is, and however long and thin the picture."""
    found = fitted(pictures.encoded(pictures.blank(*size), "PNG"), limits=limits(max_pixels=max_pixels))
    assert found.width * found.height <= max_pixels
    assert found.transcoded == (size[0] * size[1] > max_pixels)


def test_the_least_limit_of_bytes_can_be_met() -> None:
    """Noise, which no encoder makes small, still ends below it."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    found = fitted(pictures.encoded(Image.fromarray(noise), "PNG"), limits=limits(max_bytes=10_000))
    assert len(found.content) <= 10_000
    assert found.width == found.height > 32


def test_an_edge_that_a_jpeg_cannot_have_is_scaled_down() -> None:
    """A picture longer than 65,535 pixels is sent all the same."""
    found = fitted(pictures.encoded(pictures.blank(70_000, 8), "PNG"), limits=limits(mimes=frozenset({"image/jpeg"})))
    assert found.width == 65_500
    assert found.measured.measurement.width == 70_000


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_a_broken_picture_is_rejected_before_anybody_is_paid(name: str) -> None:
    """Its header alone would pass; its pixels end too soon."""
    content = pictures.encoded(pictures.photo(320, 240), name)
    with pytest.raises(InputRejected) as caught:
        fitted(content[: len(content) // 2], limits=LIMITS)
    assert caught.value.reason == "truncated"


def test_what_is_no_picture_is_rejected() -> None:
    """By the same reason as anywhere else."""
    with pytest.raises(InputRejected) as caught:
        fitted(b"%PDF-1.7\n...", limits=LIMITS)
    assert caught.value.reason == "not_a_picture"


@pytest.mark.parametrize(
    "changed", [{"mimes": frozenset({"image/png"})}, {"max_bytes": 9_999}, {"max_pixels": 0}], ids=str
)
def test_limits_that_nothing_could_meet_are_refused(changed: dict[str, Any]) -> None:
    """A provider without JPEG, or with room for nothing, is a mistake in the code."""
    with pytest.raises(ValueError, match="must"):
        limits(**changed)
