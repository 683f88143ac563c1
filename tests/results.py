"""Vision results for tests of what is done with them."""

from datetime import UTC, datetime
from typing import Any, Literal

from vision_assets.core.vision import (
    Analysis,
    Barcode,
    Classification,
    Kind,
    Measurement,
    Ocr,
    Provenance,
    VisionProvider,
    VisionResult,
)

MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)


async def seen_by(provider: VisionProvider, content: bytes, *, mime: str = "image/jpeg") -> Analysis:
    """Have a provider look at one picture."""
    async with provider.ready(content, mime=mime) as look:
        return await look()


def result(
    sha256: str,
    *,
    kind: Kind = Kind.PHOTO,
    text: str | None = None,
    ocr_status: Literal["ok", "unavailable", "failed"] = "ok",
    labels: tuple[str, ...] = ("photo",),
    barcodes: tuple[str, ...] = (),
    method: Literal["new", "near_duplicate", "fallback"] = "new",
    **analysis: Any,
) -> VisionResult:
    """A result with the given findings."""
    return VisionResult(
        sha256=sha256,
        tenant_id="00000000-0000-0000-0000-000000000001",
        media_s3_key=f"media/{sha256}.jpg",
        analysis=Analysis(
            status="ok" if ocr_status == "ok" else "partial",
            classification=Classification(kind=kind, confidence=0.7, method="rules"),
            is_meme=kind is Kind.MEME,
            labels=list(labels),
            ocr=Ocr(status=ocr_status, text=text if ocr_status == "ok" else None, engine="test"),
            measurement=Measurement(
                width=640,
                height=480,
                dominant_colors=["#102030"],
                blur=10.0,
                barcodes=[Barcode(format="QRCode", text=code) for code in barcodes],
            ),
            **analysis,
        ),
        provenance=Provenance(provider="local", model="rules-1", fingerprint="f", method=method),
        analysis_reason="new",
        analyzed_at=MOMENT,
    )
