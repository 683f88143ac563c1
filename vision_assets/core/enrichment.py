"""What is known of a post: the results of all its pictures in one row, as readers of `post_enrichment` expect it.

The first result is the base; texts, labels and barcodes of the others are merged in. A picture that has no result is
listed with its reason and holds nobody up.
What is not here: the results themselves (`analysis.py`) and the search document (`search.py`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import structlog

from vision_assets.core.errors import QuotaExceeded, StorageBusy, TransientError
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.reports import added
from vision_assets.core.storage import album_key
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import VisionResult

log = structlog.get_logger(__name__)

KIND = "vision"
PAGE_SIZE = 200
MAX_LABELS = 20

AGGREGATION_VERSION = "1"
"""Part of every row's `params_hash`: with another one, every post is aggregated anew."""

NO_ROOM = " without summary"
"""Behind the `params_hash` of an album whose summary the quota keeps out of S3."""

_HELD_UP = " without summary so far"


@dataclass(frozen=True, slots=True)
class PictureOfPost:
    """One picture of a post, in whatever state it is.

    Attributes:
        state: Of the reference: `stored`, `missing`, `rejected` …
        reason: Why there is no result, when there is none.
        result: None when there is none (yet).
        s3_key: Of the result; None when the quota kept it out of S3.
    """

    position: int
    state: str
    reason: str | None
    sha256: str | None
    result: VisionResult | None
    s3_key: str | None


@dataclass(frozen=True, slots=True)
class PostToEnrich:
    """A post whose pictures' states or results are not those that its row was made of.

    Attributes:
        params_hash: Of the present states and results; stored with the row.
        grouped_id: Of its album; None for a single picture.
    """

    post_id: UUID
    grouped_id: int | None
    params_hash: str
    pictures: tuple[PictureOfPost, ...]


@dataclass(frozen=True, slots=True)
class Enrichment:
    """A row of `post_enrichment`."""

    post_id: UUID
    provider: str
    params_hash: str
    data: dict[str, Any]
    status: str
    error: str | None


@dataclass(slots=True)
class EnrichmentReport:
    """What a pass did.

    Attributes:
        statuses: Posts by status: `ok`, `partial` (a picture has no full result), `error` (none has any).
        has_more: The pass ended at its limit, or the summary of an album is held up.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    albums: int = 0
    puts: int = 0
    put_bytes: int = 0
    failures: list[str] = field(default_factory=list)
    has_more: bool = False

    def __add__(self, later: "EnrichmentReport") -> "EnrichmentReport":
        """Tell of two passes as of one."""
        return added(self, later, has_more=later.has_more)


class EnrichmentLedger(Protocol):
    """The registry of enriched posts."""

    async def unenriched(
        self, tenant_id: TenantId, *, provider: str, model: str, after: int, limit: int, again: bool
    ) -> tuple[Sequence[PostToEnrich], int]:
        """List posts whose inputs changed, by seq after `after`; tell the seq of the last.

        Args:
            again: With albums whose summary had no room before.
        """
        ...

    async def record(self, tenant_id: TenantId, rows: Sequence[Enrichment]) -> None:
        """Write rows in one transaction; those of posts that were deleted meanwhile are left out."""
        ...


def merged(values: Iterable[str], *, limit: int | None = None) -> list[str]:
    """Put lists together: each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))[:limit]


def enrich(post: PostToEnrich, *, provider: str) -> Enrichment:
    """Aggregate the results of a post's pictures; pure."""
    seen = [picture for picture in post.pictures if picture.result is not None]
    results = [picture.result for picture in seen if picture.result is not None]
    data: dict[str, Any] = {
        "album_size": len(post.pictures),
        "media": [
            {
                "position": picture.position,
                "state": picture.state,
                "reason": picture.reason,
                "sha256": picture.sha256,
                "analysed": picture.result is not None,
            }
            for picture in post.pictures
        ],
    }
    without = [f"picture {p.position + 1}: {p.reason or p.state}" for p in post.pictures if p.result is None]
    error = "; ".join(without) or None
    if not results:
        data |= {"vision_labels_agg": [], "ocr_present": False, "s3_keys": {}, "s3_keys_list": []}
        return Enrichment(post.post_id, provider, post.params_hash, data, "error", error)
    base = results[0]
    labels = merged((label for result in results for label in result.analysis.labels), limit=MAX_LABELS)
    texts = merged(text for result in results if (text := result.analysis.ocr.text))
    keys = [picture for picture in seen if picture.s3_key]
    data |= base.analysis.model_dump(mode="json", exclude={"status", "measurement", "labels", "ocr"}) | {
        "classification": base.analysis.classification.kind,
        "classification_confidence": base.analysis.classification.confidence,
        "labels": labels,
        "ocr": base.analysis.ocr.model_dump(mode="json") | {"text": "\n".join(texts) or base.analysis.ocr.text},
        "ocr_text": "\n".join(texts) or None,
        "ocr_present": bool(texts),
        "is_meme": any(result.analysis.is_meme for result in results),
        "vision_labels_agg": labels,
        "nsfw_score": max((r.analysis.nsfw_score for r in results if r.analysis.nsfw_score is not None), default=None),
        "barcodes": merged(code.text for result in results for code in result.analysis.measurement.barcodes),
        "dominant_colors": base.analysis.measurement.dominant_colors,
        "s3_keys": {"image": keys[0].s3_key} if keys else {},
        "s3_keys_list": [
            {"sha256": p.sha256, "s3_key": p.s3_key, "analyzed_at": _iso(p.result.analyzed_at)}
            for p in keys
            if p.result is not None
        ],
        "provider": base.provenance.provider,
        "model": base.provenance.model,
        "schema_version": base.provenance.schema_version,
        "analysis_reason": base.analysis_reason,
        "analyzed_at": _iso(base.analyzed_at),
        "tokens_used": sum(result.analysis.tokens_used for result in results),
        "cost_microunits": sum(result.analysis.cost_microunits for result in results),
    }
    complete = not without and all(result.analysis.status == "ok" for result in results)
    return Enrichment(post.post_id, provider, post.params_hash, data, "ok" if complete else "partial", error)


def _iso(moment: datetime) -> str:
    return moment.isoformat()


@dataclass(slots=True)
class EnrichmentPass:
    """One pass over a tenant's posts with pictures.

    Attributes:
        since: Seq of the first post that may have changed; those before it are not looked at.
        limit: Posts at most. A pass with a limit leaves alone albums whose summary had no room before. None: all.
    """

    tenant_id: TenantId
    provider: str
    model: str
    quota: QuotaGuardedStore
    ledger: EnrichmentLedger
    since: int = 0
    limit: int | None = None
    report: EnrichmentReport = field(default_factory=EnrichmentReport)

    async def enrich_posts(self) -> EnrichmentReport:
        """Aggregate every post whose pictures' states or results changed; an album gets its summary in S3 too."""
        after, taken, is_full, is_cut_off = self.since - 1, 0, True, False
        while is_full and not is_cut_off:
            wanted = PAGE_SIZE if self.limit is None else min(PAGE_SIZE, self.limit - taken)
            page, after = await self.ledger.unenriched(
                self.tenant_id,
                provider=self.provider,
                model=self.model,
                after=after,
                limit=wanted,
                again=self.limit is None,
            )
            if not page:
                break
            taken += len(page)
            is_full, is_cut_off = len(page) == wanted, taken == self.limit
            rows = [row for post in page if (row := await self._row(post)) is not None]
            await self.ledger.record(self.tenant_id, rows)
            for row in rows:
                self.report.statuses[row.status] += 1
        self.report.has_more |= is_cut_off
        return self.report

    async def _row(self, post: PostToEnrich) -> Enrichment | None:
        row = enrich(post, provider=self.provider)
        if post.grouped_id is None:
            return row
        # Albums inferred from an export have no id of Telegram's own, so the post's id names the summary.
        key = album_key(self.tenant_id, post.post_id)
        body = json.dumps(row.data, ensure_ascii=False, sort_keys=True).encode()
        try:
            await self.quota.put(self.tenant_id, key, body, content_type="vision", mime="application/json")
        except (QuotaExceeded, StorageBusy) as error:
            log.warning("album.summary_blocked", post_id=str(post.post_id), reason=error.reason)
            # Another hash than the inputs' own: a later run comes by again.
            is_held_up = isinstance(error, StorageBusy)
            self.report.has_more |= is_held_up
            return replace(row, params_hash=row.params_hash + (_HELD_UP if is_held_up else NO_ROOM))
        except TransientError as error:
            log.exception("album.summary_failed", post_id=str(post.post_id), error_type=type(error).__name__)
            self.report.failures.append(f"{key}: {error}")
            return None
        self.report.albums += 1
        self.report.puts += 1
        self.report.put_bytes += len(body)
        row.data["album_summary_s3_key"] = key
        return row
