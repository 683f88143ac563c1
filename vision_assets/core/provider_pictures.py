"""What of a picture goes to a provider: its own pixels where the provider takes them, else a JPEG that it takes.

Never what the file tells beside them. The picture is measured on the way, while it is decoded: colours and barcodes are
never a provider's word. What is not here: decoding (`pictures.py`), measuring (`measurement.py`), cutting metadata out
(`picture_metadata.py`), and the limits themselves (`clients/`).
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import structlog
from PIL import Image

from vision_assets.core.measured import measured
from vision_assets.core.measurement import scaled_down
from vision_assets.core.picture_metadata import Uncleanable, jpeg_without_metadata, png_without_metadata
from vision_assets.core.pictures import PictureHeader, decode_upright, probe
from vision_assets.core.vision import Measured

log = structlog.get_logger(__name__)

_JPEG = "image/jpeg"
_CLEANERS: Mapping[str, Callable[[bytes], bytes]] = {_JPEG: jpeg_without_metadata, "image/png": png_without_metadata}
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
        mimes: With `image/jpeg`, which everything else is turned into; of the others, `image/png` alone can be sent
            without being encoded anew.
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
        transcoded: The pixels of `content` are encoded anew.
        measured: The picture as it is stored.
    """

    content: bytes
    mime: str
    width: int
    height: int
    transcoded: bool
    measured: Measured


def fitted(content: bytes, *, limits: PictureLimits, known: Measured | None = None) -> FittedPicture:
    """Make a picture fit a provider; CPU-bound, a matter of nothing to some seconds.

    An upright JPEG or PNG within the limits keeps its pixels as they are encoded, and loses its metadata. Any other
    becomes a JPEG: its first frame, upright, alpha on white, scaled down as far as the limits need. It is decoded at
    most once, and at least once before a call is paid for, so that none is for a picture that is broken.

    Args:
        content: The file as it is stored.
        limits: Of the provider.
        known: What was measured when the file was decoded before; None: it was not.

    Raises:
        InputRejected: As from `pictures.decode_upright`.
    """
    header = probe(content)
    clean = _cleaned(content, header, limits)
    if clean is not None and known is not None:
        return FittedPicture(clean, header.mime, header.width, header.height, False, known)
    image = decode_upright(content, max_edge=_DECODE_EDGE)
    known = known or measured(image, size=(header.width, header.height))
    if clean is not None:
        return FittedPicture(clean, header.mime, header.width, header.height, False, known)
    image.info.clear()  # Pillow would write a comment again
    image, body = _as_jpeg(image, limits)
    return FittedPicture(body, _JPEG, image.width, image.height, True, known)


def _cleaned(content: bytes, header: PictureHeader, limits: PictureLimits) -> bytes | None:
    """Give the file without its metadata; None where its pixels must be encoded anew."""
    cleaner = _CLEANERS.get(header.mime)
    if (
        cleaner is None
        or header.mime not in limits.mimes
        or not header.is_upright
        or header.frames > 1
        or header.width * header.height > limits.max_pixels
    ):
        return None
    try:
        clean = cleaner(content)
    except Uncleanable as error:
        log.info("picture.encoded_anew", reason=str(error))
        return None
    return clean if len(clean) <= limits.max_bytes else None


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
