"""Writers of files that no encoder writes: containers by hand, with as many parts as asked for.

What is not here: which files are tried (`hostile.py`, `odd.py`).
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MEBIBYTE = 2**20


def encoded(image: Image.Image, picture_format: str, **options: Any) -> bytes:
    """Encode with Pillow; `options` go to its `save`."""
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def zeros(count: int) -> bytes:
    """Deflate zeros: about a thousandth of them remains."""
    deflate = zlib.compressobj()
    whole, rest = divmod(count, _MEBIBYTE)
    blocks = [deflate.compress(bytes(_MEBIBYTE)) for _ in range(whole)]
    return b"".join([*blocks, deflate.compress(bytes(rest)), deflate.flush()])


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """One chunk of a PNG with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int = 8,
    height: int = 8,
    *,
    depth: int = 8,
    colour: int = 0,
    before: bytes = b"",
    after: bytes = b"",
    pixels: bytes | None = None,
) -> bytes:
    """Write a PNG of zeros.

    Args:
        depth: Bits a sample.
        colour: PNG's colour type, 0 for grey to 6 for RGB with alpha.
        before: Chunks between the header and the pixels.
        after: Chunks between the pixels and the end.
        pixels: Deflated already, of whatever size.
    """
    if pixels is None:
        pixels = zeros((1 + (width * depth * _CHANNELS[colour] + 7) // 8) * height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND")


def segment(marker: int, body: bytes = b"") -> bytes:
    """One segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(jpeg: bytes, segments: bytes) -> bytes:
    """Put bytes before all segments of a JPEG."""
    return jpeg[:2] + segments + jpeg[2:]


def with_scans(jpeg: bytes, count: int, *, between: bytes = b"") -> bytes:
    """Repeat the last scan of a JPEG; `between` goes before each copy."""
    end = jpeg.rindex(b"\xff\xd9")
    scan = jpeg[jpeg.rindex(b"\xff\xda") : end]
    return jpeg[:end] + (between + scan) * count + jpeg[end:]


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """Have a baseline JPEG's header claim another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def gif(*, frames: int = 1, block: bytes = b"\2\x44\1", before: bytes = b"", offset: int = 0) -> bytes:
    """Write a GIF of 8×8 pixels from frames of 1×1.

    Args:
        block: The sub-blocks of a frame's pixels.
        before: Bytes before the first frame.
        offset: Of the frames, from the left and from the top.
    """
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", offset, offset, 1, 1, 0) + b"\2" + block + b"\0"
    return head + before + frame * frames + b";"


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes = b"", *, following: bytes = b"") -> bytes:
    """Write a TIFF of one directory.

    Args:
        tags: Number → type (3 is 16 bits, 4 is 32) and values; a negative one is where `data` lies.
        following: Further directories, written where the first one says that the next is.
    """
    formats = {3: "<u2", 4: "<u4"}
    values_at = 8 + 2 + 12 * len(tags) + 4
    sizes = {number: np.dtype(formats[kind]).itemsize * len(values) for number, (kind, values) in tags.items()}
    data_at = values_at + sum(size for size in sizes.values() if size > 4)
    directory, outside = struct.pack("<H", len(tags)), b""
    for number, (kind, values) in sorted(tags.items()):
        numbers = np.array(values, dtype=np.int64)
        raw = np.where(numbers < 0, data_at, numbers).astype(formats[kind]).tobytes()
        directory += struct.pack("<HHI", number, kind, len(values))
        if len(raw) <= 4:
            directory += raw.ljust(4, b"\0")
        else:
            directory += struct.pack("<I", values_at + len(outside))
            outside += raw
    next_at = data_at + len(data) if following else 0
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", next_at) + outside + data + following


def grey_tiff(width: int, height: int, data: bytes, **tags: tuple[int, list[int]]) -> bytes:
    """Write a grey, deflated TIFF; `tags` are named `t` and their number, and replace or add."""
    basic: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8]),
        259: (3, [8]),
        262: (3, [1]),
        273: (4, [-1]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [len(data)]),
    }
    return tiff(basic | {int(name[1:]): tag for name, tag in tags.items()}, data)


def tiff_pages(count: int, *, at: int) -> bytes:
    """Chain directories that hold a size and nothing else, the first of them at this offset."""
    length = 2 + 12 * 2 + 4
    pages = []
    for number in range(count):
        following = at + (number + 1) * length if number + 1 < count else 0
        pages.append(struct.pack("<HHHIIHHIII", 2, 256, 3, 1, 1, 257, 3, 1, 1, following))
    return b"".join(pages)


def exif_loop() -> bytes:
    """EXIF whose directory is followed by itself, and whose sub-directory it is too."""
    directory = struct.pack("<HHHIIHHIII", 2, 0x8769, 4, 1, 8, 0x0112, 3, 1, 6, 8)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory
