"""What each rule says of two pictures: the hash alone, the thumbnails, the pixels, and the texts.

The functions are those of the core. What is not here: the pictures, and how often each rule is right (`reuse.py`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from vision_assets.clients.local_vision import LocalVision
from vision_assets.core.detail import compare_files
from vision_assets.core.media import examine
from vision_assets.core.neighbours import RADIUS_BITS, Fingerprint, compare, distance_bits, keeps_text
from vision_assets.core.reuse import why_no_donor
from vision_assets.core.vision import Analysis, Kind


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is stored.

    Attributes:
        kind: What its pixels alone tell.
    """

    content: bytes
    fingerprint: Fingerprint
    is_flagged: bool
    kind: Kind


class Verdict(NamedTuple):
    """Which rules take two pictures for one, or the first one's result for the other.

    Attributes:
        hash: The 64-bit hash lies within the radius.
        normal: Hashes, aspect, and thumbnails within 12 of 255.
        strict: Hashes, aspect, and thumbnails within 8 of 255.
        normal_in_detail: Normal, and the pixels agree.
        strict_in_detail: Strict, and the pixels agree.
        by_text: Normal, and the donor's text allows it.
        reused: Normal, the pixels agree, the donor's text allows it, and can be seen in the smaller of the two.
        without_ocr: Normal, the pixels agree, the donor is a photograph, and a text could be seen in the smaller one.
    """

    hash: bool = False
    normal: bool = False
    strict: bool = False
    normal_in_detail: bool = False
    strict_in_detail: bool = False
    by_text: bool = False
    reused: bool = False
    without_ocr: bool = False


def picture(content: bytes) -> Picture:
    """Take a picture in, as the pass over the media does."""
    header, hashed, found = examine(content)
    fingerprint = Fingerprint(hashed.phash, hashed.phash256, hashed.thumbnail, header.width, header.height)
    return Picture(content, fingerprint, bool(hashed.flags), found.kind)


@dataclass(slots=True)
class Judge:
    """Judges pairs; the text of a picture is read when it is asked for, and once."""

    vision: LocalVision
    _analyses: dict[bytes, Analysis] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["Judge"]:
        """Open with the local provider, which reads with Tesseract."""
        async with LocalVision.open(threads=1) as vision:
            yield cls(vision)

    async def judge(self, donor: Picture, other: Picture) -> Verdict:
        """Tell what each rule says of an earlier and a later picture."""
        own, their = donor.fingerprint, other.fingerprint
        if donor.is_flagged or other.is_flagged or distance_bits(own.phash, their.phash) > RADIUS_BITS:
            return Verdict()
        likeness = compare(own, their)
        if likeness.exceeds("normal"):
            return Verdict(hash=True)
        strict, in_detail = not likeness.exceeds("strict"), compare_files(donor.content, other.content).agrees
        analysis = await self._analysed(donor)
        is_by_text, is_legible = why_no_donor(analysis) is None, keeps_text(own, their)
        return Verdict(
            hash=True,
            normal=True,
            strict=strict,
            normal_in_detail=in_detail,
            strict_in_detail=strict and in_detail,
            by_text=is_by_text,
            reused=is_by_text and in_detail and (is_legible or not analysis.ocr.text),
            without_ocr=in_detail and is_legible and donor.kind is Kind.PHOTO,
        )

    async def _analysed(self, picture: Picture) -> Analysis:
        if picture.content not in self._analyses:
            async with self.vision.ready(picture.content, mime="") as look:
                self._analyses[picture.content] = await look()
        return self._analyses[picture.content]
