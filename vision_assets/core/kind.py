"""What sort of picture it is, by rules over a few figures of the bitmap and the words that OCR found.

The thresholds come from looking at some 150 photographs, captioned photographs, pages, screens and charts. "Meme" means
an image macro here: a photograph with large captions at its top or bottom.
What is not here: measurements that are facts (`measurement.py`), and reading the words (`clients/`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vision_assets.core.measurement import scaled_down
from vision_assets.core.vision import Classification, Kind

METHOD = "rules"

VERSION = 1
"""Raise it whenever a rule or a threshold changes; and that of `clients/local_vision.py`, which looks at more."""

_EDGE = 512
_BLOCK = 8


@dataclass(frozen=True, slots=True)
class Word:
    """A word that OCR found.

    Attributes:
        text: As read.
        confidence: 0–1.
        left: Share of the picture's width, 0–1.
        top: Share of the picture's height, 0–1.
        width: Share of the picture's width.
        height: Share of the picture's height.
    """

    text: str
    confidence: float
    left: float
    top: float
    width: float
    height: float

    @property
    def letters(self) -> int:
        """Letters and digits in the word."""
        return sum(map(str.isalnum, self.text))


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """The figures that the rules look at. Those with a grid have a value for each 8×8 block at 512 px.

    Attributes:
        tallness: Height by width.
        concentration: Share of the commonest colour, of 4,096.
        entropy_bits: Of the brightness in 64 levels: under 3 drawn, over 4 photographed, mostly.
        light: Share of bright pixels.
        colourful: Share of pixels with a strong colour.
        monochrome: Nothing but greys.
        flat: Grid: the block is one brightness.
        hard: Grid: share of the block's pixels at a hard edge, as lettering and drawing have.
        soft: Grid: share of the block's pixels at a soft edge, as nature has.
    """

    tallness: float
    concentration: float
    entropy_bits: float
    light: float
    colourful: float
    monochrome: bool
    flat: NDArray[np.bool_]
    hard: NDArray[np.float64]
    soft: NDArray[np.float64]


def look(image: Image.Image) -> Appearance:
    """Compute the figures of an upright RGB bitmap: pure, about 5 ms of CPU."""
    small = scaled_down(image, _EDGE)
    pixels = np.asarray(small)
    luma = np.asarray(small.convert("L")).astype(np.int16)
    red, green, blue = (pixels[:, :, channel].astype(np.int16) >> 4 for channel in range(3))
    chroma = _across(np.maximum, pixels) - _across(np.minimum, pixels)
    levels = np.bincount(luma.ravel() >> 2, minlength=64) / luma.size
    used = levels[levels > 0]
    gradient = np.zeros_like(luma)
    gradient[:, 1:] = np.abs(np.diff(luma, axis=1))
    gradient[1:] = np.maximum(gradient[1:], np.abs(np.diff(luma, axis=0)))
    return Appearance(
        tallness=image.height / image.width,
        concentration=float(np.bincount((red << 8 | green << 4 | blue).ravel()).max() / luma.size),
        entropy_bits=float(-(used * np.log2(used)).sum()),
        light=float((luma > 200).mean()),
        colourful=float((chroma > 48).mean()),
        monochrome=bool((chroma >= 12).mean() < 0.01),
        flat=_of_blocks(np.maximum, luma) - _of_blocks(np.minimum, luma) <= 6,
        hard=_share_of_blocks(gradient >= 64),
        soft=_share_of_blocks((gradient >= 6) & (gradient < 32)),
    )


def classify(appearance: Appearance, words: Sequence[Word] | None) -> Classification:
    """Tell the kind.

    Args:
        appearance: Of the bitmap.
        words: As OCR found them, with boxes; None where no OCR ran, and then confidence is lower still.
    """
    kind, confidence = _decide(appearance, words)
    return Classification(kind=kind, confidence=confidence, method=METHOD)


def _decide(seen: Appearance, words: Sequence[Word] | None) -> tuple[Kind, float]:
    covered = _covered(seen.flat.shape, words or ())
    natural = _is_natural(seen, ~covered)
    if words is None:
        if natural:
            return Kind.PHOTO, 0.6
        return (Kind.SCREENSHOT, 0.35) if seen.tallness >= 1.7 else (Kind.OTHER, 0.3)

    edged = seen.hard > 0.02
    # Of all lettering and drawing, how much is text: nearly all of a page, little of a chart.
    text_share = float((edged & covered).sum() / max(1, edged.sum()))
    page_of_text = len(words) >= 12 and text_share >= 0.7
    # The lines of a table are drawing too.
    table = len(words) >= 40 and text_share >= 0.4
    if (page_of_text or table) and seen.colourful < 0.008 and seen.light >= 0.2:
        return Kind.DOCUMENT, 0.7
    return (_of_natural if natural else _of_drawn)(seen, words, text_share)


def _of_natural(seen: Appearance, words: Sequence[Word], text_share: float) -> tuple[Kind, float]:
    if len(words) >= 40 or (len(words) >= 20 and text_share >= 0.6 and seen.colourful < 0.1):
        return Kind.DOCUMENT, 0.5
    if _has_captions(words, seen.tallness):
        return Kind.MEME, 0.6
    return Kind.PHOTO, 0.65 if words else 0.8


def _of_drawn(seen: Appearance, words: Sequence[Word], text_share: float) -> tuple[Kind, float]:
    count = len(words)
    if count < 6:
        return Kind.OTHER, 0.5
    of_a_phone = seen.tallness >= 1.6
    wordy = count >= 35 and text_share >= 0.3
    dark = count >= 10 and seen.light < 0.4 and seen.colourful < 0.3
    mostly_text = count >= 10 and text_share >= 0.7 and seen.colourful < 0.1
    if of_a_phone or wordy or dark or mostly_text:
        return Kind.SCREENSHOT, 0.55
    return Kind.INFOGRAPHIC, 0.5


def _is_natural(seen: Appearance, uncovered: NDArray[np.bool_]) -> bool:
    """Tell a photograph from a drawing by what the text leaves free."""
    if not uncovered.any():
        return False
    hard, soft = seen.hard[uncovered].sum(), seen.soft[uncovered].sum()
    hardness = hard / (hard + soft + 1e-3)
    if seen.entropy_bits >= 3 and seen.concentration < 0.5 and hardness < 0.4:
        return True
    # The moon, a brick wall: few tones, but grain everywhere.
    grainy = seen.flat[uncovered].mean() < 0.5
    return bool(seen.entropy_bits >= 2.5 and grainy and hardness < 0.1)


def _has_captions(words: Sequence[Word], tallness: float) -> bool:
    """Tell whether large words stand at the top or the bottom, and not mainly between: signs stand in the middle."""
    # Against the shorter edge, so that a tall picture does not make its captions small.
    large = [word for word in words if word.letters >= 2 and word.height * max(tallness, 1) >= 0.03]
    outside = sum(word.letters for word in large if not 0.35 < word.top + word.height / 2 < 0.65)
    return outside >= 4 and outside >= 0.6 * sum(word.letters for word in large)


def _covered(shape: tuple[int, ...], words: Sequence[Word]) -> NDArray[np.bool_]:
    rows, columns = shape
    covered = np.zeros((rows, columns), dtype=np.bool_)
    for word in words:
        top, bottom = word.top * rows - 0.5, (word.top + word.height) * rows + 0.5
        left, right = word.left * columns - 0.5, (word.left + word.width) * columns + 0.5
        covered[max(0, int(top)) : int(np.ceil(bottom)), max(0, int(left)) : int(np.ceil(right))] = True
    return covered


def _across(ufunc: np.ufunc, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce the three channels; numpy is slow along so short an axis."""
    combined: NDArray[np.uint8] = ufunc(ufunc(pixels[:, :, 0], pixels[:, :, 1]), pixels[:, :, 2])
    return combined


def _of_blocks(ufunc: np.ufunc, values: NDArray[np.generic]) -> NDArray[Any]:
    """Reduce each 8×8 block, rows first: numpy is slow along short axes. Under 8 px the edge is repeated."""
    short = [(0, max(0, _BLOCK - length)) for length in values.shape]
    if any(after for _, after in short):
        values = np.pad(values, short, mode="edge")
    rows, columns = values.shape[0] // _BLOCK, values.shape[1] // _BLOCK
    whole = values[: rows * _BLOCK, : columns * _BLOCK]
    lines = ufunc.reduce(whole.reshape(rows, _BLOCK, columns * _BLOCK), axis=1)
    reduced: NDArray[Any] = ufunc.reduce(lines.reshape(rows, columns, _BLOCK), axis=2)
    return reduced


def _share_of_blocks(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    share: NDArray[np.float64] = _of_blocks(np.add, mask.astype(np.uint8)) / _BLOCK**2
    return share
