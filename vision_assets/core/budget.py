"""The token budget: what a call may cost, what is held and spent, and who may call next. Types and pure decisions.

A hold is taken before a call that costs, and settled once after it. It counts in six windows: the tenant's day, month
and calls at once, and the same of all tenants together. A hold that nobody settles expires and is charged at its
estimate, because the provider may have billed it; a late settle corrects that.

What is not here: who asks and when (`budget_gate.py`), and the books themselves (`clients/postgres/budget.py`).
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from vision_assets.core.errors import BudgetExceeded, CallInFlight, TooManyAttempts
from vision_assets.core.tenants import TenantId

Period = Literal["day", "month", "calls"]
"""What a limit bounds: a UTC day, a UTC month, or the calls under way at one moment to one provider."""

Reason = Literal["daily_limit", "monthly_limit", "global_limit", "rate_limited"]

EVERYONE = TenantId(UUID(int=2**128 - 1))
"""The scope of all tenants together. It sorts last, so that windows are always locked in one order."""

EPOCH = date(1970, 1, 1)
HOLD_LIFE = timedelta(seconds=480)
"""Half of it is for the call, half for storing its answer. Afterwards the hold is charged, and another worker may make
the same call."""

MAX_ATTEMPTS = 3
"""Calls about one subject whose holds expired; then something is wrong with the subject."""

TOKENS_STEP = 32
"""Settled calls are counted by their tokens, rounded up to this."""

LEARNED_FROM_CALLS = 100
EXPIRED_KEPT = timedelta(days=40)
"""How long an expired hold waits for a late settle, and counts as an attempt."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Upper bounds of one period; None is no bound.

    Attributes:
        requests: Calls; of the period `calls`, those at once.
    """

    tokens: int | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The limits that hold where none is set for a tenant (or for all) in the ledger. What is absent is unbounded."""

    tenant: Mapping[Period, Allowance] = field(default_factory=dict)
    everyone: Mapping[Period, Allowance] = field(default_factory=dict)

    def of(self, scope: TenantId, period: Period) -> Allowance:
        """Look up the limit of a scope."""
        return (self.everyone if scope == EVERYONE else self.tenant).get(period, Allowance())


class WindowKey(NamedTuple):
    """Which window: the primary key, in the order in which windows are locked.

    Attributes:
        provider: Of `calls`; empty for a day or month, which bound all providers together.
        starts_on: UTC; of `calls` the epoch.
    """

    scope: TenantId
    period: Period
    provider: str
    starts_on: date


@dataclass(frozen=True, slots=True)
class Window:
    """What is spent and held in one window. All windows of a hold move alike.

    Attributes:
        used_tokens: Of settled calls as billed, of expired holds as estimated.
        held_tokens: Of live holds, as estimated.
        used_requests: Settled calls and expired holds.
        held_requests: Live holds.
        overrun_tokens: What settled calls took above their estimates: all that may ever exceed a limit.
        phantom_tokens: The part of `used_tokens` that stands for expired holds.
        limit: In force now.
    """

    key: WindowKey
    used_tokens: int = 0
    held_tokens: int = 0
    used_requests: int = 0
    held_requests: int = 0
    overrun_tokens: int = 0
    phantom_tokens: int = 0
    limit: Allowance = Allowance()

    @property
    def remaining_tokens(self) -> int | None:
        """Tokens that are neither spent nor held; None without a limit."""
        return None if self.limit.tokens is None else max(self.limit.tokens - self.used_tokens - self.held_tokens, 0)


class HoldRequest(NamedTuple):
    """A wish to make one call that costs.

    Attributes:
        id: Chosen by the caller: the same request again gets the same hold.
        prompt: Fingerprint of what the model is asked, for the learned estimate.
        estimated_tokens: Upper bound of what the call may bill.
        subject: What the call is about; one live hold each. None: nothing that another call could be about.
    """

    id: UUID
    tenant_id: TenantId
    provider: str
    model: str
    prompt: str
    estimated_tokens: int
    subject: str | None = None


class Hold(NamedTuple):
    """Tokens and a call slot that are set aside; to be settled or released exactly once.

    Attributes:
        day: UTC; the day and month that are charged, whenever it settles.
        expires_at: Then it is charged at its estimate, and the call may be made by somebody else.
        attempt: 1, and one more for each earlier hold of the same subject that expired.
    """

    id: UUID
    tenant_id: TenantId
    provider: str
    model: str
    prompt: str
    estimated_tokens: int
    subject: str | None
    day: date
    expires_at: datetime
    attempt: int = 1


Answer: TypeAlias = Hold | BudgetExceeded | CallInFlight | TooManyAttempts
"""What a request gets: a hold, or the error that the gate raises."""


class Outcome(NamedTuple):
    """What became of a held call.

    Attributes:
        actual_tokens: As billed; None: the call was never sent, so that nothing is charged.
    """

    hold: Hold
    actual_tokens: int | None


class Settled(NamedTuple):
    """How a hold ended.

    Attributes:
        charged_tokens: What the windows now count for it; 0 when it was released.
        late: It had expired, and its charge was corrected.
    """

    charged_tokens: int
    late: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """Holds that nobody settled in time."""

    holds: int
    tokens: int


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """Whether a call would be let through now. Nothing is held by it.

    Holds that have expired count as calls under way until somebody charges them; a reserve does that first.

    Attributes:
        reason: Why not.
        remaining_tokens: In the tightest window; None without any limit.
        reset_at: When the same call may be let through; None when that hangs on calls under way.
    """

    allowed: bool
    reason: Reason | None = None
    remaining_tokens: int | None = None
    reset_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """What a call is expected to take at most.

    Attributes:
        tokens: The 99th percentile of settled calls, at least the floor.
        calls: Settled calls that are known of this model and prompt.
        learned: There were enough of them; else `tokens` is the floor.
        mean_tokens: Of the settled calls; None: none is known.
    """

    tokens: int
    calls: int
    learned: bool
    mean_tokens: int | None = None


class BudgetLedger(Protocol):
    """The books of the budget. All methods raise DatabaseUnavailable or DatabaseConflict (both transient)."""

    async def reserve(
        self, requests: Sequence[HoldRequest], *, limits: BudgetLimits, now: datetime, until: datetime
    ) -> Sequence[Answer]:
        """Hold what fits, in order and all at once; safe to repeat with the same ids.

        Args:
            limits: Where the ledger has none of its own.
            now: Aware UTC; its day and month are charged.
            until: When the holds expire.
        """
        ...

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | None]:
        """End holds, each exactly once. None: unknown, or ended before."""
        ...

    async def abandon(self, holds: Sequence[Hold]) -> None:
        """Charge holds at their estimates now: their calls failed and may have been billed. May be repeated.

        Their slots and subjects are free, and they do not count as attempts. A late settle corrects the charge.
        """
        ...

    async def sweep(self, *, now: datetime, tenant_id: TenantId | None = None) -> Swept:
        """Charge holds that have expired at their estimates, and forget those that expired long ago."""
        ...

    async def lost(self, tenant_id: TenantId, *, since: datetime) -> Swept:
        """Tell which of a tenant's holds expired since then with no trace of their calls, whoever charged them."""
        ...

    async def windows(self, keys: Sequence[WindowKey], *, limits: BudgetLimits) -> Sequence[Window]:
        """Read windows in one round trip, without a lock; one that nothing has touched yet is all zeros."""
        ...

    async def token_counts(self, *, provider: str, model: str, prompt: str) -> Mapping[int, int]:
        """Count settled calls by their tokens, rounded up to TOKENS_STEP."""
        ...


def window_keys(tenant_id: TenantId, day: date, *, provider: str | None) -> list[WindowKey]:
    """Name the windows of a hold, in the order in which they are locked.

    Args:
        day: UTC.
        provider: None leaves out the calls at once.
    """
    keys = []
    for scope in (tenant_id, EVERYONE):
        if provider is not None:
            keys.append(WindowKey(scope, "calls", provider, EPOCH))
        keys.append(WindowKey(scope, "day", "", day))
        keys.append(WindowKey(scope, "month", "", day.replace(day=1)))
    return keys


def resets_at(key: WindowKey) -> datetime | None:
    """Tell when a window ends; None for calls at once, which end with the calls."""
    if key.period == "calls":
        return None
    days = 1 if key.period == "day" else 31
    end = key.starts_on + timedelta(days=days)
    return datetime.combine(end if key.period == "day" else end.replace(day=1), time(), UTC)


def verdict(windows: Iterable[Window], tokens: int) -> BudgetVerdict:
    """Decide whether a call fits.

    Of several windows that refuse, the one that lasts longest gives the reason, and a tenant's own before the global
    one: so `reset_at` is when the same call may really be let through. Calls at once come last.

    Args:
        windows: All of one hold, in the order of `window_keys`.
        tokens: Estimate of the call.
    """
    windows = list(windows)
    remaining = min((w.remaining_tokens for w in windows if w.remaining_tokens is not None), default=None)
    refusing = [w for w in windows if _refuses(w, tokens)]
    if not refusing:
        return BudgetVerdict(True, remaining_tokens=remaining)
    # `max` keeps the first of equals, and the tenant's windows come first.
    last = max(refusing, key=lambda w: resets_at(w.key) or datetime.min.replace(tzinfo=UTC))
    return BudgetVerdict(False, _reason(last.key), remaining, resets_at(last.key))


def _refuses(window: Window, tokens: int) -> bool:
    limit = window.limit
    if limit.tokens is not None and window.used_tokens + window.held_tokens + tokens > limit.tokens:
        return True
    # What was ever called does not count against calls at once.
    requests = window.held_requests + (window.used_requests if window.key.period != "calls" else 0)
    return limit.requests is not None and requests + 1 > limit.requests


def _reason(key: WindowKey) -> Reason:
    if key.period == "calls":
        return "rate_limited"
    if key.scope == EVERYONE:
        return "global_limit"
    return "daily_limit" if key.period == "day" else "monthly_limit"


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of the holds that a batch of requests touches.

    Attributes:
        by_id: Holds under the requests' ids, with whether they have expired.
        live: Expiry of the live hold of a (tenant, subject).
        expired: Number of expired holds of a (tenant, subject).
    """

    by_id: Mapping[UUID, tuple[Hold, bool]] = field(default_factory=dict)
    live: Mapping[tuple[TenantId, str], datetime] = field(default_factory=dict)
    expired: Mapping[tuple[TenantId, str], int] = field(default_factory=dict)


def admit(
    requests: Sequence[HoldRequest], windows: Mapping[WindowKey, Window], known: Known, *, day: date, until: datetime
) -> tuple[list[Answer], list[Hold]]:
    """Decide a batch of requests in order, as if each came alone.

    Args:
        windows: Every window of every request, as of now.
        day: UTC; of new holds.
        until: Expiry of new holds.

    Returns:
        One answer a request, and the new holds among them.
    """
    now_held: MutableMapping[WindowKey, Window] = dict(windows)
    by_id, live = dict(known.by_id), dict(known.live)
    answers: list[Answer] = []
    new: list[Hold] = []
    for request in requests:
        subject = None if request.subject is None else (request.tenant_id, request.subject)
        if request.id in by_id:
            hold, expired = by_id[request.id]
            # What became of an expired hold's call is not known: it is no leave to make the call again.
            same = not expired and (hold.tenant_id, hold.subject) == (request.tenant_id, request.subject)
            answers.append(hold if same else CallInFlight(hold.expires_at, request.subject))
            continue
        if subject in live:
            answers.append(CallInFlight(live[subject], request.subject))
            continue
        attempt = 1 + (known.expired.get(subject, 0) if subject else 0)
        if attempt > MAX_ATTEMPTS:
            answers.append(TooManyAttempts(request.subject or "", attempt - 1))
            continue
        keys = window_keys(request.tenant_id, day, provider=request.provider)
        found = verdict((now_held[key] for key in keys), request.estimated_tokens)
        if found.reason is not None:
            answers.append(denial(found, request.estimated_tokens))
            continue
        for key in keys:
            window = now_held[key]
            now_held[key] = replace(
                window,
                held_tokens=window.held_tokens + request.estimated_tokens,
                held_requests=window.held_requests + 1,
            )
        hold = hold_of(request, day=day, until=until, attempt=attempt)
        by_id[hold.id] = hold, False
        if subject:
            live[subject] = until
        answers.append(hold)
        new.append(hold)
    return answers, new


def hold_of(request: HoldRequest, *, day: date, until: datetime, attempt: int = 1) -> Hold:
    """Make the hold that a request gets."""
    return Hold(
        request.id,
        request.tenant_id,
        request.provider,
        request.model,
        request.prompt,
        request.estimated_tokens,
        request.subject,
        day,
        until,
        attempt,
    )


def denial(found: BudgetVerdict, tokens: int) -> BudgetExceeded:
    """Make the error of a verdict that does not allow the call."""
    assert found.reason is not None  # noqa: S101 - for the type checker
    return BudgetExceeded(
        found.reason, needed_tokens=tokens, remaining_tokens=found.remaining_tokens, reset_at=found.reset_at
    )


def estimate(counts: Mapping[int, int], *, floor_tokens: int) -> TokenEstimate:
    """Learn what a call takes from what settled calls took.

    Args:
        counts: Calls by tokens.
        floor_tokens: The estimate is never below it.
    """
    calls = sum(counts.values())
    mean_tokens = round(sum(tokens * count for tokens, count in counts.items()) / calls) if calls else None
    if calls < LEARNED_FROM_CALLS:
        return TokenEstimate(floor_tokens, calls, learned=False, mean_tokens=mean_tokens)
    seen = 0
    for tokens in sorted(counts):
        seen += counts[tokens]
        if seen * 100 >= calls * 99:
            return TokenEstimate(max(tokens, floor_tokens), calls, learned=True, mean_tokens=mean_tokens)
    raise AssertionError("the counts add up to all calls")
