"""What must be true of a token budget, from a simple list of calls; and a ledger over a bad wire.

Nothing is shared with the code under test but the values. What is not here: what happens (`budget_machine.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal, TypeAlias
from uuid import UUID

from vision_assets.core.budget import (
    EVERYONE,
    EXPIRED_KEPT,
    MAX_ATTEMPTS,
    Allowance,
    Answer,
    BudgetLedger,
    BudgetLimits,
    Hold,
    HoldRequest,
    Outcome,
    Period,
    Settled,
    Swept,
    Window,
    WindowKey,
    window_keys,
)
from vision_assets.core.errors import DatabaseUnavailable
from vision_assets.core.tenants import TenantId

Verdict: TypeAlias = str
"""`held`, `busy`, `too_often`, or the reason of a denial."""


@dataclass(slots=True)
class Call:
    """One call that was held, and what became of it.

    Attributes:
        explained: It failed before somebody's eyes, so it is no attempt without a trace.
    """

    id: UUID
    tenant: TenantId
    provider: str
    subject: str | None
    estimate: int
    day: date
    expires_at: datetime
    state: Literal["live", "expired", "forgotten", "settled", "released"] = "live"
    billed: int | None = None
    charged: int = 0
    hold: Hold | None = None
    explained: bool = False

    def counts_in(self, key: WindowKey) -> bool:
        """Tell whether a window counts this call."""
        if key.scope not in (self.tenant, EVERYONE):
            return False
        if key.period == "calls":
            return key.provider == self.provider
        if key.period == "day":
            return key.starts_on == self.day
        return (key.starts_on.year, key.starts_on.month) == (self.day.year, self.day.month)


@dataclass(slots=True)
class Oracle:
    """What must be true, from the list of calls alone."""

    calls: list[Call] = field(default_factory=list)

    def window(self, key: WindowKey, limit: Allowance) -> Window:
        """Sum up one window."""
        used = held = used_requests = held_requests = overrun = phantom = 0
        for call in self.calls:
            if call.state == "released" or not call.counts_in(key):
                continue
            if call.state == "live":
                held += call.estimate
                held_requests += 1
                continue
            used_requests += 1
            if call.state == "settled":
                used += call.charged
                overrun += max(call.charged - call.estimate, 0)
            else:
                used += call.estimate
                phantom += call.estimate
        return Window(key, used, held, used_requests, held_requests, overrun, phantom, limit)

    def verdict(self, wanted: HoldRequest, now: datetime, limit: Callable[[TenantId, Period], Allowance]) -> Verdict:
        """Decide a request, given all that was held before it."""
        same_id = [call for call in self.calls if call.id == wanted.id and call.state in ("live", "expired")]
        if same_id:
            (call,) = same_id
            same = call.state == "live" and (call.tenant, call.subject) == (wanted.tenant_id, wanted.subject)
            return "held" if same else "busy"
        alike = [c for c in self.calls if c.tenant == wanted.tenant_id and c.subject == wanted.subject is not None]
        if any(call.state == "live" for call in alike):
            return "busy"
        if sum(call.state == "expired" and not call.explained for call in alike) >= MAX_ATTEMPTS:
            return "too_often"
        return self.denies(wanted.tenant_id, wanted.provider, wanted.estimated_tokens, now, limit) or "held"

    def denies(
        self,
        tenant: TenantId,
        provider: str | None,
        tokens: int,
        now: datetime,
        limit: Callable[[TenantId, Period], Allowance],
    ) -> Verdict | None:
        """Name the limit that a call would break; of several, the one that lasts longest."""
        tomorrow = now.date() + timedelta(days=1)
        next_month = (now.date().replace(day=28) + timedelta(days=4)).replace(day=1)
        over: list[tuple[date, int, Verdict]] = []
        for place, key in enumerate(window_keys(tenant, now.date(), provider=provider)):
            window, allowed = self.window(key, Allowance()), limit(key.scope, key.period)
            calls = window.held_requests + (0 if key.period == "calls" else window.used_requests)
            tokens_over = (
                allowed.tokens is not None and window.used_tokens + window.held_tokens + tokens > allowed.tokens
            )
            if tokens_over or (allowed.requests is not None and calls >= allowed.requests):
                # The last to end, and the first among equals.
                end = {"calls": date.min, "day": tomorrow, "month": next_month}[key.period]
                over.append((end, -place, _reason(key)))
        return max(over)[2] if over else None

    def lost(self, tenant: TenantId, since: datetime) -> list[Call]:
        """Name the calls that ended without a trace since then."""
        return [
            call
            for call in self.calls
            if call.tenant == tenant and call.state == "expired" and not call.explained and call.expires_at > since
        ]

    def sweep(self, now: datetime, tenant: TenantId | None = None) -> list[Call]:
        """Let time take its toll."""
        overdue = [c for c in self.calls if c.state == "live" and c.expires_at <= now and tenant in (None, c.tenant)]
        for call in overdue:
            call.state = "expired"
        for call in self.calls:
            if call.state == "expired" and call.expires_at < now - EXPIRED_KEPT:
                call.state = "forgotten"
        return overdue


def _reason(key: WindowKey) -> Verdict:
    if key.period == "calls":
        return "rate_limited"
    if key.scope == EVERYONE:
        return "global_limit"
    return "daily_limit" if key.period == "day" else "monthly_limit"


@dataclass(slots=True)
class Wire:
    """A ledger whose acknowledgements may be lost on the way back: what was asked is done, and nobody hears of it.

    Attributes:
        to_lose: Acknowledgements that will be lost.
    """

    ledger: BudgetLedger
    to_lose: int = 0

    def _acknowledge(self) -> None:
        if self.to_lose:
            self.to_lose -= 1
            raise DatabaseUnavailable("the connection broke after the commit")

    async def reserve(
        self, requests: Sequence[HoldRequest], *, limits: BudgetLimits, now: datetime, until: datetime
    ) -> Sequence[Answer]:
        """See the Protocol."""
        answers = await self.ledger.reserve(requests, limits=limits, now=now, until=until)
        self._acknowledge()
        return answers

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | None]:
        """See the Protocol."""
        settled = await self.ledger.settle(outcomes)
        self._acknowledge()
        return settled

    async def abandon(self, holds: Sequence[Hold]) -> None:
        """See the Protocol."""
        await self.ledger.abandon(holds)
        self._acknowledge()

    async def lost(self, tenant_id: TenantId, *, since: datetime) -> Swept:
        """See the Protocol."""
        return await self.ledger.lost(tenant_id, since=since)

    async def sweep(self, *, now: datetime, tenant_id: TenantId | None = None) -> Swept:
        """See the Protocol."""
        return await self.ledger.sweep(now=now, tenant_id=tenant_id)

    async def windows(self, keys: Sequence[WindowKey], *, limits: BudgetLimits) -> Sequence[Window]:
        """See the Protocol."""
        return await self.ledger.windows(keys, limits=limits)

    async def token_counts(self, *, provider: str, model: str, prompt: str) -> Mapping[int, int]:
        """See the Protocol."""
        return await self.ledger.token_counts(provider=provider, model=model, prompt=prompt)
