"""Tiny pictures of every format and layout, a few hundred bytes each, to start fuzzing from.

What is not here: pictures that were built or found to do harm (`tests/safety/`).
"""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

_EDGE = 12


def seeds() -> dict[str, bytes]:
    """Encode every seed: file name → content."""
    rgb = _picture()
    grey, palette, rgba = rgb.convert("L"), rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=8), _with_alpha(rgb)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    moving: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)], "duration": 40}
    made: dict[str, bytes] = {
        "baseline.jpg": _encoded(rgb, "JPEG", quality=60),
        "progressive.jpg": _encoded(rgb, "JPEG", quality=60, progressive=True),
        "grey.jpg": _encoded(grey, "JPEG", quality=60),
        "cmyk.jpg": _encoded(rgb.convert("CMYK"), "JPEG", quality=60),
        "exif.jpg": _encoded(rgb, "JPEG", quality=60, exif=exif, comment=b"note", restart_marker_blocks=1),
        "two.mpo": _encoded(rgb, "MPO", save_all=True, append_images=[rgb.rotate(90)], quality=60),
        "rgb.png": _encoded(rgb, "PNG"),
        "rgba.png": _encoded(rgba, "PNG", exif=exif),
        "grey16.png": _encoded(deep, "PNG"),
        "bits.png": _encoded(grey.convert("1"), "PNG"),
        "palette.png": _encoded(palette, "PNG", transparency=bytes(range(0, 200, 25)), bits=4),
        "animated.png": _encoded(rgb, "PNG", **moving),
        "palette.gif": _encoded(palette, "GIF", transparency=1),
        "animated.gif": _encoded(rgb, "GIF", **moving),
        "lossy.webp": _encoded(rgb, "WEBP", quality=50),
        "lossless.webp": _encoded(rgba, "WEBP", lossless=True, exif=exif),
        "animated.webp": _encoded(rgb, "WEBP", quality=50, **moving),
        "rgb.bmp": _encoded(rgb.resize((6, 6)), "BMP"),
        "palette.bmp": _encoded(palette.resize((8, 8)), "BMP")[:1200],
        "runs.bmp": runs_bmp(8, 2, b"\x08\x01\0\0\0\x03\1\2\3\0\x03\1\0\2\1\0\1\1\0\1"),
        "still.avif": _encoded(rgb, "AVIF", quality=40, speed=10),
        "alpha.avif": _encoded(rgba, "AVIF", quality=40, speed=10, exif=exif),
        "animated.avif": _encoded(rgb, "AVIF", quality=40, speed=10, **moving),
        "two_pages.tif": _encoded(rgb.resize((4, 4)), "TIFF", save_all=True, append_images=[grey.resize((4, 4))]),
        "grey16.tif": _encoded(deep, "TIFF"),
        "float.tif": _encoded(grey.resize((4, 4)).convert("F"), "TIFF"),
        "cmyk.tif": _encoded(rgb.convert("CMYK").resize((4, 4)), "TIFF"),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "tiff_lzma"):
        made[f"{compression}.tif"] = _encoded(rgb, "TIFF", compression=compression)
    for compression in ("group3", "group4"):
        made[f"{compression}.tif"] = _encoded(grey.convert("1"), "TIFF", compression=compression)
    return made


def runs_bmp(width: int, height: int, runs: bytes) -> bytes:
    """Write a run-length encoded BMP by hand: Pillow reads them and writes none."""
    palette = b"".join(bytes((level, 255 - level, 128, 0)) for level in (0, 80, 160, 255))
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 2835, 2835, 4, 4)
    return struct.pack("<2sIHHI", b"BM", offset + len(runs), 0, 0, offset) + info + palette + runs


def _picture() -> Image.Image:
    across, down = np.meshgrid(np.arange(_EDGE), np.arange(_EDGE))
    return Image.fromarray(np.stack([across * 20, down * 20, (across ^ down) * 16], axis=2).astype(np.uint8))


def _with_alpha(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    rgba.putalpha(image.convert("L"))
    return rgba


def _encoded(image: Image.Image, picture_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()
