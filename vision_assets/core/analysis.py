"""How a stored picture gets its result: the exact one in S3, else a near-duplicate's, else the provider's.

What is not here: what counts as the same picture (`neighbours.py`, `reuse.py`), where results go (`results.py`), which
pictures are looked at (`policy.py`), and the budget of a provider that costs (`paid_calls.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from vision_assets.core.audit import Audit, differences, is_audited
from vision_assets.core.budget import Hold
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.durations import CALLS
from vision_assets.core.errors import (
    AnswerRefused,
    CallDeferred,
    CallInFlight,
    ConfigurationError,
    InputRejected,
    MediaMissing,
    PermanentError,
    ProviderBudgetGone,
    ProviderUnavailable,
    TransientError,
)
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.paid_calls import WAITS_SECONDS, PaidCalls
from vision_assets.core.policy import Decision, VisionPolicy, decide, rules_fingerprint
from vision_assets.core.price import TokenPrice
from vision_assets.core.results import Results
from vision_assets.core.reusing import Reusing
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import (
    Analysis,
    Look,
    VisionProvider,
    VisionResult,
)
from vision_assets.core.vision_ledger import Decided, Medium, Tally, ToDo, VisionLedger
from vision_assets.core.vision_report import VisionReport

log = structlog.get_logger(__name__)

PAGE_SIZE = 200

GIVE_UP_AFTER = 50
"""Pictures in succession whose work fails by a fault that is not theirs: something is down for all of them."""

MAX_CHARGED_ATTEMPTS = 8
"""Calls about one picture that are charged and bring no answer; then it is given up."""

_UNDER_WAY_PER_CALL = 4
_PUTS_AT_ONCE = 3
_READY_AHEAD = 2
_SOON = timedelta(minutes=6)  # a hold's life, and a little
_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=6)


def pause_after(attempts: int) -> timedelta:
    """Tell how long a picture waits after so many calls that were charged and brought no answer."""
    return min(_FIRST_PAUSE * 4.0 ** (attempts - 1), _LONGEST_PAUSE)


@dataclass(slots=True)
class VisionPass:
    """One pass over a tenant's pictures.

    Attributes:
        policy: Which pictures are looked at, and how far.
        gate: Before calls that cost; None will do for a provider whose calls cost nothing.
        local: Reads texts at no cost where the policy asks for no more; None: those pictures wait for the budget.
        concurrency: Calls to the provider at once.
        price: Of the provider's tokens; None: no result says what it cost.
        limit: Pictures at most, new ones first. A pass with a limit leaves alone what the quota keeps out of S3, and
            answers to earlier questions unless another was deferred, lest it never comes to what is new. None: all that
            are to do.
        on_progress: Called with the number of pictures done since the last call.
    """

    tenant_id: TenantId
    provider: VisionProvider
    store: ObjectStore
    quota: QuotaGuardedStore
    ledger: VisionLedger
    policy: VisionPolicy = field(default_factory=VisionPolicy)
    gate: BudgetGate | None = None
    local: VisionProvider | None = None
    concurrency: int = 2
    price: TokenPrice | None = None
    limit: int | None = None
    on_progress: Callable[[int], None] = lambda _: None
    report: VisionReport = field(default_factory=VisionReport)
    _calls: asyncio.Semaphore = field(init=False)
    _waiting: asyncio.Semaphore = field(init=False)
    _putting: asyncio.Semaphore = field(init=False)
    _paid: PaidCalls | None = field(init=False, default=None)
    _results: Results = field(init=False)
    _todo: ToDo | None = field(init=False, default=None)
    _under_way: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict)
    _decided: list[Decided] = field(init=False, default_factory=list)
    _reusing: Reusing = field(init=False)
    _tallied: Tally = field(init=False)
    _failed_in_succession: int = field(init=False, default=0)
    _taken: int = field(init=False, default=0)
    _overtaken: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._results = Results(self.tenant_id, self.provider, self.store, self.quota, self.ledger, self.report)
        self._reusing = Reusing(
            tenant_id=self.tenant_id,
            provider=self.provider,
            store=self.store,
            ledger=self.ledger,
            strictness=self.policy.strictness,
            results=self._results,
            report=self.report,
            under_way=self._under_way,
        )
        self._tallied = self.report.tally()
        self._calls = asyncio.Semaphore(self.concurrency)
        # While all calls are under way, some pictures are ready for the next ones; they are in memory, or uploaded.
        self._waiting = asyncio.Semaphore(self.concurrency + _READY_AHEAD)
        # Puts have the time of the calls that are under way meanwhile, and do not all come with the answers.
        self._putting = asyncio.Semaphore(_PUTS_AT_ONCE)
        if self.provider.estimated_tokens:
            if self.gate is None:
                raise ConfigurationError(
                    f"Calls to {self.provider.name} cost tokens, and no budget stands before them."
                )
            if self.local is None and self.policy.ocr_only.when == "always":
                raise ConfigurationError(
                    f"ocr_only.when is always: {self.provider.name} must not read texts, and nobody else is there to."
                )
            self._paid = PaidCalls(self.gate, self.tenant_id, self.provider)

    async def count(self) -> int:
        """Count the pictures that are to do, for the progress."""
        return await self.ledger.count_unanalysed(self.tenant_id, await self.begin())

    async def analyse_media(self) -> VisionReport:
        """Give every picture that is to do a result of this provider, or decide why it gets none.

        A bad picture becomes a dead letter; a transient fault leaves its picture to do and is reported. When one after
        the other fails, something is down for all of them, and the pass ends. What the budget does not let through is
        deferred, while cached and reused results go on.

        Raises:
            DatabaseUnavailable, DatabaseConflict: Transient; calls under way have ended before.
        """
        todo = await self.begin()
        await self._reusing.begin()
        room = asyncio.Semaphore(self.concurrency * _UNDER_WAY_PER_CALL)
        fault: TransientError | None = None
        async with asyncio.TaskGroup() as group:
            try:
                async for medium in self._media(todo):
                    await room.acquire()
                    # A task waits only for those that began before it, so never in a circle.
                    task = group.create_task(self._one(medium))
                    self._under_way[medium.sha256] = task
                    task.add_done_callback(partial(self._ended, medium.sha256, room))
            except TransientError as error:
                fault = error  # raised inside the group it would cancel calls that are paid for
        if fault is not None:
            raise fault
        await self._write_progress(todo)
        await self.ledger.forget_decisions(self.tenant_id, todo=todo)
        self.report.estimate = self._paid.estimate if self._paid else None
        # Pictures that all wait would be met again at once; each of them says when it is due, if its decision stands.
        is_cut_off = self._taken == self.limit and self.report.deferred.total() < self._taken
        self.report.has_more = is_cut_off or self._overtaken > 0
        return self.report

    def _ended(self, sha256: str, room: asyncio.Semaphore, _: asyncio.Task[None]) -> None:
        del self._under_way[sha256]
        room.release()

    async def begin(self) -> ToDo:
        """Ask the budget, once a pass, and tell what is to do."""
        if self._todo is None:
            self._todo = ToDo(
                provider=self.provider,
                rules=rules_fingerprint(self.policy, calls_cost=self._paid is not None),
                with_budget=self._paid is None or await self._paid.begin(),
                now=datetime.now(UTC),
            )
        return self._todo

    async def _media(self, todo: ToDo) -> AsyncIterator[Medium]:
        for part in (todo,) if self.limit is None else (replace(todo, part="new"), replace(todo, part="due")):
            async for medium in self._part(part):
                yield medium
            if self._taken == self.limit:
                return

    async def _part(self, todo: ToDo) -> AsyncIterator[Medium]:
        after = (-1, -1, "")
        has_more = True
        while has_more:
            wanted = PAGE_SIZE if self.limit is None else min(PAGE_SIZE, self.limit - self._taken)
            page = await self.ledger.unanalysed(self.tenant_id, todo, after=after, limit=wanted)
            self._taken += len(page)
            self.report.since = min([self.report.since, *(medium.order[0] for medium in page)])
            has_more = len(page) == wanted and self._taken != self.limit
            for medium in page:
                after = (*medium.order, medium.sha256)
                if self._failed_in_succession >= GIVE_UP_AFTER:
                    return
                yield medium
            if has_more:  # the pass writes what it has done in the end
                await self._write_progress(todo)

    async def _write_progress(self, todo: ToDo) -> None:
        """Write what was decided and counted since the last time; a pass that is killed before decides it again."""
        decided, self._decided = self._decided, []
        if decided:
            written = await self.ledger.record_decisions(self.tenant_id, decided, todo=todo)
            self._overtaken += len(decided) - written
        await self._reusing.write_progress()
        tally = self.report.tally()
        await self.ledger.record_progress(self.tenant_id, todo=todo, tally=tally - self._tallied)
        self._tallied = tally

    async def _one(self, medium: Medium) -> None:
        with structlog.contextvars.bound_contextvars(sha256=medium.sha256):
            try:
                await self._settled(medium)
            except Exception as error:
                log.exception("vision.failed", error_type=type(error).__name__)
                self._failed_in_succession += 1
                self.report.hopeless |= isinstance(error, PermanentError)
                self.report.failures.append(f"{medium.sha256}: {type(error).__name__}: {error}")
            else:
                self._failed_in_succession = 0
            finally:
                self.on_progress(1)

    async def _settled(self, medium: Medium) -> None:
        try:
            await self._result_of(medium)
        except InputRejected as error:
            await self._reject(medium, error)

    async def _reject(self, medium: Medium, error: InputRejected) -> None:
        log.warning("vision.rejected", reason=error.reason, error_type=type(error).__name__, exc_info=error)
        self.report.reasons[error.reason] += 1
        if isinstance(error, MediaMissing):
            await self.quota.verify(self.tenant_id, [(medium.s3_key, "media")])
            await self.ledger.record_object_lost(self.tenant_id, medium.sha256, error, stage="vision_results")
        else:
            self.report.count_error(error)
            billed_tokens = error.tokens_used if isinstance(error, AnswerRefused) else 0
            await self.ledger.record_error(
                self.tenant_id, medium, error, provider=self.provider, cost_microunits=self._cost(billed_tokens)
            )

    async def _result_of(self, medium: Medium) -> None:
        if medium.kept is not None:
            await self._results.put(medium, medium.kept, how="cache_hit")
            return
        if await self._results.restore(medium):
            return
        reuse = await self._reusing.decide(medium)
        donor = reuse.donor
        if donor is not None and donor.candidate.result is not None:
            if await self._is_audited(medium, donor.candidate.result):
                self._reusing.refuse(medium, reuse.without_donor("audited"))
            else:
                await self._reusing.take(medium, reuse, donor, donor.candidate.result)
            return
        self._reusing.refuse(medium, reuse)
        decision = self._decide(medium, quota_exhausted=False)
        if decision.verdict == "skip":
            self._tell(decision)
            self.report.reasons[decision.reason] += 1
            self._decided.append(Decided(medium, "skip", decision.reason, decision.message))
        elif decision.verdict == "ocr_only" and self.local is not None:
            await self._read_text(medium, decision, self.local)
        else:
            await self._ask_or_wait(medium, decision)

    async def _ask_or_wait(self, medium: Medium, decision: Decision) -> None:
        try:
            result = await self._asked(medium)
            if result is not None:
                await self._put_new(medium, result)
        except CallDeferred as error:
            await self._deferred(medium, error)
        except ProviderUnavailable as error:
            if not (error.sent or error.tokens_used):
                raise
            await self._charged_in_vain(medium, error)
        else:
            self._tell(decision)

    async def _asked(self, medium: Medium) -> VisionResult | None:
        """Have the provider look at a picture.

        Returns:
            The result, which is to be put; None: there is nothing left to do.
        """
        if self._paid is None:
            async with self._calls, self._ready(medium, self.provider) as look:
                began = time.monotonic()
                analysis = await look()
                return self._new(medium, analysis, took_seconds=time.monotonic() - began)
        async with self._waiting:
            self._paid.check()
            async with self._ready(medium, self._paid) as look:
                return await self._pay(medium, look, self._paid)

    async def _is_audited(self, medium: Medium, donor: VisionResult) -> bool:
        """For a share of the pictures that could take a result, ask the provider all the same; nothing waits for that.

        Returns:
            Whether the picture has an answer of its own.
        """
        decision = self._decide(medium, quota_exhausted=False)
        share, fingerprint = self.policy.reuse_audit_share, self.provider.fingerprint
        if decision.verdict != "analyse" or not is_audited(medium.sha256, fingerprint=fingerprint, share=share):
            return False
        try:
            result = await self._asked(medium)
        except (CallDeferred, ProviderUnavailable, ProviderBudgetGone, ConfigurationError) as error:
            log.info("reuse.not_audited", error_type=type(error).__name__, error=str(error))
            return False
        self._tell(decision)
        if result is not None:
            audit = Audit(medium.sha256, donor.sha256, differences(result.analysis, donor.analysis))
            log.info("reuse.audited", donor_sha256=donor.sha256, differences=audit.differences)
            self.report.audits[audit.outcome] += 1
            await self.ledger.record_audit(self.tenant_id, audit, provider=self.provider)
            await self._put_new(medium, result)
        return True

    async def _put_new(self, medium: Medium, result: VisionResult) -> None:
        async with self._putting:
            await self._results.put(medium, result, how="new")

    def _decide(self, medium: Medium, *, quota_exhausted: bool) -> Decision:
        return decide(
            self.policy,
            medium.sha256,
            medium.posts,
            quota_exhausted=quota_exhausted,
            calls_cost=self._paid is not None,
        )

    def _tell(self, decision: Decision) -> None:
        self.report.decisions[decision.verdict, decision.reason] += 1

    async def _deferred(self, medium: Medium, error: CallDeferred) -> None:
        """Let a picture wait, or read its text meanwhile if the budget is exhausted and the policy says so."""
        self.report.deferred[error.reason] += 1
        if error.until is None:
            due_at = datetime.now(UTC) + _SOON
            self._decided.append(
                Decided(medium, "defer", error.reason, str(error), due_at=due_at, attempts=medium.attempts)
            )
            return
        decision = self._decide(medium, quota_exhausted=True)
        if decision.verdict == "ocr_only" and self.local is not None:
            await self._read_text(medium, decision, self.local, until=error.until)
            return
        self._tell(decision)
        message = f"{error}: {decision.message}"
        self._decided.append(
            Decided(medium, "defer", error.reason, message, due_at=error.until, attempts=medium.attempts)
        )

    async def _charged_in_vain(self, medium: Medium, error: ProviderUnavailable) -> None:
        """Let a picture rest whose call was charged and brought no answer, longer each time; in the end it is given up.

        Raises:
            InputRejected: It was the last attempt.
        """
        attempts = medium.attempts + 1
        message = f"Call {attempts} of {MAX_CHARGED_ATTEMPTS} was charged and brought no answer: {error}"
        if attempts >= MAX_CHARGED_ATTEMPTS:
            raise InputRejected("provider_failed", message) from error
        log.warning("vision.charged_in_vain", attempts=attempts, error_type=type(error).__name__, exc_info=error)
        self.report.deferred["provider_failed"] += 1
        due_at = datetime.now(UTC) + pause_after(attempts)
        self._decided.append(Decided(medium, "defer", "provider_failed", message, due_at=due_at, attempts=attempts))

    async def _read_text(
        self, medium: Medium, decision: Decision, local: VisionProvider, *, until: datetime | None = None
    ) -> None:
        """Have a picture looked at by the local provider, at no cost; that stands for no answer of the provider itself.

        Args:
            until: When the provider is to look at it after all; None: not as long as the rules are these.
        """
        self._tell(decision)
        if not medium.has_stopgap:
            async with self._calls, self._ready(medium, local) as look:
                analysis = await look()
            result = self._results.make(medium, analysis, provider=local, method="fallback", reason="fallback")
            await self.ledger.record_fallback(self.tenant_id, result, provider=self.provider, reason=decision.reason)
            self.report.count(medium, result, method="fallback")
        self._decided.append(
            Decided(medium, "ocr_only", decision.reason, decision.message, due_at=until, attempts=medium.attempts)
        )

    @asynccontextmanager
    async def _ready(self, medium: Medium, looking: VisionProvider | PaidCalls) -> AsyncIterator[Look]:
        content = await self.store.get(medium.s3_key)
        if content is None:
            raise MediaMissing.in_storage(medium.s3_key)
        async with looking.ready(content, mime=medium.mime, measured=medium.measured) as look:
            yield look

    async def _pay(self, medium: Medium, look: Look, paid: PaidCalls) -> VisionResult | None:
        """Have a picture looked at for tokens, unless somebody else does or has done just now.

        Returns:
            The result, which stands in Postgres and is to be put; None: there is nothing left to do.
        """
        for wait_seconds in (*WAITS_SECONDS, None):
            try:
                async with self._calls:
                    return await self._pay_under(await paid.hold(medium.sha256), medium, look, paid)
            except CallInFlight as error:
                if wait_seconds is None:
                    raise CallDeferred("in_flight") from error
            await paid.gate.sleep(wait_seconds)
            if await self._results.restore(medium):
                break
        return None

    async def _pay_under(self, hold: Hold, medium: Medium, look: Look, paid: PaidCalls) -> VisionResult | None:
        # Who held this call before us has settled it after writing what came of it, so that is to be seen now.
        try:
            done = await self.ledger.is_analysed(self.tenant_id, medium.sha256, provider=self.provider)
        except BaseException:
            await paid.release(hold)
            raise
        if done:
            await paid.release(hold)
            return None
        began = time.monotonic()
        try:
            analysis = await paid.call(hold, look)
        except InputRejected as error:
            billed_tokens = error.tokens_used if isinstance(error, AnswerRefused) else None
            self.report.tokens += billed_tokens or 0
            try:
                await self._reject(medium, error)
            finally:
                await (paid.release(hold) if billed_tokens is None else paid.settle(hold, billed_tokens))
            return None
        result = self._new(medium, analysis, took_seconds=time.monotonic() - began)
        try:
            # What is paid for is durable before its hold ends; S3 need not be waited for.
            await self.ledger.record_result(self.tenant_id, result, s3_key=None, s3_bytes=None, reason="put_pending")
        except TransientError as error:
            log.warning("vision.not_recorded", error_type=type(error).__name__, outcome="put before its hold ends")
            # Nobody else can see it before it lies in S3, and would pay for it again.
            await self._put_new(medium, result)
            return None
        finally:
            await paid.settle(hold, analysis.tokens_used)
        return result

    def _new(self, medium: Medium, analysis: Analysis, *, took_seconds: float) -> VisionResult:
        self.report.analyses += 1
        self.report.tokens += analysis.tokens_used
        self.report.call_milliseconds += round(took_seconds * 1000)
        self.report.durations[CALLS.of(took_seconds)] += 1
        cost_microunits = self._cost(analysis.tokens_used)
        return self._results.make(medium, analysis.model_copy(update={"cost_microunits": cost_microunits}))

    def _cost(self, tokens: int) -> int:
        return 0 if self.price is None else self.price.microunits(tokens)
