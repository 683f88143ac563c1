"""What of a picture goes to a provider: its own bytes where the provider takes them, else a JPEG that it takes.

The picture is measured on the way, while it is decoded: colours and barcodes are never a provider's word.
What is not here: decoding (`pictures.py`), measuring (`measurement.py`), and the limits themselves (`clients/`).
"""

import io
from dataclasses import dataclass
from math import sqrt

from PIL import Image

from vision_assets.core.measurement import measure, scaled_down
from vision_assets.core.pictures import decode_upright, probe
from vision_assets.core.vision import Measurement

_JPEG = "image/jpeg"
_QUALITY = 90
# A JPEG has 16 bits for an edge, and libjpeg keeps some.
_MAX_EDGE_OF_JPEG = 65_500
# A large JPEG is decoded at a fraction of its size; no model looks closer than this.
_DECODE_EDGE = 4096
# A JPEG of 32×32 pixels has less than half of it, so that scaling down always ends.
_LEAST_LIMIT_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a provider takes.

    Attributes:
        mimes: With `image/jpeg`, which everything else is turned into.
        max_bytes: At least 10,000.
        max_pixels: Width by height.
    """

    mimes: frozenset[str]
    max_bytes: int
    max_pixels: int

    def __post_init__(self) -> None:
        if _JPEG not in self.mimes:
            raise ValueError(f"mimes must hold {_JPEG}, into which other pictures are turned")
        if self.max_bytes < _LEAST_LIMIT_BYTES or self.max_pixels < 1:
            raise ValueError(f"max_bytes must be at least {_LEAST_LIMIT_BYTES}, and max_pixels positive")


@dataclass(frozen=True, slots=True)
class FittedPicture:
    """A picture that a provider takes.

    Attributes:
        content: The file to send.
        mime: Of `content`.
        width: Pixels of `content`, upright.
        height: Pixels of `content`, upright.
        transcoded: `content` is not the file as it is stored.
        measurement: Of the picture as it is stored.
    """

    content: bytes
    mime: str
    width: int
    height: int
    transcoded: bool
    measurement: Measurement


def fitted(content: bytes, *, limits: PictureLimits) -> FittedPicture:
    """Make a picture fit a provider; CPU-bound, a matter of 0.1 to some seconds.

    A file within the limits stays as it is, byte by byte, unless it holds several frames. Any other becomes a JPEG: its
    first frame, upright, alpha on white, scaled down as far as the limits need. Either way it is decoded once, so that
    no call is paid for a picture that is broken.

    Raises:
        InputRejected: As from `pictures.decode_upright`.
    """
    header = probe(content)
    image = decode_upright(content, max_edge=_DECODE_EDGE)
    measurement = measure(image, size=(header.width, header.height))
    fits = (
        header.mime in limits.mimes
        and len(content) <= limits.max_bytes
        and header.width * header.height <= limits.max_pixels
        and header.frames == 1
    )
    if fits:
        return FittedPicture(content, header.mime, header.width, header.height, False, measurement)
    image, body = _as_jpeg(image, limits)
    return FittedPicture(body, _JPEG, image.width, image.height, True, measurement)


def _as_jpeg(image: Image.Image, limits: PictureLimits) -> tuple[Image.Image, bytes]:
    edge = min(max(image.size), _MAX_EDGE_OF_JPEG)
    while True:
        small = scaled_down(image, edge, resample=Image.Resampling.LANCZOS)
        share = limits.max_pixels / (small.width * small.height)
        if share >= 1:
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=_QUALITY)
            # Bytes fall a little slower than pixels.
            share = limits.max_bytes / len(buffer.getvalue()) * 0.9
            if len(buffer.getvalue()) <= limits.max_bytes:
                return small, buffer.getvalue()
        edge = min(edge - 1, int(edge * sqrt(share)))
