"""Photographs under free licences, and pictures made of them: tiles, captioned ones, ones with a price tag.

What is not here: which pairs are made of them (`_pairs.py`).
"""

import base64
import io
from collections.abc import Iterator
from functools import cache
from random import Random

from PIL import Image, ImageChops, ImageStat

from benchmarks._screens import Screen
from benchmarks._words import figure, words
from vision_assets.core.pictures import decode_upright
from vision_assets.settings import PROJECT_ROOT

# Each once, without copies and crops; authors and licences stand in examples/LICENSES.md.
_FILES = {"city_walks": (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15, 16, 18), "dev_digest": (1, 5, 7, 11, 14)}
_TILES = 5
_LEAST_DIFFERENCE = 16  # of 255, in the mean: a mirrored piece of sky says the same


@cache
def photographs() -> tuple[bytes, ...]:
    """The files of the example photographs that show different things."""
    return tuple(
        next((PROJECT_ROOT / "examples" / folder / "photos").glob(f"photo_{number}@*")).read_bytes()
        for folder, numbers in _FILES.items()
        for number in numbers
    )


def tiles() -> Iterator[bytes]:
    """Cut each photograph into tiles that do not overlap."""
    for content in photographs():
        photo = decode_upright(content)
        width, height = photo.width // _TILES, photo.height // _TILES
        for number in range(_TILES**2):
            left, top = number % _TILES * width, number // _TILES * height
            yield as_jpeg(photo.crop((left, top, left + width, top + height)))


def as_jpeg(image: Image.Image, *, quality: int = 92) -> bytes:
    """Encode as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def meme(seed: int) -> Screen:
    """A photograph with a caption at its top and its bottom."""
    chance = Random(f"meme {seed}")
    css = (
        "position:absolute;width:100%;text-align:center;font:bold 52px 'DejaVu Sans';color:#fff;"
        "text-transform:uppercase;-webkit-text-stroke:2px #000;padding:16px"
    )
    lines = "".join(
        f'<div style="{css};{edge}:0">{words(chance, chance.randrange(1, 4))}</div>' for edge in ("top", "bottom")
    )
    return _on_photograph(chance, lines.replace('class="word"', 'class="caption"'))


def price_tag(seed: int) -> Screen:
    """A photograph with a small tag."""
    chance = Random(f"tag {seed}")
    font = chance.randrange(14, 40)
    css = (
        f"position:absolute;left:{chance.randrange(10, 80)}%;top:{chance.randrange(10, 85)}%;background:#fffbe0;"
        f"color:#111;font:bold {font}px 'DejaVu Sans';padding:{font // 4}px;"
        f"transform:rotate({chance.randrange(-8, 9)}deg)"
    )
    return _on_photograph(chance, f'<div style="{css}">{figure(chance, kind="tag")} ₽</div>')


def _on_photograph(chance: Random, overlay: str) -> Screen:
    content = chance.choice(photographs())
    photo = decode_upright(content)
    size = (1024, photo.height * 1024 // photo.width)
    source = base64.b64encode(content).decode()
    css = "<style>body{margin:0;overflow:hidden}s{text-decoration:none}</style>"
    image = f'<img src="data:image/jpeg;base64,{source}" width={size[0]} height={size[1]}>'
    return Screen(f"<!doctype html><meta charset=utf-8>{css}<body>{image}{overlay}", size)


def with_a_part_mirrored(seed: int) -> tuple[bytes, bytes]:
    """A photograph, and the same with one small part (eyes look the other way) mirrored in its place."""
    chance = Random(f"part {seed}")
    photo = decode_upright(chance.choice(photographs()))
    width = max(24, round(photo.width * chance.uniform(0.04, 0.12)))
    height = max(16, width // 2)
    while True:  # until the part is one that shows something
        left, top = chance.randrange(photo.width - width), chance.randrange(photo.height - height)
        part = photo.crop((left, top, left + width, top + height))
        mirrored = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        difference = ImageChops.difference(part.convert("L"), mirrored.convert("L"))
        if ImageStat.Stat(difference).mean[0] >= _LEAST_DIFFERENCE:
            break
    changed = photo.copy()
    changed.paste(mirrored, (left, top))
    return _as_png(photo), _as_png(changed)


def _as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
