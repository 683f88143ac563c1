"""Decoding: what is refused, by which reason, and what the bitmap looks like."""

import zlib
from struct import pack

import numpy as np
import pytest
from PIL import Image

from tests import pictures
from vision_assets.core.errors import InputRejected
from vision_assets.core.pictures import decode_upright, probe

FORMATS = (
    ("JPEG", "jpeg", "jpg"),
    ("PNG", "png", "png"),
    ("WEBP", "webp", "webp"),
    ("GIF", "gif", "gif"),
    ("BMP", "bmp", "bmp"),
    ("TIFF", "tiff", "tiff"),
    ("AVIF", "avif", "avif"),
)


@pytest.mark.parametrize(("pillow_name", "name", "ext"), FORMATS)
def test_every_allowed_format_is_known_by_its_content(pillow_name: str, name: str, ext: str) -> None:
    """Format, MIME type, extension and size come from the bytes, and the bitmap is RGB."""
    content = pictures.encoded(pictures.photo(64, 48), pillow_name)
    header = probe(content)
    assert (header.format, header.mime, header.ext) == (name, f"image/{name}", ext)
    assert (header.width, header.height, header.frames) == (64, 48, 1)
    bitmap = decode_upright(content)
    assert (bitmap.mode, bitmap.size) == ("RGB", (64, 48))


@pytest.mark.parametrize(("pillow_name", "name", "ext"), FORMATS)
def test_half_a_file_is_rejected(pillow_name: str, name: str, ext: str) -> None:
    """A picture that is cut off never comes through with a grey rest."""
    content = pictures.encoded(pictures.photo(320, 240), pillow_name)
    with pytest.raises(InputRejected) as caught:
        decode_upright(content[: len(content) // 2])
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"", "empty", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_a_picture", "HTML"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not_a_picture", "SVG"),
        (b"%PDF-1.7\n...", "not_a_picture", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not_a_picture", "PostScript"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "not_a_picture", "video"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format", "convert it to JPEG"),
        (b"just a note", "not_a_picture", "text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(17), "decode_failed", "damaged"),
    ],
)
def test_what_is_no_picture_is_named(content: bytes, reason: str, words: str) -> None:
    """The reason is a code, and the text says what the file looks like."""
    with pytest.raises(InputRejected, match=words) as caught:
        probe(content)
    assert caught.value.reason == reason


def test_bombs_are_refused_by_header() -> None:
    """The limit is asked before any pixel is decoded, and it is lower for hungry decoders."""
    large = pictures.encoded(Image.new("1", (10_000, 9_000)), "PNG")
    progressive = pictures.encoded(Image.new("L", (5_200, 5_000)), "JPEG", progressive=True)
    for content in (large, progressive):
        with pytest.raises(InputRejected) as caught:
            decode_upright(content)
        assert caught.value.reason == "too_many_pixels"
    assert probe(pictures.encoded(Image.new("L", (5_200, 5_000)), "JPEG")).width == 5_200


def test_a_compressed_text_bomb_is_refused() -> None:
    """A PNG whose text chunk inflates without end is damaged, not read."""
    content = pictures.encoded(pictures.blank(8, 8), "PNG")
    body = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    chunk = pack(">I", len(body) - 4) + body + pack(">I", zlib.crc32(body))
    with pytest.raises(InputRejected) as caught:
        decode_upright(content[:33] + chunk + content[33:])
    assert caught.value.reason == "decode_failed"


@pytest.mark.parametrize("pillow_name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(pillow_name: str, orientation: int) -> None:
    """The red corner that the camera saw at the top left stays there, whatever way the pixels lie."""
    upright = pictures.blank(64, 32)
    upright.paste("red", (0, 0, 24, 12))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = pictures.encoded(stored, pillow_name, exif=exif)
    header, bitmap = probe(content), decode_upright(content)
    assert (header.width, header.height) == bitmap.size == (64, 32)
    red, green, _ = np.asarray(bitmap).astype(int)[6, 8]
    assert red > 180
    assert green < 80
    assert np.asarray(bitmap)[26, 56].min() > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_broken_exif_does_not_lose_the_picture() -> None:
    """Pillow warns of it and goes on, and so do we."""
    content = pictures.encoded(pictures.blank(32, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff broken")
    assert decode_upright(content).size == (32, 16)


def test_pixel_layouts_come_out_as_people_see_them() -> None:
    """Alpha lies on white, 16-bit grey is scaled instead of clipped, CMYK is converted."""
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode_upright(pictures.encoded(clear, "PNG")).getpixel((4, 4)) == (255, 255, 255)
    deep = Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16))
    assert decode_upright(pictures.encoded(deep, "PNG")).getpixel((4, 4)) == (100, 100, 100)
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = np.asarray(decode_upright(pictures.encoded(inks, "JPEG"))).astype(int)[4, 4]
    assert red > 200
    assert max(green, blue) < 60


def test_an_animation_gives_its_first_frame() -> None:
    """The header counts the frames; the bitmap is the first."""
    frames = [pictures.blank(16, 16, colour) for colour in ("red", "green", "blue")]
    content = pictures.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert probe(content).frames == 3
    assert decode_upright(content).getpixel((8, 8)) == (255, 0, 0)


@pytest.mark.parametrize(("max_edge", "expected"), [(None, 1600), (1600, 1600), (801, 1600), (800, 800), (300, 400)])
def test_a_large_jpeg_is_reduced_but_never_below_the_edge_asked_for(max_edge: int | None, expected: int) -> None:
    """Only halves, quarters and eighths are to be had, and too small would be useless."""
    content = pictures.encoded(pictures.photo(1600, 1200), "JPEG")
    assert max(decode_upright(content, max_edge=max_edge).size) == expected
