"""Files that are built or found to take a step down, each with the reason for which it must be refused.

A file without a reason is one that must be taken, within the same bounds: the largest of each kind, and what only looks
bad. Built when asked for. What is not here: pictures that are merely odd (`odd.py`).
"""

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from tests.fuzz.seeds import runs_bmp
from tests.safety import encoding
from tests.safety.encoding import chunk, encoded, gif, grey_tiff, png, segment, tiff_pages, with_scans, with_segments

FINDINGS = Path(__file__).parent / "findings"
"""Small files that are not built here, named by reason: fuzzing found them, or building them takes gigabytes.

`sizes_that_lie.avif` says 5000×5000 and holds 16384×16384 twice, colour and alpha: it took 1.75 GB.
"""

_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


@dataclass(frozen=True, slots=True)
class Hostile:
    """One file.

    Attributes:
        name: Short and unique.
        build: Gives its bytes, at most 15 MiB.
        reason: Of its refusal; None when it must be taken.
    """

    name: str
    build: Callable[[], bytes]
    reason: str | None


def all_hostile() -> list[Hostile]:
    """List every case; nothing is built yet."""
    return [*_pngs(), *_jpegs(), *_gifs(), *_tiffs(), *_others(), *_findings()]


def _pngs() -> list[Hostile]:
    inflating = zlib.compress(bytes(1_000_000), 9)
    endless = chunk(b"acTL", struct.pack(">II", 2**31, 0))
    return [
        Hostile("png_900_megapixels", partial(png, 30_000, 30_000, depth=1), "too_many_pixels"),
        Hostile("png_size_of_2_31", partial(png, 2**31 - 1, 2**31 - 1, pixels=b""), "too_many_pixels"),
        Hostile("png_size_of_0", partial(png, 0, 0), "decode_failed"),
        Hostile("png_one_row", partial(png, 40_000_000, 1), "too_many_pixels"),
        Hostile("png_row_over_the_limit", partial(png, 100_001, 1), "too_many_pixels"),
        Hostile("png_one_column", partial(png, 1, 40_000_000), "too_many_pixels"),
        Hostile("png_largest", partial(png, 8_000, 5_000, colour=6), None),
        Hostile("png_largest_grey16", partial(png, 8_000, 5_000, depth=16), None),
        Hostile("png_longest", partial(png, 100_000, 400, depth=1), None),
        Hostile("png_pixels_without_end", partial(png, pixels=encoding.zeros(2**28)), None),
        Hostile("png_ztxt", partial(png, before=chunk(b"zTXt", b"a\0\0" + encoding.zeros(2**26))), "decode_failed"),
        Hostile("png_iccp", partial(png, before=chunk(b"iCCP", b"a\0\0" + encoding.zeros(2**26))), "decode_failed"),
        Hostile("png_icc_garbage", partial(png, before=chunk(b"iCCP", b"a\0\0" + zlib.compress(b"no profile"))), None),
        Hostile("png_iccps", partial(png, before=chunk(b"iCCP", b"a\0\0" + inflating) * 13_000), "too_many_parts"),
        Hostile("png_texts", partial(png, after=chunk(b"tEXt", b"a\0b") * 900_000), "too_many_parts"),
        Hostile("png_empty_chunks", partial(png, before=chunk(b"IDAT") * 1_200_000), "too_many_parts"),
        Hostile("apng_of_2_31_frames", partial(png, before=endless), "too_many_parts"),
        Hostile("apng_invalid", partial(png, before=endless * 3), "too_many_parts"),
        Hostile("apng_of_no_frames", partial(png, before=chunk(b"acTL", bytes(8))), None),
        Hostile("png_exif_prefixes", partial(png, before=chunk(b"eXIf", b"Exif\0\0" * 2_300_000)), None),
        Hostile("png_exif_loop", partial(png, before=chunk(b"eXIf", encoding.exif_loop()[6:])), None),
    ]


def _jpegs() -> list[Hostile]:
    small = encoded(Image.new("RGB", (64, 64), "teal"), "JPEG")
    profile = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000))
    eps = segment(0xED, b"Photoshop 3.0\x008BIM" + b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n")
    hidden = segment(0xFE, b"\xff\xd9")
    return [
        Hostile("jpeg_scans", partial(_progressive, 5_000, scans=20_000), "too_many_parts"),
        Hostile(
            "jpeg_scans_behind_a_false_end",
            partial(_progressive, 5_000, scans=20_000, between=hidden),
            "too_many_parts",
        ),
        Hostile("jpeg_progressive_largest", partial(_progressive, 5_000, scans=50), None),
        Hostile("jpeg_progressive_larger", partial(_progressive, 5_001, scans=0), "too_many_pixels"),
        Hostile("jpeg_two_scans_of_30_megapixels", _two_scans, "too_many_pixels"),
        Hostile("jpeg_largest", lambda: encoded(Image.new("RGB", (16_000, 5_000)), "JPEG"), None),
        Hostile("jpeg_largest_cmyk", lambda: encoded(Image.new("CMYK", (16_000, 5_000)), "JPEG"), None),
        Hostile("jpeg_longest", lambda: encoded(Image.new("L", (65_500, 16)), "JPEG"), None),
        Hostile("jpeg_claims_65500", lambda: encoding.with_size(small, 65_500, 65_500), "too_many_pixels"),
        Hostile("jpeg_claims_8000", lambda: encoding.with_size(small, 8_000, 8_000), None),
        Hostile("jpeg_filling", lambda: with_segments(small, b"\xff" * 14_000_000), "too_many_parts"),
        Hostile("jpeg_comments", lambda: with_segments(small, segment(0xFE) * 3_500_000), "too_many_parts"),
        Hostile("jpeg_exifs", lambda: with_segments(small, segment(0xE1) * 3_500_000), "too_many_parts"),
        Hostile("jpeg_tables", lambda: with_segments(small, segment(0xC4, b"\0") * 2_800_000), "too_many_parts"),
        Hostile("jpeg_exif_loop", lambda: with_segments(small, segment(0xE1, encoding.exif_loop())), None),
        Hostile("jpeg_exif_garbage", lambda: with_segments(small, segment(0xE1, b"Exif\0\0MM\0*\0\0\xff\xff")), None),
        Hostile("jpeg_large_profile", lambda: with_segments(small, profile * 200), None),
        Hostile("jpeg_with_eps_inside", lambda: with_segments(small, eps), None),
        # A phone's picture with a film behind it: what looks like scans there is none.
        Hostile("jpeg_with_a_film", lambda: small + random.Random(5).randbytes(12_000_000), None),
    ]


def _progressive(edge: int, *, scans: int, between: bytes = b"") -> bytes:
    return with_scans(encoded(Image.new("L", (edge, edge), 128), "JPEG", progressive=True), scans, between=between)


def _two_scans() -> bytes:
    return with_scans(encoded(Image.new("L", (6_000, 5_000), 128), "JPEG"), 1)


def _gifs() -> list[Hostile]:
    return [
        Hostile("gif_frames", partial(gif, frames=600_000), "too_many_parts"),
        Hostile("gif_blocks", partial(gif, block=b"\1\x44" * 7_000_000), "too_many_parts"),
        Hostile("gif_extensions", partial(gif, before=b"!\xfe\0" * 4_000_000), "too_many_parts"),
        Hostile("gif_comment", partial(gif, before=b"!\xfe" + b"\1a" * 7_000_000 + b"\0"), "too_many_parts"),
        Hostile("gif_garbage", partial(gif, before=bytes(14_000_000)), "too_many_parts"),
        Hostile("gif_frame_far_away", partial(gif, offset=65_535), "too_many_pixels"),
        Hostile("gif_many_frames", partial(gif, frames=5_000), None),
        Hostile("gif_largest", lambda: encoded(Image.new("P", (8_000, 5_000)), "GIF", transparency=0), None),
    ]


def _tiffs() -> list[Hostile]:
    grey = encoding.zeros(64)
    edge = 30_000
    one_page = grey_tiff(8, 8, grey)
    return [
        Hostile("tiff_pages", lambda: _pages(one_page, 400_000), "too_many_parts"),
        Hostile("tiff_page_that_follows_itself", lambda: _followed_by(one_page, 8), None),
        Hostile("tiff_tags", lambda: _page_of_tags(one_page), "too_many_parts"),
        Hostile(
            "tiff_raw_strips",
            lambda: grey_tiff(1, 60_000, b"", t259=(3, [1]), t273=(4, [8] * 3_600_000), t278=(4, [1]), t279=(4, [1])),
            "too_many_parts",
        ),
        Hostile(
            "tiff_strips",
            lambda: grey_tiff(1, 60_000, grey, t273=(4, [8] * 1_800_000), t278=(4, [1]), t279=(4, [8] * 1_800_000)),
            "too_many_parts",
        ),
        Hostile(
            "tiff_most_strips",
            lambda: grey_tiff(1, 60_000, b"", t259=(3, [1]), t273=(4, [8] * 60_000), t278=(4, [1]), t279=(4, [1])),
            None,
        ),
        Hostile(
            "tiff_tile",
            lambda: tiff_tile(edge, encoding.zeros(edge * edge)),
            "too_many_pixels",
        ),
        Hostile(
            "tiff_strip_beyond_the_picture", lambda: grey_tiff(8, 8, encoding.zeros(2**28), t278=(4, [60_000])), None
        ),
        Hostile("tiff_claims_65535", lambda: grey_tiff(65_535, 65_535, grey), "too_many_pixels"),
        Hostile("tiff_claims_2_32", lambda: grey_tiff(2**32 - 1, 2**32 - 1, grey), "too_many_pixels"),
        Hostile("tiff_claims_6000", lambda: grey_tiff(6_000, 6_000, grey), "decode_failed"),
        Hostile("tiff_floats", lambda: encoded(Image.new("F", (16, 16)), "TIFF"), "unsupported_format"),
        Hostile(
            "tiff_largest",
            lambda: encoded(Image.new("I;16", (8_000, 5_000)), "TIFF", compression="tiff_adobe_deflate"),
            None,
        ),
    ]


def tiff_tile(edge: int, data: bytes) -> bytes:
    """Write a TIFF of 16×16 pixels in one tile of this edge."""
    size: dict[int, tuple[int, list[int]]] = {256: (4, [16]), 257: (4, [16]), 322: (4, [edge]), 323: (4, [edge])}
    kind: dict[int, tuple[int, list[int]]] = {258: (3, [8]), 259: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    return encoding.tiff(size | kind | {324: (4, [-1]), 325: (4, [len(data)])}, data)


def _followed_by(first: bytes, following: int) -> bytes:
    """Have a TIFF of nine tags say where its next page is."""
    after = 8 + 2 + 12 * 9
    return first[:after] + struct.pack("<I", following) + first[after + 4 :]


def _pages(first: bytes, count: int) -> bytes:
    return _followed_by(first, len(first)) + tiff_pages(count, at=len(first))


def _page_of_tags(first: bytes) -> bytes:
    """Have a page follow with as many tags as a page can have."""
    tags = struct.pack("<HHIHH", 65_000, 3, 1, 7, 0) * 65_535
    return _followed_by(first, len(first)) + struct.pack("<H", 65_535) + tags + bytes(4)


def _others() -> list[Hostile]:
    moving = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    transparent = Image.new("RGBA", (5_000, 5_000), (9, 99, 200, 128))
    return [
        Hostile("bmp_of_runs", lambda: runs_bmp(4_000, 4_000, b"\0\0" * 4_000 + b"\0\1"), "unsupported_format"),
        Hostile("bmp_of_jumps", lambda: runs_bmp(8_000, 5_000, b"\0\2\xff\xff" * 3_000), "unsupported_format"),
        Hostile("bmp_claims", lambda: runs_bmp(2**31 - 1, 2**31 - 1, b""), "too_many_pixels"),
        Hostile("webp_frames", lambda: _webp_frames(moving, 150_000), "too_many_parts"),
        Hostile("webp_many_frames", lambda: _webp_frames(moving, 5_000), None),
        Hostile("webp_largest", lambda: encoded(transparent, "WEBP", lossless=True, method=0), None),
        Hostile(
            "webp_larger",
            lambda: encoded(Image.new("RGB", (5_001, 5_000)), "WEBP", lossless=True, method=0),
            "too_many_pixels",
        ),
        Hostile("avif_largest", lambda: encoded(transparent, "AVIF", speed=10), None),
        Hostile("empty", lambda: b"", "empty"),
        Hostile("eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_a_picture"),
        Hostile("eps_for_dos", lambda: b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS", "not_a_picture"),
        Hostile("svg", lambda: b'<?xml version="1.0"?>' + _SVG, "not_a_picture"),
        Hostile("noise", lambda: b"\0" + random.Random(6).randbytes(5_000), "not_a_picture"),
        Hostile("jpeg_2000", lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "unsupported_format"),
    ]


def _findings() -> list[Hostile]:
    return [
        Hostile(path.name.partition(".")[2], path.read_bytes, path.name.partition(".")[0])
        for path in sorted(FINDINGS.iterdir())
    ]


def _webp_frames(frames: list[Image.Image], count: int) -> bytes:
    webp = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=40)
    at = webp.index(b"ANMF")
    frame = webp[at : at + 8 + int.from_bytes(webp[at + 4 : at + 8], "little")]
    body = webp[8:at] + frame * count
    return b"RIFF" + struct.pack("<I", len(body)) + body
