"""Small pictures inside documents that need no other file, as data URIs. What is not here: the documents."""

import base64
import io

from PIL import Image

from vision_assets.core.phash import THUMBNAIL_EDGE
from vision_assets.core.pictures import decode_upright


def luma_uri(thumbnail: bytes, *, width: int, height: int, long_edge: int) -> str:
    """Give the stored thumbnail of a picture in the picture's proportions.

    Args:
        thumbnail: 64×64 luma, row by row.
        width: Of the picture.
        height: Of the picture.
        long_edge: Pixels of the result.
    """
    luma = Image.frombytes("L", (THUMBNAIL_EDGE, THUMBNAIL_EDGE), thumbnail)
    scale = long_edge / max(width, height)
    return _webp_uri(luma.resize((max(1, round(width * scale)), max(1, round(height * scale)))), quality=60)


def picture_uri(content: bytes, *, long_edge: int) -> str:
    """Give a picture, upright and scaled down.

    Args:
        content: The file as it came.
        long_edge: Pixels of the result, at most.

    Raises:
        InputRejected: It is not a picture that can be used.
    """
    image = decode_upright(content, max_edge=long_edge)
    image.thumbnail((long_edge, long_edge))
    return _webp_uri(image, quality=75)


def _webp_uri(image: Image.Image, *, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
