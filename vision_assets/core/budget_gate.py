"""The gate before every call that costs: asks the ledger, batches what this process asks at once, never leaks a hold.

What is not here: the decisions (`budget.py`), the batching itself (`coalescing.py`), and the calls (`analysis.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4

import structlog

from vision_assets.core.budget import (
    HOLD_LIFE,
    Answer,
    BudgetLedger,
    BudgetLimits,
    BudgetVerdict,
    Hold,
    HoldRequest,
    Outcome,
    Settled,
    Swept,
    TokenEstimate,
    Window,
    estimate,
    hold_of,
    verdict,
    window_keys,
)
from vision_assets.core.coalescing import Coalescer
from vision_assets.core.errors import TransientError
from vision_assets.core.tenants import TenantId

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

ESTIMATE_FLOOR_TOKENS = 1792
_ESTIMATE_KEPT = timedelta(seconds=60)
# A call waits for its hold, so that is given up soon. What was billed is worth waiting for a restart of the database.
_RESERVE_RETRIES_SECONDS = (0.05, 0.2)
_SETTLE_RETRIES_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class BudgetGate:
    """One a process and event loop; close it with `aclose`.

    Attributes:
        limits: Where the ledger has none of its own.
        estimate_floor_tokens: What a call is held at, at least.
        hold_life: A call must end sooner.
        clock: Aware UTC.
        sleep: Between two attempts to reach the ledger.
    """

    ledger: BudgetLedger
    limits: BudgetLimits
    estimate_floor_tokens: int = ESTIMATE_FLOOR_TOKENS
    hold_life: timedelta = HOLD_LIFE
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _reserving: Coalescer[tuple[HoldRequest, bool], Answer] = field(init=False)
    _settling: Coalescer[Outcome, Settled | None] = field(init=False)
    _estimates: dict[tuple[str, str, str], tuple[datetime, TokenEstimate]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._reserving = Coalescer(
            self._reserve_all, on_abandoned=lambda asked, answer: self._let_go(answer, asked[1])
        )
        self._settling = Coalescer(self._settle_all)

    async def check_budget(
        self, tenant_id: TenantId, estimated_tokens: int = ESTIMATE_FLOOR_TOKENS, *, provider: str | None = None
    ) -> BudgetVerdict:
        """Tell whether a call would be let through now; nothing is held. One round trip.

        Args:
            provider: Its calls at once count too; None leaves them out.

        Raises:
            DatabaseUnavailable: Not known.
        """
        return verdict(await self.windows(tenant_id, provider=provider), estimated_tokens)

    async def is_quota_exhausted(self, tenant_id: TenantId) -> bool:
        """Tell whether the tenant's or the global budget has no room for one more call of the floor's size.

        Raises:
            DatabaseUnavailable: Not known.
        """
        return not (await self.check_budget(tenant_id, self.estimate_floor_tokens)).allowed

    async def reserve(
        self,
        tenant_id: TenantId,
        *,
        provider: str,
        model: str,
        prompt: str,
        estimated_tokens: int,
        subject: str | None = None,
        hold_id: UUID | None = None,
    ) -> Hold:
        """Hold tokens and a call slot until the call settles. Cancelled or failed, it leaves no hold.

        Args:
            estimated_tokens: Upper bound of what the call may bill. More than is left is refused, never cut down.
            subject: What the call is about; only one hold at a time. None: nothing that another call could be about.
            hold_id: The same id again gets the same hold. Who chooses it may ask again, so a hold that nobody has
                seen is not released for him: it expires.

        Raises:
            BudgetExceeded: Nothing was held.
            CallInFlight: Somebody else holds the subject.
            TooManyAttempts: The subject's holds have expired too often.
            DatabaseUnavailable: Nothing may be called.
            DatabaseConflict: Nothing may be called; the next attempt may work.
        """
        ours = hold_id is None
        request = HoldRequest(hold_id or uuid4(), tenant_id, provider, model, prompt, estimated_tokens, subject)
        asked = self._reserving.submit((request, ours))
        try:
            answer = await asked
        except asyncio.CancelledError:
            # The answer may have come in the very moment of the cancellation.
            if not asked.cancelled() and asked.exception() is None:
                self._let_go(asked.result(), ours)
            raise
        if isinstance(answer, Hold):
            return answer
        raise answer

    async def settle(self, hold: Hold, actual_tokens: int) -> Settled | None:
        """Charge what the call was billed: in the hold's own windows, exactly once, even if the caller is cancelled.

        Args:
            actual_tokens: As billed, 0 or more; above the estimate it is charged all the same.

        Returns:
            None when the hold had ended before.

        Raises:
            DatabaseUnavailable: Not written, or not known; the hold is charged at its estimate when it expires.
            ValueError: A call cannot have billed less than nothing.
        """
        if actual_tokens < 0:
            raise ValueError(f"{actual_tokens} tokens for {hold.subject or hold.id}: no call bills less than nothing")
        return await self._settling.submit(Outcome(hold, actual_tokens))

    async def release(self, hold: Hold) -> Settled | None:
        """End a hold whose call was never sent: nothing is charged.

        Returns:
            None when the hold had ended before.

        Raises:
            DatabaseUnavailable: Not written, or not known; the hold is charged at its estimate when it expires.
        """
        return await self._settling.submit(Outcome(hold, None))

    async def abandon(self, hold: Hold) -> None:
        """End a hold whose call failed and may have been billed: it is charged at its estimate, its slot is free.

        Unlike a hold that expires it is no attempt without a trace, and the call may be made again at once.

        Raises:
            DatabaseUnavailable: Not written, or not known; the hold is charged at its estimate when it expires.
        """
        await self._retried(lambda: self.ledger.abandon([hold]), _SETTLE_RETRIES_SECONDS)

    async def sweep(self, tenant_id: TenantId | None = None) -> Swept:
        """Charge expired holds at their estimates, of one tenant or of all."""
        return await self.ledger.sweep(now=self.clock(), tenant_id=tenant_id)

    async def lost(self, tenant_id: TenantId, *, within: timedelta) -> Swept:
        """Tell what a tenant was charged of late for calls that ended without a trace, whoever charged it."""
        now = self.clock()
        await self.ledger.sweep(now=now, tenant_id=tenant_id)
        return await self.ledger.lost(tenant_id, since=now - within)

    async def windows(self, tenant_id: TenantId, *, provider: str | None = None) -> Sequence[Window]:
        """Read the present day's and month's windows, the tenant's and the global ones, with the limits in force.

        Args:
            provider: Adds its calls under way.
        """
        return await self.ledger.windows(
            window_keys(tenant_id, self.clock().date(), provider=provider), limits=self.limits
        )

    async def estimate(self, provider: str, model: str, prompt: str) -> TokenEstimate:
        """Tell what a call takes at most, learned from settled calls; kept for a minute."""
        now = self.clock()
        kept = self._estimates.get((provider, model, prompt))
        if kept is not None and abs(now - kept[0]) < _ESTIMATE_KEPT:
            return kept[1]
        counts = await self.ledger.token_counts(provider=provider, model=model, prompt=prompt)
        found = estimate(counts, floor_tokens=self.estimate_floor_tokens)
        self._estimates[provider, model, prompt] = now, found
        return found

    async def aclose(self) -> None:
        """Wait until all that was asked, settled and let go is written."""
        try:
            await self._reserving.drain()
        finally:
            await self._settling.drain()

    async def _reserve_all(self, asked: Sequence[tuple[HoldRequest, bool]]) -> Sequence[Answer]:
        requests = [request for request, _ in asked]
        now = self.clock()
        until = now + self.hold_life
        try:
            return await self._retried(
                lambda: self.ledger.reserve(requests, limits=self.limits, now=now, until=until),
                _RESERVE_RETRIES_SECONDS,
            )
        except (TransientError, asyncio.CancelledError):
            # The database may have written the holds before it, or the loop, went away; nobody knows of them but us.
            for request, ours in asked:
                self._let_go(hold_of(request, day=now.date(), until=until), ours)
            raise

    async def _settle_all(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | None]:
        return await self._retried(lambda: self.ledger.settle(outcomes), _SETTLE_RETRIES_SECONDS)

    async def _retried(self, act: Callable[[], Awaitable[Result]], delays_seconds: Sequence[float]) -> Result:
        for delay in delays_seconds:
            try:
                return await act()
            except TransientError:
                await self.sleep(delay)
        return await act()

    def _let_go(self, answer: Answer, ours: bool) -> None:
        """Release in the background what nobody waits for any more. Should that fail, the hold expires."""
        if ours and isinstance(answer, Hold):
            self._settling.submit(Outcome(answer, None)).add_done_callback(partial(_note_failure, answer))


def _note_failure(hold: Hold, released: "asyncio.Future[Settled | None]") -> None:
    if not released.cancelled() and (error := released.exception()) is not None:
        log.warning(
            "budget.hold_left",
            hold_id=str(hold.id),
            tenant_id=str(hold.tenant_id),
            subject=hold.subject,
            error_type=type(error).__name__,
            outcome="charged when it expires",
        )
