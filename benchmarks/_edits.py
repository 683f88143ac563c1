"""What becomes of a picture on its way: copies of it in another compression, size or colour, and edits that add to it.

What is not here: the pictures, and whether a copy is recognised (`reuse.py`).
"""

import io
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

LANCZOS, BICUBIC, BILINEAR, BOX = (
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
)


def copies(image: Image.Image) -> Iterator[tuple[str, str, bytes]]:
    """Copy a picture: class, name and file of each copy."""
    for quality in (30, 40, 50, 60, 75, 87, 95):
        yield "recompressed", f"JPEG {quality}", _file(image, "JPEG", quality=quality)
    yield "recompressed", "JPEG 75 4:4:4", _file(image, "JPEG", quality=75, subsampling=0)
    for quality in (50, 80):
        yield "recompressed", f"WebP {quality}", _file(image, "WEBP", quality=quality, method=2)
    yield "recompressed", "PNG", _file(image, "PNG", compress_level=1)
    for scale, method in (
        (0.25, LANCZOS), (0.25, BILINEAR), (0.5, BICUBIC), (0.5, BOX), (0.75, LANCZOS), (0.9, BILINEAR),
        (1.25, BICUBIC), (1.5, LANCZOS), (2, BILINEAR),
    ):  # fmt: skip
        yield "resized", f"{scale} {method.name}", _file(_scaled(image, scale, method), "PNG", compress_level=1)
    for scale, quality in ((0.35, 80), (0.5, 60), (0.625, 75), (0.8, 50), (1.25, 70), (1.6, 87)):
        yield (
            "resized and recompressed",
            f"{scale}, JPEG {quality}",
            _file(_scaled(image, scale), "JPEG", quality=quality),
        )
    yield "resized and recompressed", "0.7, WebP 70", _file(_scaled(image, 0.7), "WEBP", quality=70, method=2)
    once = Image.open(io.BytesIO(_file(_scaled(image, 0.8), "JPEG", quality=80)))
    yield "resized and recompressed", "twice", _file(_scaled(once, 0.8, BICUBIC), "JPEG", quality=70)
    yield "recoloured", "saturation 0.9", _file(ImageEnhance.Color(image).enhance(0.9), "JPEG", quality=87)
    yield "recoloured", "saturation 1.1", _file(ImageEnhance.Color(image).enhance(1.1), "JPEG", quality=87)
    yield "recoloured", "gamma 0.95", _file(_gamma(image, 0.95), "JPEG", quality=87)
    yield "recoloured", "gamma 1.05", _file(_gamma(image, 1.05), "JPEG", quality=87)
    yield "recoloured", "brightness 1.03", _file(ImageEnhance.Brightness(image).enhance(1.03), "JPEG", quality=87)
    yield "grey", "grey", _file(image.convert("L"), "JPEG", quality=87)


def changed(image: Image.Image) -> Iterator[tuple[str, str, bytes]]:
    """Change a picture so that it is another: class, name and file."""
    width, height = image.size
    for percent in (2, 5, 10):
        margin = (width * percent // 200, height * percent // 200)
        box = (margin[0], margin[1], width - margin[0], height - margin[1])
        yield "crop", f"{percent} %", _file(image.crop(box), "JPEG", quality=90)
    for percent in (1, 4):
        yield (
            "border",
            f"{percent} %",
            _file(ImageOps.expand(image, width * percent // 100, "black"), "JPEG", quality=90),
        )
    yield "flip", "flip", _file(ImageOps.mirror(image), "JPEG", quality=90)
    for percent in (4, 8):
        yield "logo", f"{percent} %", _file(_stamped(image, "VA", percent, at=(0.9, 0.92)), "JPEG", quality=90)
    for percent in (3, 6):
        yield "caption", f"{percent} %", _file(_stamped(image, "срочно", percent, at=(0.4, 0.9)), "JPEG", quality=90)


def _file(image: Image.Image, picture_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, picture_format, **options)
    return file.getvalue()


def _scaled(image: Image.Image, scale: float, method: Image.Resampling = LANCZOS) -> Image.Image:
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def _gamma(image: Image.Image, gamma: float) -> Image.Image:
    return image.point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)


def _stamped(image: Image.Image, text: str, percent: float, *, at: tuple[float, float]) -> Image.Image:
    """Write white letters with a dark edge, their height in percent of the width."""
    stamped = image.copy()
    font = ImageFont.load_default(size=max(8, image.width * percent // 100))
    place = (image.width * at[0], image.height * at[1])
    ImageDraw.Draw(stamped).text(place, text, "white", font, stroke_width=1, stroke_fill="black", anchor="mm")
    return stamped
