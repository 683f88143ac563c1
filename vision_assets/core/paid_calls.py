"""Calls that cost, made for one tenant by one pass: each under a hold, and each hold ended as what happened demands.

A denial, and a ledger that cannot be reached, count for a while: so a pass over many pictures asks seldom.
What is not here: the gate itself (`budget_gate.py`), and what comes before a call (`analysis.py`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from vision_assets.core.budget import Hold, TokenEstimate
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import (
    AnswerRefused,
    BudgetExceeded,
    CallDeferred,
    CallInFlight,
    ConfigurationError,
    DatabaseConflict,
    InputRejected,
    ProviderBudgetGone,
    ProviderUnavailable,
    TransientError,
    VisionAssetsError,
)
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import SCHEMA_VERSION, Analysis, Look, Measured, ProviderIdentity, VisionProvider

log = structlog.get_logger(__name__)

WAITS_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between two attempts at a call that somebody else makes, or for which no slot is free. Then it is deferred."""

REFUSED = "refused_by_provider"

REFUSALS_IN_SUCCESSION = 10
"""Without an answer between them: it is not for the pictures."""

_VERDICT_HOLDS = timedelta(seconds=30)


async def held_at(gate: BudgetGate, provider: ProviderIdentity) -> TokenEstimate:
    """Tell what a call is held at: as learned, and until then what the provider says, at least the floor.

    Raises:
        DatabaseUnavailable: Not known.
    """
    found = await gate.estimate(provider.name, provider.model, provider.fingerprint)
    if found.learned:
        return found
    return replace(found, tokens=max(found.tokens, provider.estimated_tokens or 0))


@dataclass(frozen=True, slots=True)
class _Closed:
    """No call is tried for a while.

    Attributes:
        until: When the next one is.
        reset_at: Of the exhausted budget; None: it is something else.
    """

    reason: str
    until: datetime
    reset_at: datetime | None = None


@dataclass(slots=True)
class PaidCalls:
    """What one pass spends.

    Attributes:
        estimate: What a call is held at; None before `begin`, or if the ledger could not be reached then.
    """

    gate: BudgetGate
    tenant_id: TenantId
    provider: VisionProvider
    estimate: TokenEstimate | None = None
    _closed: _Closed | None = None
    _granted: int = 0
    _refused: int = 0

    async def begin(self) -> bool:
        """Ask once before the pass: without room or ledger, no call is tried for a while, and what is free goes on.

        Returns:
            Whether the budget has room for a call.
        """
        try:
            await self.gate.sweep(self.tenant_id)
            found = await self.gate.check_budget(self.tenant_id, await self._learn())
        except DatabaseConflict:
            log.warning("budget.busy", outcome="asked before the first call", exc_info=True)
        except TransientError as error:
            self._unreachable(error)
        else:
            if found.reason is None:
                return True
            self._exhausted(found.reason, remaining_tokens=found.remaining_tokens, reset_at=found.reset_at)
        return False

    def check(self) -> None:
        """Tell without asking anybody whether a call may be tried.

        Raises:
            CallDeferred: It is known that it would be deferred.
        """
        if self._closed is not None:
            if self.gate.clock() < self._closed.until:
                raise CallDeferred(self._closed.reason, until=self._closed.reset_at)
            self._closed = None

    @asynccontextmanager
    async def ready(self, content: bytes, *, mime: str, measured: Measured | None) -> AsyncIterator[Look]:
        """Have one picture ready for its call, as `VisionProvider.ready`; its errors count as those of calls do."""
        async with AsyncExitStack() as stack:
            try:
                look = await stack.enter_async_context(self.provider.ready(content, mime=mime, measured=measured))
            except VisionAssetsError as error:
                if (told := self._heeded(error)) is error:
                    raise
                raise told from error
            yield look

    async def hold(self, sha256: str) -> Hold:
        """Hold one call about a picture; waits for a free slot, as long as this pass gets any.

        Raises:
            CallDeferred: Not now; the picture stays to do.
            CallInFlight: Somebody else makes the call; its result may be there in a moment.
            TooManyAttempts: Not any more.
        """
        waits, granted_before = iter(WAITS_SECONDS), self._granted
        while True:
            try:
                hold = await self._reserve(sha256)
            except BudgetExceeded as error:  # no slot is free
                if (wait_seconds := next(waits, None)) is None:
                    if self._granted == granted_before:
                        # As long as those may last that have the slots.
                        self._close(error.reason, lasting=self.gate.hold_life)
                        raise CallDeferred(error.reason) from error
                    waits, granted_before = iter(WAITS_SECONDS), self._granted
                    wait_seconds = next(waits)
                await self.gate.sleep(wait_seconds)
            else:
                self._granted += 1
                return hold

    async def _reserve(self, sha256: str) -> Hold:
        self.check()
        try:
            return await self.gate.reserve(
                self.tenant_id,
                provider=self.provider.name,
                model=self.provider.model,
                prompt=self.provider.fingerprint,
                estimated_tokens=await self._learn(),
                subject=f"{sha256}/{self.provider.name}/{self.provider.model}/v{SCHEMA_VERSION}",
            )
        except CallInFlight:
            raise
        except BudgetExceeded as error:
            if error.reason == "rate_limited":
                raise
            self._exhausted(error.reason, remaining_tokens=error.remaining_tokens, reset_at=error.reset_at)
            raise CallDeferred(error.reason, until=error.reset_at) from error
        except DatabaseConflict as error:
            raise CallDeferred("ledger_busy") from error
        except TransientError as error:
            raise CallDeferred(self._unreachable(error)) from error

    async def call(self, hold: Hold, look: Look) -> Analysis:
        """Have a picture looked at, in the first half of the hold's life; the second is for its answer.

        The hold stays, for `settle` or `release`, if there is an answer, or if it is clear that there will be none
        (InputRejected). Else what cannot have been billed is released, and what may have been is charged.

        Args:
            look: At the picture, for which the provider is ready.

        Raises:
            InputRejected: This picture can never be analysed; of its kinds, only AnswerRefused was billed.
            ConfigurationError, ProviderBudgetGone: No picture will be, as things are: further calls are deferred. The
                former also when one picture after the other is refused.
            ProviderUnavailable: Transient.
        """
        remaining = hold.expires_at - self.gate.hold_life / 2 - self.gate.clock()
        if remaining <= timedelta():
            await self.release(hold)
            raise ProviderUnavailable(f"No time is left to ask {self.provider.name}", sent=False)
        try:
            async with asyncio.timeout(remaining.total_seconds()):
                analysis = await look()
        except InputRejected as error:
            if (told := self._heeded(error)) is error:
                raise
            await self.release(hold)
            raise told from error
        except (ConfigurationError, ProviderBudgetGone) as error:
            self._heeded(error)
            await self.release(hold)
            raise
        except ProviderUnavailable as error:
            self._heeded(error)
            if error.tokens_used:
                await self.settle(hold, error.tokens_used + (hold.estimated_tokens if error.sent else 0))
            elif error.sent:
                await self._abandon(hold, error)
            else:
                await self.release(hold)
            raise
        except BaseException as error:
            await self._abandon(hold, error)
            if isinstance(error, TimeoutError):
                raise ProviderUnavailable(f"{self.provider.name} did not answer in time") from error
            raise
        self._refused = 0
        return analysis

    async def settle(self, hold: Hold, actual_tokens: int) -> None:
        """Charge what was billed. A ledger that cannot be reached charges the estimate when the hold expires."""
        try:
            if await self.gate.settle(hold, actual_tokens) is None:
                log.warning("budget.settled_before", actual_tokens=actual_tokens)
        except TransientError as error:
            log.warning("budget.not_settled", error_type=type(error).__name__, outcome="charged when it expires")

    async def release(self, hold: Hold) -> None:
        """End the hold of a call that was never sent."""
        try:
            await self.gate.release(hold)
        except TransientError as error:
            log.warning("budget.not_released", error_type=type(error).__name__, outcome="charged when it expires")

    async def _abandon(self, hold: Hold, error: BaseException) -> None:
        """Charge a call that may have been billed and gave no answer."""
        log.warning(
            "budget.charged_without_answer", estimated_tokens=hold.estimated_tokens, error_type=type(error).__name__
        )
        try:
            await self.gate.abandon(hold)
        except TransientError as failure:
            log.warning("budget.not_abandoned", error_type=type(failure).__name__, outcome="charged when it expires")

    def _heeded(self, error: VisionAssetsError) -> VisionAssetsError:
        """Take from an error of the provider's what it says of the calls to come.

        Returns:
            The error, or what it amounts to after those before it.
        """
        match error:
            case AnswerRefused():
                self._refused = 0
            case InputRejected(reason=reason) if reason == REFUSED:
                self._refused += 1
                if self._refused >= REFUSALS_IN_SUCCESSION:
                    self._close("provider_refuses", lasting=self.gate.hold_life, error_type=type(error).__name__)
                    return ConfigurationError(
                        f"{self.provider.name} {self.provider.model} refused {self._refused} pictures in succession, "
                        "so it may not see pictures at all, or not be asked in this way: check the model. The last "
                        f"refusal: {error}"
                    )
            case ConfigurationError() | ProviderBudgetGone():
                # No other picture will fare better, so one such error is enough.
                self._close("provider_refuses", lasting=self.gate.hold_life, error_type=type(error).__name__)
            case ProviderUnavailable(retry_after_seconds=seconds) if seconds:
                self._close("provider_busy", lasting=min(timedelta(seconds=seconds), self.gate.hold_life))
        return error

    async def _learn(self) -> int:
        self.estimate = await held_at(self.gate, self.provider)
        return self.estimate.tokens

    def _close(self, reason: str, *, lasting: timedelta = _VERDICT_HOLDS, **figures: object) -> None:
        log.warning("budget.blocked", reason=reason, **figures)
        self._closed = _Closed(reason, self.gate.clock() + lasting)

    def _exhausted(self, reason: str, *, remaining_tokens: int | None, reset_at: datetime | None) -> None:
        log.warning("budget.blocked", reason=reason, remaining_tokens=remaining_tokens, reset_at=str(reset_at))
        self._closed = _Closed(reason, self.gate.clock() + _VERDICT_HOLDS, reset_at)

    def _unreachable(self, error: TransientError) -> str:
        log.warning("budget.unreachable", error_type=type(error).__name__, outcome="no paid calls", exc_info=True)
        self._closed = _Closed("ledger_unavailable", self.gate.clock() + _VERDICT_HOLDS)
        return "ledger_unavailable"
