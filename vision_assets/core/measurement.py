"""What is computed from the pixels for every provider: size, dominant colours, blur, barcodes.

What is not here: decoding (`pictures.py`), and judgements on what the picture is (`kind.py`).
"""

import numpy as np
import zxingcpp
from PIL import Image

from vision_assets.core.vision import Barcode, Measurement

_COLOUR_EDGE = 128
_BLUR_EDGE = 512
LEAST_EDGE = 1600
"""Pixels: a picture that is decoded at a reduced size keeps this much, for its barcodes to be read."""

VERSION = 1
"""Raise it when the same pixels give another answer."""


MAX_COLOURS = 5
# Two colours nearer than this (Euclid, 0–441) count as one; a tenth of the way from black to white.
_SAME_COLOUR = 44.0
_LEAST_SHARE = 0.01
_MAX_BARCODES = 20

# Without the weak ones (ITF, Codabar, DataBar, MaxiCode): they are seen in textures and text where there are none.
_BARCODE_FORMATS = (
    "QRCode",
    "MicroQRCode",
    "DataMatrix",
    "Aztec",
    "PDF417",
    "EAN13",
    "EAN8",
    "UPCA",
    "UPCE",
    "Code128",
    "Code39",
)
"""By name: an object of the library that lives until the interpreter ends makes it complain of a leak."""


def measure(image: Image.Image, *, size: tuple[int, int] | None = None) -> Measurement:
    """Measure an upright RGB bitmap. Pure, and a matter of milliseconds; the same pixels give the same answer.

    Args:
        image: As `pictures.decode_upright` gives it.
        size: Width and height of the picture, where `image` was decoded at a reduced size.
    """
    width, height = size or image.size
    grey = image.convert("L")
    return Measurement(
        width=width,
        height=height,
        dominant_colors=_dominant_colours(image),
        blur=_laplacian_variance(grey),
        barcodes=_barcodes(grey),
    )


def scaled_down(image: Image.Image, edge: int, *, resample: Image.Resampling = Image.Resampling.BOX) -> Image.Image:
    """Reduce a picture so that its longer edge is at most `edge`; a smaller one comes back as it is."""
    scale = edge / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)


def _dominant_colours(image: Image.Image) -> list[str]:
    pixels = np.asarray(scaled_down(image, _COLOUR_EDGE)).reshape(-1, 3).astype(np.int64)
    # 16 levels a channel, each bin shown by the mean of what fell into it: white paper stays #ffffff.
    bins = (pixels[:, 0] >> 4) << 8 | (pixels[:, 1] >> 4) << 4 | pixels[:, 2] >> 4
    counts = np.bincount(bins, minlength=4096)
    sums = np.stack([np.bincount(bins, weights=pixels[:, channel], minlength=4096) for channel in range(3)], axis=1)

    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    colours = sums[order] / counts[order, None]
    weights = counts[order].astype(float)
    found: list[tuple[float, int]] = []
    while (weights > 0).any():
        centre = int(np.argmax(weights))
        near = (weights > 0) & (np.linalg.norm(colours - colours[centre], axis=1) < _SAME_COLOUR)
        found.append((float(weights[near].sum()), centre))
        weights[near] = 0
    found.sort(key=lambda item: -item[0])
    kept = [centre for weight, centre in found[:MAX_COLOURS] if weight >= _LEAST_SHARE * len(pixels)] or [found[0][1]]
    return ["#{:02x}{:02x}{:02x}".format(*(round(value) for value in colours[centre])) for centre in kept]


def _laplacian_variance(grey: Image.Image) -> float:
    y = np.asarray(scaled_down(grey, _BLUR_EDGE), dtype=np.float32)
    if min(y.shape) < 3:
        return 0.0
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return round(float(laplacian.var()), 2)


def _barcodes(grey: Image.Image) -> list[Barcode]:
    formats = zxingcpp.BarcodeFormats([getattr(zxingcpp.BarcodeFormat, name) for name in _BARCODE_FORMATS])
    found = zxingcpp.read_barcodes(scaled_down(grey, LEAST_EDGE), formats=formats)
    return [Barcode(format=str(barcode.format), text=barcode.text) for barcode in found[:_MAX_BARCODES]]
