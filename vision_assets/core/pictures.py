"""From bytes to an upright bitmap, RGB or brightness alone, safely: sniff by content, refuse by header, then decode.

What is not here: what is computed from the bitmap (`measurement.py`, `kind.py`, `phash.py`), and storing the bytes.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vision_assets.core.errors import InputRejected, TransientError
from vision_assets.core.isolated_decoding import decode_isolated
from vision_assets.core.picture_structure import check_parts, exif_orientation, has_several_scans
from vision_assets.core.storable_text import storable

# Of foreign files, and nobody could act on it.
for _category in (UserWarning, Image.DecompressionBombWarning):
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\.")

# A JPEG is decoded at a fraction of its size; others come whole, with an alpha channel or 16 bits a sample.
MAX_PIXELS_OF_JPEG = 80_000_000
MAX_PIXELS = 40_000_000
# These decoders hold several bitmaps at once: 121 MP took more than 1 GB.
MAX_PIXELS_OF_HUNGRY_DECODERS = 25_000_000
# One row of 40 million pixels takes gigabytes to scale.
MAX_EDGE = 100_000
# APNG only says how many there are; it may say two thousand million.
MAX_FRAMES = 100_000

# One plugin for each format, chosen by magic. `Image.open` would try others (EPS calls Ghostscript), turn a JPEG with a
# preview inside into an MPO, and warn of large pictures before our own limit is asked.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
    "tiff": TiffImageFile,
    "avif": AvifImageFile,
}

Background = Literal["white", "black"]

MIME_TYPES = tuple(f"image/{picture_format}" for picture_format in _PLUGINS)
"""Of all pictures that are taken."""

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)
_OTHER_PICTURES = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
)
_OTHER_FILES = (
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"PK\3\4", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "Ogg audio"),
    (b"ID3", "MP3 audio"),
    (b"RIFF", "audio or video (RIFF)"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

# In what Pillow's plugins say when the bytes end too soon; they have no common error class for it.
_SIGNS_OF_TRUNCATION = ("truncated", "unpack", "expecting to read", "incomplete")

_BOXES_LOOKED_AT = 32

_LONGEST_COMPLAINT = 200
_GREY16_ROWS_AT_ONCE = 256

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What the first bytes say of a picture; nothing is decoded for it.

    Attributes:
        format: `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff` or `avif`, by content.
        mime: For S3 and the policy.
        ext: For the S3 key, without a dot.
        width: Pixels, upright (EXIF orientation applied).
        height: Pixels, upright.
        frames: More than 1 is an animation or a TIFF of many pages.
        mode: Pillow's name of the pixel layout, as stored.
        has_alpha: Parts of it may be transparent.
        is_upright: As stored; else EXIF says how it is to be turned.
    """

    format: str
    mime: str
    ext: str
    width: int
    height: int
    frames: int
    mode: str
    has_alpha: bool
    is_upright: bool


def probe(content: bytes) -> PictureHeader:
    """Read the header and refuse what must not be decoded.

    Raises:
        InputRejected: `empty`, `not_a_picture`, `unsupported_format`, `truncated`, `too_many_pixels`,
            `too_many_parts`, `decode_failed`.
    """
    picture_format = _sniff(content)
    with _rejecting(picture_format):
        return _header(_open(content, picture_format), picture_format, content)


@dataclass(frozen=True, slots=True, eq=False)
class JpegLuma:
    """What a JPEG says of brightness by itself.

    Attributes:
        pixels: Upright rows; None where the file holds none, or none that can be trusted.
        is_damaged: A decoder would have to guess; most do so silently.
    """

    pixels: NDArray[np.uint8] | None
    is_damaged: bool = False


def jpeg_luma(content: bytes, *, least_edge: int | None = None) -> JpegLuma:
    """Decode the brightness of a JPEG alone: two thirds of the work, as no colour is made.

    Args:
        content: A file that `probe` calls a JPEG.
        least_edge: Lets it be decoded at a half, a quarter or an eighth, but never so that its shorter edge falls below
            this.

    Raises:
        InputRejected: As from `probe`.
    """
    with _rejecting("jpeg"):
        image = _open(content, "jpeg")
        _header(image, "jpeg", content)
        transposition = _TRANSPOSITIONS.get(_orientation(image))
    by = max(by for by in (1, 2, 4, 8) if by == 1 or (least_edge and min(image.size) >= by * least_edge))
    width, height = (-(-length // by) for length in image.size)
    try:
        found_height, found_width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if (found_width, found_height) != image.size:
            return JpegLuma(None, is_damaged=True)
        if colours not in ("YCbCr", "Gray"):
            return JpegLuma(None)
        pixels = simplejpeg.decode_jpeg(content, "GRAY", min_width=width, min_height=height, min_factor=by)[:, :, 0]
    except ValueError:
        return JpegLuma(None, is_damaged=True)
    if transposition is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(transposition))
    return JpegLuma(pixels)


def decode_upright(content: bytes, *, max_edge: int | None = None, background: Background = "white") -> Image.Image:
    """Decode the first frame to RGB: upright, alpha on a background, 16-bit grey scaled, CMYK converted, ICC ignored.

    Args:
        content: The file as it came.
        max_edge: Lets a large JPEG be decoded at a half, a quarter or an eighth, but never so that its longer edge
            falls below this. Other formats come at full size all the same.
        background: Of what is transparent.

    Raises:
        InputRejected: As from `probe`, and whatever only the pixels show.
        DecoderUnavailable: Transient.
    """
    picture_format = _sniff(content)
    with _rejecting(picture_format):
        image = _open(content, picture_format)
        _header(image, picture_format, content)
        orientation = _orientation(image)
        if max_edge is not None and isinstance(image, JpegImageFile):
            # Pillow takes the largest reduction at which both edges stay at or above the size asked for.
            longest = max(image.size)
            image.draft(None, (-(-image.width * max_edge // longest), -(-image.height * max_edge // longest)))
        if picture_format == "avif":
            upright = _rgb(decode_isolated(content), background)
        else:
            image.load()
            upright = _rgb(image, background)
        transposition = _TRANSPOSITIONS.get(orientation)
        return upright if transposition is None else upright.transpose(transposition)


def _sniff(content: bytes) -> str:
    if not content:
        raise InputRejected("empty", "the file is empty; send it again")
    for magic, picture_format in _MAGIC:
        if content.startswith(magic):
            return picture_format
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "webp"
    if content[4:8] == b"ftyp":
        brands = {content[8:12]} | {content[at : at + 4] for at in range(16, min(content[3], 64), 4)}
        if brands & _AVIF_BRANDS:
            return "avif"
        if brands & _HEIF_BRANDS:
            raise InputRejected("unsupported_format", "this is HEIC/HEIF; convert it to JPEG")
        raise InputRejected("not_a_picture", "this looks like a video (MP4 or QuickTime), not a picture")
    for magic, name in _OTHER_PICTURES:
        if content.startswith(magic):
            raise InputRejected("unsupported_format", f"this is {name}; convert it to JPEG")
    raise InputRejected("not_a_picture", f"this looks like {_guess(content)}, not a picture")


def _guess(content: bytes) -> str:
    for magic, name in _OTHER_FILES:
        if content.startswith(magic):
            return name
    head = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in head:
        return "SVG"
    if head.startswith((b"<!doctype html", b"<html")) or b"<html" in head:
        return "an HTML page"
    if head.startswith(b"<"):
        return "XML"
    if head.startswith((b"{", b"[")):
        return "JSON"
    return "unknown data" if b"\0" in head else "text or unknown data"


def _open(content: bytes, picture_format: str) -> ImageFile.ImageFile:
    if len(content) < _declared_bytes(content, picture_format):
        raise InputRejected("truncated", f"the {picture_format} picture is cut off; send it again")
    check_parts(content, picture_format)
    return _PLUGINS[picture_format](io.BytesIO(content))


def _declared_bytes(content: bytes, picture_format: str) -> int:
    """Tell how long the file says it is; of a WebP or AVIF that is cut off Pillow only says that it cannot decode."""
    if picture_format == "webp":
        return 8 + int.from_bytes(content[4:8], "little")
    end = 0
    for _ in range(_BOXES_LOOKED_AT if picture_format == "avif" else 0):
        if end + 8 > len(content):
            break
        size = int.from_bytes(content[end : end + 4], "big")
        if size == 1:
            size = int.from_bytes(content[end + 8 : end + 16], "big")
        # Size 0 is "to the end of the file"; under 8 no box can be, and the decoder says so.
        if size < 8:
            break
        end += size
    return end


def _header(image: ImageFile.ImageFile, picture_format: str, content: bytes) -> PictureHeader:
    width, height = image.size
    if max(width, height) > MAX_EDGE:
        raise InputRejected(
            "too_many_pixels", f"{width}×{height} is longer than {MAX_EDGE:,} pixels; cut it into several pictures"
        )
    if picture_format == "bmp" and image.tile[0].codec_name == "bmp_rle":
        # Pillow reads it byte by byte in Python: seconds a megapixel.
        raise InputRejected("unsupported_format", "this is a BMP with run-length encoding; convert it to PNG")
    limit = MAX_PIXELS_OF_JPEG if picture_format == "jpeg" else MAX_PIXELS
    if width * height > MAX_PIXELS_OF_HUNGRY_DECODERS and (
        picture_format in ("webp", "avif") or (picture_format == "jpeg" and has_several_scans(content))
    ):
        limit = MAX_PIXELS_OF_HUNGRY_DECODERS
    if width * height > limit:
        raise InputRejected(
            "too_many_pixels",
            f"{width}×{height} is {width * height / 1e6:.0f} MP; the limit is {limit / 1e6:.0f} MP for this kind of "
            f"{picture_format}; send it smaller",
        )
    frames: int = getattr(image, "n_frames", 1)
    if frames > MAX_FRAMES:
        raise InputRejected("too_many_parts", f"it says it has {frames:,} frames; the limit is {MAX_FRAMES:,}")
    orientation = _orientation(image)
    if orientation >= 5:
        width, height = height, width
    return PictureHeader(
        format=picture_format,
        mime=f"image/{picture_format}",
        ext="jpg" if picture_format == "jpeg" else picture_format,
        width=width,
        height=height,
        frames=frames,
        mode=image.mode,
        has_alpha=image.has_transparency_data,
        is_upright=orientation == 1,
    )


def _orientation(image: ImageFile.ImageFile) -> int:
    """Read EXIF's orientation from the header; `getexif` would decode a PNG, and Pillow turns a TIFF by itself."""
    return 1 if isinstance(image, TiffImageFile) else exif_orientation(image.info.get("exif") or b"")


def _rgb(image: Image.Image, background: Background) -> Image.Image:
    if image.mode == "F":
        raise InputRejected("unsupported_format", "the picture holds floating-point pixels; convert it to JPEG")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGB", rgba.size, background)
        ground.paste(rgba, mask=rgba.getchannel("A"))
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 16-bit grey, some rows at a time; a plain conversion would clip everything above 255 to white."""
    scaled = np.empty(grey.shape, dtype=np.uint8)
    for top in range(0, len(grey), _GREY16_ROWS_AT_ONCE):
        rows = slice(top, top + _GREY16_ROWS_AT_ONCE)
        scaled[rows] = np.rint(np.clip(grey[rows], 0, 65535) / 257)
    return scaled


@contextmanager
def _rejecting(picture_format: str) -> Iterator[None]:
    """Turn whatever a decoder says of foreign bytes into one error."""
    try:
        yield
    except (InputRejected, TransientError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputRejected("too_many_pixels", f"the {picture_format} is too large: {error}") from error
    except Exception as error:
        if any(sign in str(error).lower() for sign in _SIGNS_OF_TRUNCATION):
            raise InputRejected("truncated", f"the {picture_format} picture is cut off; send it again") from error
        complaint = storable(str(error))[:_LONGEST_COMPLAINT]
        message = f"the {picture_format} picture is damaged ({complaint}); open it in an editor and save it again"
        raise InputRejected("decode_failed", message) from error
