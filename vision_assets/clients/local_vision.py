"""The provider that works offline and costs nothing: measurements, rules for the kind, Tesseract for the text.

It says only what it measured: no description, no scene, no objects, and safety stays unknown.
What is not here: how each part is computed (`core/pictures.py`, `core/measurement.py`, `core/kind.py`, `tesseract.py`).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from PIL import Image

from vision_assets.clients.tesseract import Tesseract
from vision_assets.core.kind import Appearance, classify, look
from vision_assets.core.measurement import measure
from vision_assets.core.pictures import PictureHeader, decode_upright, probe
from vision_assets.core.vision import Analysis, Classification, Kind, Look, Measured, Measurement, Ocr

log = structlog.get_logger(__name__)

# Raise it whenever a rule, a threshold or a pass changes: results of another fingerprint are computed anew.
_CODE_VERSION = 1
# A large JPEG is decoded at a fraction of its size, but stays sharp enough to be read.
_DECODE_EDGE = 2560
_BLURRED_BELOW = 25.0


class LocalVision:
    """A `VisionProvider` without network. Made by `open`.

    Attributes:
        name: Part of the S3 key.
        model: Part of the S3 key.
        fingerprint: Of this code, Tesseract's version and its languages.
        estimated_tokens: None: it costs nothing.
    """

    name = "local"
    model = f"rules-{_CODE_VERSION}"
    estimated_tokens = None

    def __init__(self, tesseract: Tesseract, *, threads: int) -> None:
        self._tesseract = tesseract
        # One slot holds one bitmap, one thread and at most one Tesseract.
        self._slots = asyncio.Semaphore(threads)
        ocr = tesseract.unavailable or tesseract.engine
        self.fingerprint = hashlib.sha256(f"{self.name} {self.model} {ocr}".encode()).hexdigest()[:16]

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, languages: str = "rus+eng", threads: int = 2, command: str = "tesseract"
    ) -> AsyncIterator["LocalVision"]:
        """Look for Tesseract, once; without it the provider works all the same, and every result is `partial`.

        Args:
            languages: As Tesseract takes them, joined by `+`.
            threads: Pictures looked at simultaneously; the others wait.
            command: Name or path of Tesseract.
        """
        tesseract = await Tesseract.find(languages=languages, command=command)
        if tesseract.unavailable is not None:
            log.warning("ocr.unavailable", reason=tesseract.unavailable)
        yield cls(tesseract, threads=threads)

    @asynccontextmanager
    async def ready(
        self,
        content: bytes,
        *,
        mime: str,  # noqa: ARG002 - the content says it better
        measured: Measured | None = None,
    ) -> AsyncIterator[Look]:
        """Have one picture ready to be looked at; all work is left to the look.

        Raises:
            InputRejected: By the look: the bytes are not a picture that can be decoded.
        """
        yield partial(self._look, content, measured)

    async def _look(self, content: bytes, measured: Measured | None) -> Analysis:
        """Look at one picture; it is decoded once, and measured while Tesseract reads."""
        async with self._slots:
            header, image = await asyncio.to_thread(_decode, content)
            # A group, because `gather` returns from a cancellation before Tesseract has been killed.
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(asyncio.to_thread(_look_at, header, image, measured))
                reading_text = group.create_task(self._tesseract.read(image))
        facts, reading = looking.result(), reading_text.result()
        classification = classify(facts.appearance, reading.words)
        return Analysis(
            status="ok" if reading.ocr.status == "ok" else "partial",
            classification=classification,
            is_meme=classification.kind == Kind.MEME,
            labels=_labels(header, facts, classification, reading.ocr),
            ocr=reading.ocr,
            measurement=facts.measurement,
        )


@dataclass(frozen=True, slots=True)
class _Facts:
    measurement: Measurement
    appearance: Appearance


def _decode(content: bytes) -> tuple[PictureHeader, Image.Image]:
    return probe(content), decode_upright(content, max_edge=_DECODE_EDGE)


def _look_at(header: PictureHeader, image: Image.Image, measured: Measured | None) -> _Facts:
    measurement = measured.measurement if measured else measure(image, size=(header.width, header.height))
    return _Facts(measurement, look(image))


def _labels(header: PictureHeader, facts: _Facts, classification: Classification, ocr: Ocr) -> list[str]:
    formats = {barcode.format for barcode in facts.measurement.barcodes}
    qr_codes = {name for name in formats if "QR" in name}
    conditions = {
        "text": bool(ocr.text),
        "qr code": bool(qr_codes),
        "barcode": bool(formats - qr_codes),
        # A drawing or a blank sheet has few edges too, and is not blurred.
        "blurred": classification.kind == Kind.PHOTO and facts.measurement.blur < _BLURRED_BELOW,
        "monochrome": facts.appearance.monochrome,
        "animated": header.frames > 1 and header.format != "tiff",
    }
    return [str(classification.kind), *(label for label, holds in conditions.items() if holds)]
