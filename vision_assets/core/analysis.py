"""How a stored picture gets its result: the exact one in S3, else a near-duplicate's, else the provider's.

What is not here: what counts as the same picture (`neighbours.py`), what a result is (`vision.py`), and the budget of a
provider that costs (`paid_calls.py`).
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import structlog

from vision_assets.core.budget import Hold, TokenEstimate
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import (
    AnswerRefused,
    CallDeferred,
    CallInFlight,
    ConfigurationError,
    InputRejected,
    MediaMissing,
    PermanentError,
    QuotaExceeded,
    StorageBusy,
    StorageUnavailable,
)
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.neighbours import Fingerprint, distance_bits, same_picture
from vision_assets.core.paid_calls import WAITS_SECONDS, PaidCalls
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import (
    SCHEMA_VERSION,
    Analysis,
    Kind,
    Provenance,
    VisionProvider,
    VisionResult,
    vision_key,
)

log = structlog.get_logger(__name__)

PAGE_SIZE = 200
THUMBNAILS_KEPT = 24


@dataclass(frozen=True, slots=True)
class Medium:
    """A stored picture that has no result of this provider at this fingerprint, or none in S3.

    Attributes:
        order: Of first appearance: (post_seq, position). Donors come earlier, so a repeated run decides alike.
        fingerprint: None when its hash is absent or must not be matched.
        kept: Its result of this provider at this fingerprint, which the quota has kept out of S3 so far.
    """

    sha256: str
    mime: str
    s3_key: str
    order: tuple[int, int]
    fingerprint: Fingerprint | None
    kept: VisionResult | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An earlier picture of the same tenant whose hash is near.

    Attributes:
        result: Its own result of this provider at this fingerprint; None while it has none.
    """

    sha256: str
    order: tuple[int, int]
    fingerprint: Fingerprint
    result: VisionResult | None


@dataclass(frozen=True, slots=True)
class Looked:
    """One picture for the report: its thumbnail and what was said of it."""

    sha256: str
    thumbnail: bytes | None
    width: int
    height: int
    kind: Kind
    labels: tuple[str, ...]
    method: str


@dataclass(slots=True)
class VisionReport:
    """What a pass did.

    Attributes:
        methods: Results by how they came: `new`, `cache_hit`, `near_duplicate`.
        statuses: Results by status: `ok`, `partial`, `error`.
        kinds: Results by kind of picture.
        deferred: Calls that the budget did not let through, by reason; the pictures stay to do.
        estimate: What a call was held at; None: calls cost nothing, or the ledger could not be reached.
        failures: Faults that are no picture's own; the pictures stay to do.
        hopeless: One of them will not pass by itself.
    """

    methods: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    deferred: Counter[str] = field(default_factory=Counter)
    estimate: TokenEstimate | None = None
    analyses: int = 0
    puts: int = 0
    put_bytes: int = 0
    tokens: int = 0
    failures: list[str] = field(default_factory=list)
    hopeless: bool = False
    looked: list[Looked] = field(default_factory=list)


class VisionLedger(Protocol):
    """The registry of results."""

    async def count_unanalysed(self, tenant_id: TenantId, *, provider: VisionProvider) -> int:
        """Count the pictures that are to do, for the progress."""
        ...

    async def unanalysed(
        self, tenant_id: TenantId, *, provider: VisionProvider, after: tuple[int, int, str], limit: int
    ) -> Sequence[Medium]:
        """List pictures without a result of this provider at this fingerprint in S3, after (order, sha256)."""
        ...

    async def earlier_neighbours(
        self, tenant_id: TenantId, medium: Medium, *, provider: VisionProvider
    ) -> Sequence[Neighbour]:
        """List this tenant's pictures within the radius that appeared earlier, nearest first, and may be donors."""
        ...

    async def record_result(
        self,
        tenant_id: TenantId,
        result: VisionResult,
        *,
        how: str,
        s3_key: str | None,
        s3_bytes: int | None,
        reason: str | None,
    ) -> None:
        """Write a result.

        Args:
            how: What this pass did for it, for the counters: `new`, `cache_hit` or `near_duplicate`.
            s3_key: None when the quota kept it out of S3; `reason` says so.
        """
        ...

    async def record_error(
        self, tenant_id: TenantId, medium: Medium, error: InputRejected, *, provider: VisionProvider
    ) -> None:
        """Write that a picture can never be analysed, with its dead letter."""
        ...

    async def record_object_lost(self, tenant_id: TenantId, sha256: str, error: MediaMissing, *, stage: str) -> None:
        """Forget a picture whose object is gone from S3, so that its references are to do again."""
        ...

    async def is_analysed(self, tenant_id: TenantId, sha256: str, *, provider: VisionProvider) -> bool:
        """Tell whether there is a result, or an error, of this provider at this fingerprint."""
        ...

    async def record_deferred(self, tenant_id: TenantId, reasons: Mapping[str, int]) -> None:
        """Count calls that the budget did not let through."""
        ...


def may_be_donor(analysis: Analysis) -> bool:
    """Decide whether a result may be given to a copy of its picture.

    Digits in a text (a price, a date, a clock) may differ where pictures look alike, so such a result stays its own.
    Without OCR nothing is known of the text: then only photographs are reused.
    """
    if analysis.ocr.status == "ok":
        return not any(character.isdigit() for character in analysis.ocr.text or "")
    return analysis.ocr.status == "unavailable" and analysis.classification.kind is Kind.PHOTO


def choose_donor(medium: Medium, neighbours: Sequence[Neighbour]) -> Neighbour | None:
    """Choose the earlier picture whose result the medium may take: the nearest, then the earliest.

    A donor's result is its own (no chains of reuse), and the two must be the same picture.
    """
    own = medium.fingerprint
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


@dataclass(slots=True)
class VisionPass:
    """One pass over a tenant's pictures.

    Attributes:
        gate: Before calls that cost; None will do for a provider whose calls cost nothing.
        concurrency: Pictures fetched and given to the provider at once.
        on_progress: Called with the number of pictures done since the last call.
    """

    tenant_id: TenantId
    provider: VisionProvider
    store: ObjectStore
    quota: QuotaGuardedStore
    ledger: VisionLedger
    gate: BudgetGate | None = None
    concurrency: int = 2
    on_progress: Callable[[int], None] = lambda _: None
    report: VisionReport = field(default_factory=VisionReport)
    _calls: asyncio.Semaphore = field(init=False)
    _paid: PaidCalls | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._calls = asyncio.Semaphore(self.concurrency)
        if self.provider.estimated_tokens:
            if self.gate is None:
                raise ConfigurationError(
                    f"Calls to {self.provider.name} cost tokens, and no budget stands before them."
                )
            self._paid = PaidCalls(self.gate, self.tenant_id, self.provider)

    async def analyse_media(self) -> VisionReport:
        """Give every picture that has none a result of this provider.

        A bad picture becomes a dead letter; a transient fault leaves its picture to do and is reported. When a whole
        page fails, something is down for all of them, and the pass ends. What the budget does not let through stays to
        do too, while cached and reused results go on.
        """
        if self._paid is not None:
            await self._paid.begin()
        after = (-1, -1, "")
        while page := await self.ledger.unanalysed(
            self.tenant_id, provider=self.provider, after=after, limit=PAGE_SIZE
        ):
            after = (*page[-1].order, page[-1].sha256)
            failed_before = len(self.report.failures)
            under_way: dict[str, asyncio.Task[None]] = {}
            async with asyncio.TaskGroup() as group:
                for medium in page:
                    # A task waits only for pictures that appeared earlier, so never in a circle.
                    under_way[medium.sha256] = group.create_task(self._one(medium, under_way))
            if len(self.report.failures) - failed_before == len(page):
                break
        if self.report.deferred:
            await self.ledger.record_deferred(self.tenant_id, self.report.deferred)
        self.report.estimate = self._paid.estimate if self._paid else None
        return self.report

    async def _one(self, medium: Medium, under_way: dict[str, asyncio.Task[None]]) -> None:
        with structlog.contextvars.bound_contextvars(sha256=medium.sha256):
            try:
                await self._settled(medium, under_way)
            except Exception as error:
                log.exception("vision.failed", error_type=type(error).__name__)
                self.report.hopeless |= isinstance(error, PermanentError)
                self.report.failures.append(f"{medium.sha256}: {type(error).__name__}: {error}")
            finally:
                self.on_progress(1)

    async def _settled(self, medium: Medium, under_way: dict[str, asyncio.Task[None]]) -> None:
        try:
            await self._result_of(medium, under_way)
        except CallDeferred as error:
            self.report.deferred[error.reason] += 1
        except InputRejected as error:
            await self._reject(medium, error)

    async def _reject(self, medium: Medium, error: InputRejected) -> None:
        log.warning("vision.rejected", reason=error.reason, error_type=type(error).__name__, exc_info=error)
        self.report.reasons[error.reason] += 1
        if isinstance(error, MediaMissing):
            await self.quota.verify(self.tenant_id, [(medium.s3_key, "media")])
            await self.ledger.record_object_lost(self.tenant_id, medium.sha256, error, stage="vision_results")
        else:
            self.report.statuses["error"] += 1
            await self.ledger.record_error(self.tenant_id, medium, error, provider=self.provider)

    async def _result_of(self, medium: Medium, under_way: dict[str, asyncio.Task[None]]) -> None:
        if medium.kept is not None:
            await self._put(medium, medium.kept, how="cache_hit")
            return
        if await self._take_from_cache(medium):
            return
        neighbours: Sequence[Neighbour] = ()
        if medium.fingerprint is not None:
            neighbours = await self.ledger.earlier_neighbours(self.tenant_id, medium, provider=self.provider)
            if waiting := [under_way[n.sha256] for n in neighbours if n.result is None and n.sha256 in under_way]:
                await asyncio.wait(waiting)
                neighbours = await self.ledger.earlier_neighbours(self.tenant_id, medium, provider=self.provider)
        donor = choose_donor(medium, neighbours)
        if donor is not None and donor.result is not None:
            log.info("vision.near_duplicate", donor_sha256=donor.sha256)
            await self._keep(medium, donor.result.analysis, donor=donor)
            return
        if self._paid is None:
            async with self._calls:
                analysis = await self.provider.analyze(await self._content(medium), mime=medium.mime)
            await self._keep_new(medium, analysis)
        else:
            await self._pay(medium, self._paid)

    async def _content(self, medium: Medium) -> bytes:
        content = await self.store.get(medium.s3_key)
        if content is None:
            raise MediaMissing(f"{medium.s3_key} is not in S3 any more; the next run stores it again from its source")
        return content

    async def _pay(self, medium: Medium, paid: PaidCalls) -> None:
        """Have a picture looked at for tokens, unless somebody else does or has done just now."""
        for wait_seconds in (*WAITS_SECONDS, None):
            try:
                async with self._calls:
                    await self._pay_under(await paid.hold(medium.sha256), medium, paid)
                return
            except CallInFlight as error:
                if wait_seconds is None:
                    raise CallDeferred("in_flight") from error
            await paid.gate.sleep(wait_seconds)
            if await self._take_from_cache(medium):
                return

    async def _pay_under(self, hold: Hold, medium: Medium, paid: PaidCalls) -> None:
        # Who held this call before us has settled it after writing what came of it, so that is to be seen now.
        try:
            done = await self._take_from_cache(medium) or await self.ledger.is_analysed(
                self.tenant_id, medium.sha256, provider=self.provider
            )
        except BaseException:
            await paid.release(hold)
            raise
        if done:
            await paid.release(hold)
            return
        try:
            analysis = await paid.call(hold, lambda: self._content(medium), mime=medium.mime)
        except InputRejected as error:
            billed_tokens = error.tokens_used if isinstance(error, AnswerRefused) else None
            self.report.tokens += billed_tokens or 0
            try:
                await self._reject(medium, error)
            finally:
                await (paid.release(hold) if billed_tokens is None else paid.settle(hold, billed_tokens))
            return
        try:
            await self._keep_new(medium, analysis)
        finally:
            await paid.settle(hold, analysis.tokens_used)

    async def _keep_new(self, medium: Medium, analysis: Analysis) -> None:
        self.report.analyses += 1
        self.report.tokens += analysis.tokens_used
        await self._keep(medium, analysis)

    async def _take_from_cache(self, medium: Medium) -> bool:
        """Restore the row of a result that lies in S3 already, as after a crash between the put and the row."""
        key = self._key(medium)
        body = await self.store.get(key)
        if body is None:
            return False
        try:
            result = VisionResult.from_gzip(body)
        except ValueError as error:
            log.warning(
                "vision.cache_unreadable", s3_key=key, error_type=type(error).__name__, error=str(error), exc_info=True
            )
            return False
        if result.provenance.fingerprint != self.provider.fingerprint:
            return False
        await self.ledger.record_result(
            self.tenant_id, result, how="cache_hit", s3_key=key, s3_bytes=len(body), reason=None
        )
        self._count(medium, result, method="cache_hit")
        return True

    async def _keep(self, medium: Medium, analysis: Analysis, *, donor: Neighbour | None = None) -> None:
        own = medium.fingerprint
        if donor is not None and own is not None:
            # The picture's own size; everything else is the donor's.
            measured = analysis.measurement.model_copy(update={"width": own.width, "height": own.height})
            analysis = analysis.model_copy(
                update={"measurement": measured, "tokens_used": 0, "cost_microunits": 0, "file_id": None}
            )
        result = VisionResult(
            sha256=medium.sha256,
            tenant_id=str(self.tenant_id),
            media_s3_key=medium.s3_key,
            analysis=analysis,
            provenance=Provenance(
                provider=self.provider.name,
                model=self.provider.model,
                fingerprint=self.provider.fingerprint,
                method="new" if donor is None else "near_duplicate",
                donor_sha256=donor.sha256 if donor else None,
                distance_bits=distance_bits(own.phash, donor.fingerprint.phash) if donor and own else None,
            ),
            analysis_reason="new" if donor is None else "cache_hit",
            analyzed_at=datetime.now(UTC),
        )
        await self._put(medium, result, how=result.provenance.method)

    async def _put(self, medium: Medium, result: VisionResult, *, how: str) -> None:
        key: str | None = self._key(medium)
        body = result.to_gzip()
        reason, fault = None, None
        try:
            await self.quota.put(
                self.tenant_id, str(key), body, content_type="vision", mime="application/json", encoding="gzip"
            )
            self.report.puts += 1
            self.report.put_bytes += len(body)
        except (QuotaExceeded, StorageBusy) as error:
            # What was paid for is kept in Postgres; each run tries the put again.
            key, reason = None, error.reason
            self.report.reasons[reason] += 1
        except StorageUnavailable as error:
            key, reason, fault = None, "storage_unavailable", error
        await self.ledger.record_result(
            self.tenant_id, result, how=how, s3_key=key, s3_bytes=len(body) if key else None, reason=reason
        )
        if fault is not None:
            raise fault
        self._count(medium, result, method=how)

    def _key(self, medium: Medium) -> str:
        return vision_key(
            self.tenant_id,
            medium.sha256,
            provider=self.provider.name,
            model=self.provider.model,
            schema_version=SCHEMA_VERSION,
        )

    def _count(self, medium: Medium, result: VisionResult, *, method: str) -> None:
        kind = result.analysis.classification.kind
        self.report.methods[method] += 1
        self.report.statuses[result.analysis.status] += 1
        self.report.kinds[kind] += 1
        if len(self.report.looked) < THUMBNAILS_KEPT:
            measurement = result.analysis.measurement
            self.report.looked.append(
                Looked(
                    sha256=medium.sha256,
                    thumbnail=medium.fingerprint.thumbnail if medium.fingerprint else None,
                    width=measurement.width,
                    height=measurement.height,
                    kind=kind,
                    labels=tuple(result.analysis.labels),
                    method=method,
                )
            )
