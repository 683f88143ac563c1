"""The budget's books in memory, for tests of the gate. The real ones stand in `clients/postgres/budget.py`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from vision_assets.core.budget import (
    EXPIRED_KEPT,
    TOKENS_STEP,
    Allowance,
    Answer,
    BudgetLimits,
    Hold,
    HoldRequest,
    Known,
    Outcome,
    Period,
    Settled,
    Swept,
    Window,
    WindowKey,
    admit,
    window_keys,
)
from vision_assets.core.errors import BudgetExceeded, CallInFlight
from vision_assets.core.tenants import TenantId


@dataclass(slots=True)
class MemoryBudget:
    """Implements `BudgetLedger` in one process.

    Attributes:
        holds: Live and expired ones, with whether they have expired.
        limits: Set in the ledger; they go before those of the gate.
    """

    holds: dict[UUID, tuple[Hold, bool]] = field(default_factory=dict)
    limits: dict[tuple[TenantId, Period], Allowance] = field(default_factory=dict)
    _windows: dict[WindowKey, Window] = field(default_factory=dict)
    _counts: defaultdict[tuple[str, str, str], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    async def reserve(
        self, requests: Sequence[HoldRequest], *, limits: BudgetLimits, now: datetime, until: datetime
    ) -> Sequence[Answer]:
        """See the Protocol."""
        answers = self._decide(requests, limits, now, until)
        if any(_waits_for_others(answer) for answer in answers) and (await self.sweep(now=now)).holds:
            answers = self._decide(requests, limits, now, until)
        return answers

    def _decide(
        self, requests: Sequence[HoldRequest], limits: BudgetLimits, now: datetime, until: datetime
    ) -> Sequence[Answer]:
        keys = {key for r in requests for key in window_keys(r.tenant_id, now.date(), provider=r.provider)}
        of_subjects = [
            ((hold.tenant_id, hold.subject), hold, expired)
            for hold, expired in self.holds.values()
            if hold.subject is not None
        ]
        known = Known(
            by_id=self.holds,
            live={subject: hold.expires_at for subject, hold, expired in of_subjects if not expired},
            expired=Counter(subject for subject, _, expired in of_subjects if expired),
        )
        windows = {key: self._window(key, limits) for key in keys}
        answers, new = admit(requests, windows, known, day=now.date(), until=until)
        for hold in new:
            self.holds[hold.id] = hold, False
            self._move(hold, held_tokens=hold.estimated_tokens, held_requests=1)
        return answers

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | None]:
        """See the Protocol."""
        return [self._settle(outcome) for outcome in outcomes]

    def _settle(self, outcome: Outcome) -> Settled | None:
        found = self.holds.pop(outcome.hold.id, None)
        if found is None:
            return None
        hold, expired = found
        estimated, actual = hold.estimated_tokens, outcome.actual_tokens or 0
        calls = 0 if outcome.actual_tokens is None else 1
        overrun = max(actual - estimated, 0)
        if expired:
            self._move(
                hold,
                used_tokens=actual - estimated,
                used_requests=calls - 1,
                phantom_tokens=-estimated,
                overrun_tokens=overrun,
            )
        else:
            self._move(
                hold,
                used_tokens=actual,
                used_requests=calls,
                held_tokens=-estimated,
                held_requests=-1,
                overrun_tokens=overrun,
            )
        if actual:
            self._counts[hold.provider, hold.model, hold.prompt][-(-actual // TOKENS_STEP) * TOKENS_STEP] += 1
        return Settled(actual, expired)

    async def abandon(self, holds: Sequence[Hold]) -> None:
        """See the Protocol."""
        for hold, expired in [self.holds[hold.id] for hold in holds if hold.id in self.holds]:
            if not expired:
                self._expire(hold)
            self.holds[hold.id] = hold._replace(subject=None, attempt=0), True

    async def lost(self, tenant_id: TenantId, *, since: datetime) -> Swept:
        """See the Protocol."""
        lost = [
            hold
            for hold, expired in self.holds.values()
            if expired and hold.attempt and hold.tenant_id == tenant_id and hold.expires_at > since
        ]
        return Swept(len(lost), sum(hold.estimated_tokens for hold in lost))

    async def sweep(self, *, now: datetime, tenant_id: TenantId | None = None) -> Swept:
        """See the Protocol."""
        overdue = [
            hold
            for hold, expired in self.holds.values()
            if not expired and hold.expires_at <= now and tenant_id in (None, hold.tenant_id)
        ]
        for hold in overdue:
            self._expire(hold)
        for hold, expired in list(self.holds.values()):
            if expired and hold.expires_at < now - EXPIRED_KEPT:
                del self.holds[hold.id]
        return Swept(len(overdue), sum(hold.estimated_tokens for hold in overdue))

    def _expire(self, hold: Hold) -> None:
        self.holds[hold.id] = hold, True
        self._move(
            hold,
            used_tokens=hold.estimated_tokens,
            used_requests=1,
            held_tokens=-hold.estimated_tokens,
            held_requests=-1,
            phantom_tokens=hold.estimated_tokens,
        )

    async def windows(self, keys: Sequence[WindowKey], *, limits: BudgetLimits) -> Sequence[Window]:
        """See the Protocol."""
        return [self._window(key, limits) for key in keys]

    async def token_counts(self, *, provider: str, model: str, prompt: str) -> Mapping[int, int]:
        """See the Protocol."""
        return dict(self._counts[provider, model, prompt])

    def _window(self, key: WindowKey, limits: BudgetLimits) -> Window:
        own, default = self.limits.get((key.scope, key.period), Allowance()), limits.of(key.scope, key.period)
        limit = Allowance(
            default.tokens if own.tokens is None else own.tokens,
            default.requests if own.requests is None else own.requests,
        )
        return replace(self._windows.get(key, Window(key)), limit=limit)

    def _move(self, hold: Hold, **changes: int) -> None:
        for key in window_keys(hold.tenant_id, hold.day, provider=hold.provider):
            window = self._windows.get(key, Window(key))
            moved = {name: getattr(window, name) + change for name, change in changes.items()}
            assert all(value >= 0 for value in moved.values()), (key, moved)
            self._windows[key] = replace(window, **moved)


def _waits_for_others(answer: Answer) -> bool:
    return isinstance(answer, CallInFlight) or (isinstance(answer, BudgetExceeded) and answer.reason == "rate_limited")
