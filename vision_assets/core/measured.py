"""What the pixels of a picture tell by themselves: found once, while it is decoded to be stored, and kept.

What is not here: how each figure is computed (`measurement.py`, `kind.py`).
"""

from PIL import Image

from vision_assets.core import kind, measurement
from vision_assets.core.vision import Measured

VERSION = f"{measurement.VERSION}.{kind.VERSION}"
"""With another one, a picture is measured anew when it is needed."""


def measured(image: Image.Image, *, size: tuple[int, int]) -> Measured:
    """Measure an upright RGB bitmap: CPU-bound, about 25 ms.

    Args:
        image: As `pictures.decode_upright` gives it, its longer edge at least `measurement.LEAST_EDGE` or whole.
        size: Width and height of the picture, which may have been decoded at a reduced size.
    """
    return Measured(
        version=VERSION,
        measurement=measurement.measure(image, size=size),
        kind=kind.classify(kind.look(image), None).kind,
    )
