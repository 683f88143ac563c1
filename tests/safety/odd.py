"""Pictures that are odd and good: the edges of what formats allow, each with what must come out of it.

What is not here: files that are built to do harm (`hostile.py`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.safety.encoding import encoded, grey_tiff, png, zeros

RED, WHITE, BLACK, GREY = (255, 0, 0), (255, 255, 255), (0, 0, 0), (100, 100, 100)


@dataclass(frozen=True, slots=True)
class Odd:
    """One picture.

    Attributes:
        name: Short and unique.
        content: The file.
        size: Width and height, upright.
        colour: In the middle, RGB.
        frames: As the header tells them.
    """

    name: str
    content: bytes
    size: tuple[int, int]
    colour: tuple[int, int, int]
    frames: int = 1


def all_odd() -> list[Odd]:
    """Build every picture."""
    red = Image.new("RGB", (32, 24), "red")
    others = [Image.new("RGB", (32, 24), colour) for colour in ("green", "blue")]
    moving: dict[str, Any] = {"save_all": True, "append_images": others, "duration": 40}
    deep = Image.fromarray(np.full((24, 32), 257 * 100, dtype=np.uint16))
    clear = Image.new("P", (32, 24), 1)
    clear.putpalette([255, 0, 0, 0, 0, 255])
    small = (32, 24)
    return [
        *_sizes(),
        Odd("grey16_png", encoded(deep, "PNG"), small, GREY),
        Odd("grey16_tiff", encoded(deep, "TIFF"), small, GREY),
        Odd("grey16_big_endian", encoded(deep, "TIFF", big_endian=True), small, GREY),
        Odd("cmyk", encoded(Image.new("CMYK", small, (0, 255, 255, 0)), "JPEG"), small, (254, 0, 0)),
        Odd("transparent_palette_png", encoded(clear, "PNG", transparency=b"\xff\0"), small, WHITE),
        Odd("transparent_palette_gif", encoded(clear, "GIF", transparency=1), small, WHITE),
        Odd("transparent_grey", encoded(Image.new("LA", small, (100, 0)), "PNG"), small, WHITE),
        Odd("transparent_colour", encoded(red, "PNG", transparency=(255, 0, 0)), small, WHITE),
        Odd("one_bit", encoded(Image.new("1", small, 0), "PNG"), small, BLACK),
        Odd("gif_animation", encoded(red, "GIF", **moving), small, RED, frames=3),
        Odd("png_animation", encoded(red, "PNG", **moving), small, RED, frames=3),
        Odd("webp_animation", encoded(red, "WEBP", lossless=True, **moving), small, RED, frames=3),
        Odd("avif_animation", encoded(red, "AVIF", quality=100, speed=10, **moving), small, RED, frames=3),
        Odd("tiff_pages", encoded(red, "TIFF", save_all=True, append_images=others), small, RED, frames=3),
        # A JPEG with more JPEGs behind it: the first is the picture.
        Odd("mpo", encoded(red, "MPO", save_all=True, append_images=others), small, (254, 0, 0)),
    ]


def _sizes() -> list[Odd]:
    strip = Image.new("RGB", (20_000, 1), "red")
    return [
        Odd("png_1x1", encoded(Image.new("RGB", (1, 1), "red"), "PNG"), (1, 1), RED),
        Odd("jpeg_1x1", encoded(Image.new("RGB", (1, 1), "red"), "JPEG"), (1, 1), (254, 0, 0)),
        Odd("gif_1x1", encoded(Image.new("RGB", (1, 1), "red"), "GIF"), (1, 1), RED),
        Odd("webp_1x1", encoded(Image.new("RGB", (1, 1), "red"), "WEBP", lossless=True), (1, 1), RED),
        Odd("avif_1x1", encoded(Image.new("RGB", (1, 1), "red"), "AVIF", quality=100), (1, 1), RED),
        Odd("tiff_1x1", grey_tiff(1, 1, zeros(1)), (1, 1), BLACK),
        Odd("png_1x3000", png(1, 3_000), (1, 3_000), BLACK),
        Odd("jpeg_20000x1", encoded(strip, "JPEG"), (20_000, 1), (254, 0, 0)),
        Odd("png_20000x1", encoded(strip, "PNG"), (20_000, 1), RED),
        Odd("bmp_20000x1", encoded(strip, "BMP"), (20_000, 1), RED),
        Odd("jpeg_1x65500", encoded(Image.new("RGB", (1, 65_500), "red"), "JPEG"), (1, 65_500), (254, 0, 0)),
        Odd("png_100000x1", png(100_000, 1, depth=1), (100_000, 1), BLACK),
    ]
