"""How many parts a picture's file is made of: counted before a decoder walks them, and refused when it would take long.

A decoder's work grows with a file's scans, segments, chunks, strips and pages, not only with its pixels: 15 MiB can
name millions of them. What is not here: limits on pixels, and what the parts mean to a decoder (`pictures.py`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vision_assets.core.errors import InputRejected

# Each scan goes over the whole picture; encoders that search for the best script write about 20.
_MAX_JPEG_SCANS = 64
# A colour profile takes up to 255 of them, XMP of 15 MiB as many again.
_MAX_JPEG_SEGMENTS = 1_000
_MAX_PNG_DATA_CHUNKS = 20_000
# Pillow inflates each of them, up to 1 MiB.
_MAX_PNG_OTHER_CHUNKS = 256
# 255 bytes are in a full block: 62,000 make 15 MiB.
_MAX_GIF_BLOCKS = 200_000
_MAX_TIFF_PAGES = 1_000
# Of all pages together.
_MAX_TIFF_TAGS = 50_000
# Strips of one row, three planes of them; Pillow makes a Python object of each value.
_MAX_TIFF_VALUES = 200_000
# libtiff takes memory for a whole tile, however small the picture is.
_MAX_TIFF_TILE_PIXELS = 2**24

# The next marker among entropy-coded bytes: 0xff00 is a byte of them, 0xffd0 to 0xffd7 restart within a scan.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_EOI, _JPEG_SOS = 0xD9, 0xDA

_EXIF_PREFIX = b"Exif\0\0"
_TIFF_ORIENTATION = 274
_TIFF_TILE_EDGES = (322, 323)
_TIFF_STRIPS_AND_TILES = (273, 279, 324, 325)
_TIFF_SHORT, _TIFF_LONG = 3, 4
_Order = Literal["little", "big"]
# Byte, text, opaque: one string to Pillow, however long.
_TIFF_STRINGS = (1, 2, 7)


@dataclass(frozen=True, slots=True)
class _TiffTag:
    number: int
    type: int
    count: int
    value: bytes


def check_parts(content: bytes, picture_format: str) -> None:
    """Walk the file from part to part, never into one. Where it is broken the walk ends, and the decoder says so.

    Raises:
        InputRejected: `too_many_parts`.
    """
    match picture_format:
        case "jpeg":
            scans = 0
            for segments, marker in enumerate(_jpeg_markers(content), start=1):
                scans += marker == _JPEG_SOS
                _check(segments, _MAX_JPEG_SEGMENTS, "segments")
                _check(scans, _MAX_JPEG_SCANS, "scans")
        case "png":
            pixels = others = 0
            for kind in _png_chunks(content):
                if kind in (b"IDAT", b"fdAT", b"fcTL"):
                    pixels += 1
                else:
                    others += 1
                _check(pixels, _MAX_PNG_DATA_CHUNKS, "chunks of pixels")
                _check(others, _MAX_PNG_OTHER_CHUNKS, "chunks beside the pixels")
        case "gif":
            for blocks, _ in enumerate(_gif_blocks(content), start=1):
                _check(blocks, _MAX_GIF_BLOCKS, "blocks")
        case "tiff":
            _check_tiff(content)


def has_several_scans(jpeg: bytes) -> bool:
    """Tell whether a decoder has to hold all coefficients of the picture until the last scan."""
    scans = (marker for marker in _jpeg_markers(jpeg) if marker == _JPEG_SOS)
    return next(scans, None) is not None and next(scans, None) is not None


def exif_orientation(exif: bytes) -> int:
    """Find the orientation, 1 to 8, in an EXIF block; 1 where there is none that can be read."""
    at = 0
    while exif.startswith(_EXIF_PREFIX, at):
        at += len(_EXIF_PREFIX)
    block = exif[at:]
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order = _tiff_order(block)
    for tag in _tiff_tags(block, int.from_bytes(block[4:8], order)):
        if tag.number == _TIFF_ORIENTATION and tag.type in (_TIFF_SHORT, _TIFF_LONG) and tag.count == 1:
            orientation = _tiff_number(tag, order)
            return orientation if 1 <= orientation <= 8 else 1
    return 1


def _check(count: int, limit: int, what: str) -> None:
    if count > limit:
        message = f"the picture is made of more than {limit:,} {what}; open it in an editor and save it again"
        raise InputRejected("too_many_parts", message)


def _jpeg_markers(content: bytes) -> Iterator[int]:
    """List the markers up to the end of the picture; previews inside of segments and what follows it do not count."""
    at, in_scans = 2, False
    while at + 4 <= len(content):
        if in_scans:
            found = _JPEG_MARKER.search(content, at)
            if not found:
                return
            at = found.start()
        elif content[at] != 0xFF or content[at + 1] in (0x00, 0xFF):
            # Before the first scan Pillow looks at every byte between segments by itself: each counts.
            yield 0
            at += 1
            continue
        marker = content[at + 1]
        if marker == _JPEG_EOI and in_scans:
            return
        yield marker
        in_scans = in_scans or marker == _JPEG_SOS
        at += 2
        if marker >= 0xC0 and not 0xD0 <= marker <= _JPEG_EOI:
            at += max(2, int.from_bytes(content[at : at + 2], "big"))


def _png_chunks(content: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(content):
        kind = content[at + 4 : at + 8]
        yield kind
        if kind == b"IEND":
            return
        at += 12 + int.from_bytes(content[at : at + 4], "big")


def _gif_blocks(content: bytes) -> Iterator[None]:
    """List blocks, sub-blocks and stray bytes between them, which Pillow passes over one by one."""
    at = 13 + _gif_palette_bytes(content, 10)
    while at < len(content) and content[at] != ord(";"):
        yield
        introducer = content[at : at + 1]
        at += 1
        if introducer == b",":
            at += 10 + _gif_palette_bytes(content, at + 8)
        elif introducer == b"!":
            at += 1
        else:
            continue
        while at < len(content) and content[at]:
            yield
            at += 1 + content[at]
        at += 1


def _gif_palette_bytes(content: bytes, flags_at: int) -> int:
    flags = int.from_bytes(content[flags_at : flags_at + 1], "big")
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_tiff(content: bytes) -> None:
    order = _tiff_order(content)
    at, pages, tags = int.from_bytes(content[4:8], order), set[int](), 0
    while at and at not in pages:
        pages.add(at)
        _check(len(pages), _MAX_TIFF_PAGES, "pages")
        count = int.from_bytes(content[at : at + 2], order)
        tags += count
        _check(tags, _MAX_TIFF_TAGS, "tags")
        if len(pages) == 1:
            _check_tiff_page(list(_tiff_tags(content, at)), order)
        after = at + 2 + 12 * count
        at = int.from_bytes(content[after : after + 4], order)


def _check_tiff_page(tags: list[_TiffTag], order: _Order) -> None:
    edges = [1, 1]
    for tag in tags:
        if tag.type not in _TIFF_STRINGS or tag.number in _TIFF_STRIPS_AND_TILES:
            _check(tag.count, _MAX_TIFF_VALUES, "strips, tiles or values of a tag")
        if tag.number in _TIFF_TILE_EDGES:
            if tag.count != 1 or tag.type not in (_TIFF_SHORT, _TIFF_LONG):
                raise InputRejected("decode_failed", "the tiff picture does not say how large its tiles are")
            edges.append(_tiff_number(tag, order))
    # A tag may be there twice, and readers differ on which one they take: the two largest count.
    edges.sort()
    if edges[-1] * edges[-2] > _MAX_TIFF_TILE_PIXELS:
        message = f"a tile of it is {edges[-2]}×{edges[-1]} pixels; the limit is 4096×4096; save it without tiles"
        raise InputRejected("too_many_pixels", message)


def _tiff_order(content: bytes) -> _Order:
    return "little" if content[:2] == b"II" else "big"


def _tiff_number(tag: _TiffTag, order: _Order) -> int:
    return int.from_bytes(tag.value[: 2 if tag.type == _TIFF_SHORT else 4], order)


def _tiff_tags(content: bytes, at: int) -> Iterator[_TiffTag]:
    order = _tiff_order(content)
    end = at + 2 + 12 * int.from_bytes(content[at : at + 2], order)
    for start in range(at + 2, min(end, len(content) - 11), 12):
        yield _TiffTag(
            number=int.from_bytes(content[start : start + 2], order),
            type=int.from_bytes(content[start + 2 : start + 4], order),
            count=int.from_bytes(content[start + 4 : start + 8], order),
            value=content[start + 8 : start + 12],
        )
