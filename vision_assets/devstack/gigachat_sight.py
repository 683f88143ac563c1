"""What the emulated GigaChat can really tell of a picture: size, light, colour and a rule of thumb for its kind.

The same bytes always give the same answer. Nothing is claimed that is not in the pixels.
What does not belong here: the words (`gigachat_words.py`).
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Kind = Literal["photo", "meme", "document", "screenshot", "infographic", "other"]
Light = Literal["light", "dark"]
Colour = Literal[
    "black", "white", "grey", "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown"
]

MAX_IMAGE_TOKENS = 1792
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "TIFF": "image/tiff", "BMP": "image/bmp"}

_EDGE = 96
_MAX_PIXELS = 100_000_000
_PALETTE: dict[Colour, tuple[int, int, int]] = {
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "red": (205, 45, 45),
    "orange": (235, 140, 40),
    "yellow": (240, 220, 70),
    "green": (70, 150, 70),
    "cyan": (90, 200, 210),
    "blue": (60, 100, 200),
    "purple": (130, 70, 160),
    "pink": (240, 150, 190),
    "brown": (120, 80, 50),
}


class NotAPicture(Exception):
    """The bytes are not a picture of the formats that the API takes."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen.

    Attributes:
        mime: Of the four types that the API takes.
        colour: The commonest of twelve.
        contrast: Standard deviation of the brightness, 0–1.
        skin: Share of pixels of a skin's colour, 0–1.
    """

    mime: str
    width: int
    height: int
    kind: Kind
    colour: Colour
    light: Light
    contrast: float
    skin: float

    @property
    def tokens(self) -> int:
        """What the picture costs: a token for each 28×28 pixels, up to the API's bound."""
        return min(MAX_IMAGE_TOKENS, -(-self.width // 28) * -(-self.height // 28))


def look(content: bytes) -> Sight:
    """Look at a file: pure, a few ms of CPU for a photograph.

    Raises:
        NotAPicture: It cannot be decoded, is not of the four formats, or is far too big.
    """
    try:
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise NotAPicture(f"{width}×{height} pixels")
            mime = FORMATS[image.format or ""]
            image.draft("RGB", (_EDGE * 2, _EDGE * 2))
            small = image.convert("RGB").resize((_EDGE, _EDGE), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NotAPicture(str(error)) from error
    pixels = np.asarray(small, dtype=np.int32)
    grey = pixels.mean(axis=2) / 255
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return Sight(
        mime=mime,
        width=width,
        height=height,
        kind=_kind(pixels, grey, height / width),
        colour=_colour(pixels),
        light="light" if grey.mean() > 0.5 else "dark",
        contrast=round(float(grey.std()), 3),
        skin=round(float(((red > 95) & (red - green > 15) & (green > blue) & (red - blue < 130)).mean()), 3),
    )


def _colour(pixels: NDArray[np.int32]) -> Colour:
    # The distance to each colour without the pixel's own square, which is the same for all; exact in these floats.
    colours = np.array(list(_PALETTE.values()), dtype=np.float32)
    distances = (colours**2).sum(axis=1) - 2 * pixels.reshape(-1, 3).astype(np.float32) @ colours.T
    return list(_PALETTE)[int(np.bincount(distances.argmin(axis=1), minlength=len(colours)).argmax())]


def _kind(pixels: NDArray[np.int32], grey: NDArray[np.float64], tallness: float) -> Kind:
    """Guess the kind: much of one colour is drawn, little of it is photographed, white bands are captions."""
    bins = pixels[..., 0] >> 4 << 8 | pixels[..., 1] >> 4 << 4 | pixels[..., 2] >> 4
    common = np.bincount(bins.ravel()).max() / bins.size
    if common > 0.97:
        return "other"
    colourless = (pixels.max(axis=2) - pixels.min(axis=2)).max() < 24
    if colourless and common > 0.3:
        return "document"
    if common > 0.3:
        return "screenshot" if tallness > 1.5 else "infographic"
    edge = grey.shape[0] // 5
    white = grey > 0.9
    bands = max(white[:edge].mean(), white[-edge:].mean())
    return "meme" if bands > 0.03 and white[edge:-edge].mean() < bands / 3 else "photo"
