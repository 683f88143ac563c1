"""A JPEG or PNG without what it tells beside its pixels: place, time, camera, comments, previews, bytes after its end.

Cut out part by part; the pixels stay as they are encoded. Only parts that are known to be needed are kept, so what
nobody thought of goes too. What is not here: decoding (`pictures.py`), and formats that cannot be cleaned in this way,
which are encoded anew (`provider_pictures.py`).
"""

import re
from collections.abc import Iterator

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
# Tables, frames and scans; of the application's segments JFIF, the colour profile, and Adobe's, which tells how colours
# are stored.
_JPEG_PIXELS = frozenset({*range(0xC0, 0xD0), _START_OF_SCAN, 0xDB, 0xDC, 0xDD})
_JPEG_SEGMENTS = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
# Within a scan 0xff stands before 0 (it is data then), a restart marker, or another 0xff.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"sBIT", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"}
)


class Uncleanable(Exception):
    """The parts of the file do not lie as they should; a decoder may be more lenient."""


def jpeg_without_metadata(content: bytes) -> bytes:
    """Keep what the pixels need.

    Raises:
        Uncleanable: Its segments cannot be followed to the end of the picture.
    """
    return content[:2] + b"".join(_jpeg_parts(content))


def _jpeg_parts(content: bytes) -> Iterator[bytes]:
    at = 2
    while True:
        if content[at : at + 1] != b"\xff":
            raise Uncleanable(f"no marker at byte {at}")
        while content[at + 1 : at + 2] == b"\xff":  # padding
            at += 1
        if content[at : at + 2] == _END_OF_IMAGE:
            yield _END_OF_IMAGE
            return
        if at + 4 > len(content):
            raise Uncleanable("it ends too soon")
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN:
            found = _AFTER_SCAN.search(content, end)
            if found is None:
                raise Uncleanable("a scan has no end")
            end = found.start()
        signature = _JPEG_SEGMENTS.get(marker)
        if marker in _JPEG_PIXELS or (signature and content.startswith(signature, at + 4)):
            yield content[at:end]
        at = end


def png_without_metadata(content: bytes) -> bytes:
    """Keep what the pixels need.

    Raises:
        Uncleanable: Its chunks cannot be followed to the end of the picture.
    """
    return _PNG_SIGNATURE + b"".join(_png_parts(content))


def _png_parts(content: bytes) -> Iterator[bytes]:
    at = len(_PNG_SIGNATURE)
    name = b""
    while name != b"IEND":
        name = content[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if end > len(content):
            raise Uncleanable("it ends too soon")
        if name in _PNG_CHUNKS:
            yield content[at:end]
        at = end
