"""Bad and odd input files, built when asked for, each with what must become of it.

What is not here: posts that refer to them (`exports.py`), good pictures (`pictures.py`) and any assertion.
"""

import io
import random
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

LIMIT_BYTES = 15 * 2**20


@dataclass(frozen=True, slots=True)
class BadInput:
    """One input and what must become of it.

    Attributes:
        name: Short and unique, for test ids.
        filename: As sent; its extension may lie.
        content: Empty for the missing file, which is not written.
        expected_state: The state of its reference after a pass.
        expected_reason: The code of a state other than stored.
        note: Why it is here, and what a stored one must show.
    """

    name: str
    filename: str
    content: bytes
    expected_state: Literal["stored", "rejected", "missing"]
    expected_reason: str | None
    note: str


def all_bad_inputs() -> list[BadInput]:
    """Build every case in memory, the same bytes at every call with the same encoders; takes a few seconds."""
    return [
        *_broken(),
        *_not_taken(),
        *_bombs(),
        *_odd_but_good(),
    ]


def write_bad_inputs(folder: Path) -> list[BadInput]:
    """Write every case but the missing one into an existing folder, under its `filename`."""
    inputs = all_bad_inputs()
    for bad in inputs:
        if bad.expected_state != "missing":
            (folder / bad.filename).write_bytes(bad.content)
    return inputs


def _broken() -> list[BadInput]:
    jpeg = _encoded(_picture(), "JPEG", quality=85)
    return [
        BadInput("zero_bytes", "zero_bytes.jpg", b"", "rejected", "empty", "A broken download."),
        BadInput(
            "truncated_jpeg",
            "truncated.jpg",
            jpeg[: len(jpeg) * 2 // 5],
            "rejected",
            "truncated",
            "The header is whole, the pixels end too soon; never to be decoded half.",
        ),
        BadInput(
            "flipped_bytes",
            "flipped_bytes.jpg",
            _with_flipped_bytes(jpeg, count=40),
            "stored",
            None,
            "40 bytes of the pixels are inverted: most decoders guess and say nothing; its hash is never matched.",
        ),
        BadInput("missing", "missing.jpg", b"", "missing", "missing", "Named by a post, not on disk."),
    ]


def _not_taken() -> list[BadInput]:
    html = "<!DOCTYPE html>\n<html><body><h1>404</h1><p>Страница не найдена</p></body></html>\n".encode()
    svg = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>\n'
    brands = b"heic" + struct.pack(">I", 0) + b"mif1heic"
    heic = struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + struct.pack(">I", 8) + b"mdat"
    jpeg = _encoded(_picture(), "JPEG")
    return [
        BadInput("html_named_jpg", "error_page.jpg", html, "rejected", "not_a_picture", "A saved error page."),
        BadInput("svg", "drawing.svg", svg, "rejected", "not_a_picture", "A program's input, never to be rendered."),
        BadInput("heic", "phone.heic", heic, "rejected", "unsupported_format", "A header only, enough to be told."),
        BadInput(
            "too_many_bytes",
            "too_many_bytes.jpg",
            jpeg + bytes(LIMIT_BYTES + 1 - len(jpeg)),
            "rejected",
            "too_many_bytes",
            "A good JPEG with zeros behind it: one byte over the limit.",
        ),
    ]


def _bombs() -> list[BadInput]:
    return [
        BadInput(
            "pixel_bomb",
            "pixel_bomb.png",
            _png(30_000, 30_000, bit_depth=1, rows=bytes((30_000 // 8 + 1) * 30_000)),
            "rejected",
            "too_many_pixels",
            "900 megapixels in about 110 kB; to be refused by its header.",
        ),
        BadInput(
            "text_bomb",
            "text_bomb.png",
            _png(8, 8, bit_depth=8, rows=bytes(9 * 8), before=_chunk(b"zTXt", b"Comment\0\0" + _deflated_zeros(64))),
            "rejected",
            "decode_failed",
            "A compressed comment of 64 MiB; Pillow refuses to unpack more than 1 MiB.",
        ),
        BadInput(
            "sixty_megapixels",
            "sixty_megapixels.jpg",
            _encoded(_picture().resize((9000, 6667), Image.Resampling.NEAREST), "JPEG", quality=75),
            "stored",
            None,
            "What a good phone makes: large, but within the limits.",
        ),
    ]


def _odd_but_good() -> list[BadInput]:
    picture = _picture()
    grey16 = Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16) + 1) * 256 - 1)
    small = picture.resize((320, 240))
    frames = [small.rotate(angle) for angle in (0, 90, 180)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 200}
    return [
        BadInput(
            "cmyk_jpeg",
            "print.jpg",
            _encoded(picture.convert("CMYK"), "JPEG"),
            "stored",
            None,
            "Four channels, from a print shop.",
        ),
        BadInput(
            "grey16_png",
            "scan16.png",
            _encoded(grey16, "PNG"),
            "stored",
            None,
            "16 bits a pixel: a plain conversion would clip it to white.",
        ),
        BadInput(
            "animated_gif",
            "animated.gif",
            _encoded(frames[0], "GIF", **animated),
            "stored",
            None,
            "Three frames: flagged `animated`, never a near-duplicate.",
        ),
        BadInput(
            "animated_webp",
            "animated.webp",
            _encoded(frames[0], "WEBP", **animated),
            "stored",
            None,
            "Three frames: flagged `animated`, never a near-duplicate.",
        ),
        BadInput("avif", "modern.avif", _encoded(small, "AVIF", speed=10), "stored", None, "Pillow decodes it."),
        BadInput(
            "wrong_extension",
            "really_png.jpg",
            _encoded(small, "PNG"),
            "stored",
            None,
            "A PNG by content: mime image/png, ext png.",
        ),
    ]


def _picture(width: int = 800, height: int = 600) -> Image.Image:
    """Render soft colours with some grain: photo-like enough for a hash that is not degenerate."""
    rng = np.random.default_rng(7)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    return Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))


def _encoded(image: Image.Image, picture_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def _with_flipped_bytes(jpeg: bytes, *, count: int) -> bytes:
    """Invert bytes of the entropy-coded pixels; the header, the markers and the end stay as they are."""
    content = bytearray(jpeg)
    pixels = range(jpeg.index(b"\xff\xda") + 64, len(jpeg) - 64)
    # Inverting 0xff would take away a marker's first byte, inverting 0x00 would make one.
    candidates = [at for at in pixels if jpeg[at] not in (0x00, 0xFF)]
    for at in random.Random(40).sample(candidates, count):
        content[at] ^= 0xFF
    return bytes(content)


def _png(width: int, height: int, *, bit_depth: int, rows: bytes, before: bytes = b"") -> bytes:
    """Write a grey PNG by hand, for what no encoder writes.

    Args:
        rows: The rows as PNG filters them: a filter byte before each.
        before: Chunks between the header and the pixels.
    """
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deflated_zeros(mebibytes: int) -> bytes:
    deflate = zlib.compressobj()
    return b"".join(deflate.compress(bytes(2**20)) for _ in range(mebibytes)) + deflate.flush()
