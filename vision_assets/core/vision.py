"""What a vision result is (schema 1.0) and what a provider must offer.

What is not here: the order of cache, reuse and call (`analysis.py`), and any provider (`clients/`).
"""

import gzip
import json
import string
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from vision_assets.core.tenants import TenantId

SCHEMA_VERSION = "1.0"

_KEY_CHARACTERS = frozenset(string.ascii_letters + string.digits + ".-")

ProviderName = Literal["local", "gigachat", "openai"]
"""Part of the S3 key; `openai` is whatever speaks as OpenAI's API does."""

Label = Annotated[str, StringConstraints(min_length=1, to_lower=True, strip_whitespace=True)]


class Kind(StrEnum):
    """What sort of picture it is."""

    PHOTO = "photo"
    MEME = "meme"
    DOCUMENT = "document"
    SCREENSHOT = "screenshot"
    INFOGRAPHIC = "infographic"
    OTHER = "other"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ocr(_Value):
    """The text that stands in the picture.

    Attributes:
        status: `ok` (the engine ran; an empty text means there is none), `unavailable` (no engine ran)
            or `failed` (the engine broke off).
        text: Recognised text, or None unless `status` is `ok`.
        engine: Name and version of the engine.
        confidence: Mean word confidence, 0–1; None where there is no text, or where the engine tells none.
        reason: Why there is no text when `status` is not `ok`, and what to do.
    """

    status: Literal["ok", "unavailable", "failed"]
    text: str | None = None
    engine: str | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    reason: str | None = None


class Barcode(_Value):
    """A QR code or barcode and what it says."""

    format: str
    text: str


class Measurement(_Value):
    """What is computed from the pixels, whoever the provider is; never taken from a model.

    Attributes:
        width: Pixels, upright (EXIF orientation applied).
        height: Pixels, upright.
        dominant_colors: At most 5, `#rrggbb`, most frequent first.
        blur: Variance of the Laplacian at 512 px; low means blurred.
        barcodes: QR codes and barcodes found.
    """

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    dominant_colors: list[str] = Field(max_length=5)
    blur: float = Field(ge=0)
    barcodes: list[Barcode]


class Measured(_Value):
    """What the pixels of a picture tell by themselves, before anybody has looked at it.

    Attributes:
        version: Of the rules that found it.
        kind: As the rules tell it without reading a word.
    """

    version: str
    measurement: Measurement
    kind: Kind


class Classification(_Value):
    """The kind of picture.

    Attributes:
        kind: One of the six kinds.
        confidence: 0–1, as modest as the method deserves; None where the method tells none.
        method: What decided: `rules` or a model's name.
    """

    kind: Kind
    confidence: float | None = Field(ge=0, le=1)
    method: str


class Analysis(_Value):
    """What a provider answers about one picture. Whatever it does not know is None or empty, never invented.

    Attributes:
        status: `partial` when a part (OCR, say) could not be had.
        description: At least 5 characters; None where the provider writes none.
        nsfw_score: 0–1, None where unknown.
        aesthetic_score: 0–1, None where unknown.
        tokens_used: As billed by the provider; 0 for a local one.
        cost_microunits: Millionths of the billing currency.
        file_id: The provider's id of the upload, if there was one.
    """

    status: Literal["ok", "partial"]
    classification: Classification
    description: Annotated[str, StringConstraints(min_length=5)] | None = None
    is_meme: bool
    labels: list[Label] = Field(max_length=20)
    objects: list[str] = Field(default_factory=list, max_length=10)
    scene: str | None = None
    ocr: Ocr
    nsfw_score: float | None = Field(default=None, ge=0, le=1)
    aesthetic_score: float | None = Field(default=None, ge=0, le=1)
    measurement: Measurement
    tokens_used: int = Field(default=0, ge=0)
    cost_microunits: int = Field(default=0, ge=0)
    file_id: str | None = None


class Provenance(_Value):
    """Where a result comes from.

    Attributes:
        fingerprint: Of provider code, prompt and policy; another one means: do it again.
        method: `new`, or `near_duplicate` of `donor_sha256`.
        distance_bits: From the donor, of 64.
        distance_256_bits: The same, of 256.
        cell_difference: From the donor: the largest of one of 64×64 luma cells, of 255.
    """

    provider: str
    model: str
    schema_version: str = SCHEMA_VERSION
    fingerprint: str
    method: Literal["new", "near_duplicate", "fallback"]
    donor_sha256: str | None = None
    distance_bits: int | None = None
    distance_256_bits: int | None = None
    cell_difference: float | None = None


class VisionResult(_Value):
    """One result of one picture; `to_document` is its form in S3 and Postgres.

    Attributes:
        media_s3_key: Of the picture itself.
    """

    sha256: str
    tenant_id: str
    media_s3_key: str
    analysis: Analysis
    provenance: Provenance
    analysis_reason: Literal["new", "retry", "cache_hit", "fallback", "skipped"]
    analyzed_at: datetime

    def to_document(self) -> dict[str, Any]:
        """Lay the result out flat, by the names of schema 1.0 that other readers know."""
        document = self.model_dump(mode="json")
        analysis, provenance = document.pop("analysis"), document.pop("provenance")
        classification, measurement = analysis.pop("classification"), analysis.pop("measurement")
        return {
            "schema_version": provenance.pop("schema_version"),
            "provider": provenance.pop("provider"),
            "model": provenance.pop("model"),
            "sha256": document["sha256"],
            "tenant_id": document["tenant_id"],
            **analysis,
            "classification": classification.pop("kind"),
            "classification_details": classification,
            "dominant_colors": measurement.pop("dominant_colors"),
            "context": measurement,
            "s3_keys": {"image": document["media_s3_key"]},
            "analysis_reason": document["analysis_reason"],
            "analyzed_at": document["analyzed_at"],
            "provenance": provenance,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "VisionResult":
        """Read what `to_document` laid out.

        Raises:
            ValueError: It is not a result of this schema.
        """
        try:
            analysis = {name: document[name] for name in Analysis.model_fields if name in document}
            analysis["classification"] = {"kind": document["classification"], **document["classification_details"]}
            analysis["measurement"] = {"dominant_colors": document["dominant_colors"], **document["context"]}
            identity = {name: document[name] for name in ("schema_version", "provider", "model")}
            return cls.model_validate(
                {
                    "analysis": analysis,
                    "provenance": {**identity, **document["provenance"]},
                    "media_s3_key": document["s3_keys"]["image"],
                    **{name: document[name] for name in ("sha256", "tenant_id", "analysis_reason", "analyzed_at")},
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a result of schema {SCHEMA_VERSION}: {error!r}") from error

    def to_gzip(self) -> bytes:
        """Encode for S3; the same result gives the same bytes (no time stamp in the gzip header)."""
        return gzip.compress(json.dumps(self.to_document(), ensure_ascii=False).encode(), compresslevel=6, mtime=0)

    @classmethod
    def from_gzip(cls, body: bytes) -> "VisionResult":
        """Decode what `to_gzip` wrote.

        Raises:
            ValueError: The bytes are damaged, or not a result of this schema.
        """
        try:
            return cls.from_document(json.loads(gzip.decompress(body)))
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"damaged gzip: {error}") from error


Look: TypeAlias = Callable[[], Awaitable[Analysis]]
"""Looks at one picture that is ready for it, once."""


class ProviderIdentity(Protocol):
    """Who looks at pictures, as far as it is known without a connection.

    Attributes:
        name: Part of the S3 key: lower case, no `_`.
        model: Part of the S3 key, where what no key should hold is escaped.
        fingerprint: Changes whenever the same picture may get another answer.
        estimated_tokens: What a call takes at most, as long as nothing is learned; None: calls cost nothing.
    """

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def estimated_tokens(self) -> int | None: ...


class VisionProvider(ProviderIdentity, Protocol):
    """Something that looks at one picture."""

    def ready(
        self, content: bytes, *, mime: str, measured: Measured | None = None
    ) -> AbstractAsyncContextManager[Look]:
        """Have one picture ready to be looked at, as long as the block runs. Nothing is billed before the look itself.

        Args:
            content: The file as it is stored.
            mime: As sniffed from the content.
            measured: Of this content, by the present rules; None: it is measured now.

        Raises:
            InputRejected: At once or by the look: this picture can never be analysed; nothing was billed.
            AnswerRefused: By the look: it was, and was billed.
            ProviderUnavailable: Transient. It tells whether this attempt may have been billed.
            ProviderBudgetGone, ConfigurationError: No picture will be looked at, as things are.
        """
        ...


def vision_key(
    tenant_id: TenantId, sha256: str, *, provider: str, model: str, schema_version: str = SCHEMA_VERSION
) -> str:
    """Name the S3 object of a result; the form is a contract with other readers.

    A model's name may hold anything. All but letters, digits, dots and hyphens stands as `!` and two hex digits a byte,
    so that no two models share a key.
    """
    safe = "".join(chr(byte) if chr(byte) in _KEY_CHARACTERS else f"!{byte:02x}" for byte in model.encode())
    return f"vision/{tenant_id}/{sha256}_{provider}_{safe}_v{schema_version}.json"
