"""Whose result a picture may take.

What is not here: what counts as the same picture (`neighbours.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vision_assets.core.neighbours import Fingerprint, distance_bits, same_picture
from vision_assets.core.vision import Analysis, Kind, VisionResult


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An earlier picture of the same tenant whose hash is near.

    Attributes:
        order: Of first appearance: (post_seq, position).
        result: Its own result of this provider at this fingerprint; None while it has none.
    """

    sha256: str
    order: tuple[int, int]
    fingerprint: Fingerprint
    result: VisionResult | None


def may_be_donor(analysis: Analysis) -> bool:
    """Decide whether a result may be given to a copy of its picture.

    Digits in a text (a price, a date, a clock) may differ where pictures look alike, so such a result stays its own.
    Without OCR nothing is known of the text: then only photographs are reused.
    """
    if analysis.ocr.status == "ok":
        return not any(character.isdigit() for character in analysis.ocr.text or "")
    return analysis.ocr.status == "unavailable" and analysis.classification.kind is Kind.PHOTO


def choose_donor(own: Fingerprint | None, neighbours: Sequence[Neighbour]) -> Neighbour | None:
    """Choose the earlier picture whose result a picture may take: the nearest, then the earliest.

    A donor's result is its own (no chains of reuse), and the two must be the same picture.

    Args:
        own: Of the picture; None when its hash is absent or must not be matched.
        neighbours: Of the same tenant, earlier than the picture.
    """
    if own is None:
        return None
    donors = [
        neighbour
        for neighbour in neighbours
        if neighbour.result is not None
        and neighbour.result.provenance.method == "new"
        and may_be_donor(neighbour.result.analysis)
        and same_picture(own, neighbour.fingerprint)
    ]
    return min(donors, key=lambda n: (distance_bits(own.phash, n.fingerprint.phash), n.order), default=None)
