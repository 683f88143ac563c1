"""The budget's pure decisions, and the gate on books in memory."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from tests.budget_ledger import MemoryBudget
from vision_assets.core.budget import (
    EPOCH,
    EVERYONE,
    HOLD_LIFE,
    LEARNED_FROM_CALLS,
    MAX_ATTEMPTS,
    Allowance,
    Answer,
    BudgetLimits,
    Hold,
    HoldRequest,
    Outcome,
    Period,
    Settled,
    Window,
    WindowKey,
    estimate,
    resets_at,
    verdict,
    window_keys,
)
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import BudgetExceeded, CallInFlight, DatabaseUnavailable, TooManyAttempts
from vision_assets.core.tenants import TenantId

TENANT = TenantId(UUID(int=1))
NOON = datetime(2026, 2, 27, 12, tzinfo=UTC)
ROOMY = BudgetLimits()


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """Tell the time."""
        return self.now


async def no_wait(_: float) -> None:
    """Wait for nothing."""


def gate(
    ledger: MemoryBudget | None = None, limits: BudgetLimits = ROOMY, *, clock: Clock | None = None, floor: int = 100
) -> BudgetGate:
    """A gate on books in memory."""
    return BudgetGate(
        ledger or MemoryBudget(), limits, estimate_floor_tokens=floor, clock=clock or Clock(), sleep=no_wait
    )


def day_limit(tokens: int) -> BudgetLimits:
    """A tenant's limit of a day, and no other."""
    return BudgetLimits(tenant={"day": Allowance(tokens)})


async def hold(at: BudgetGate, tokens: int = 100, *, subject: str | None = None, hold_id: UUID | None = None) -> Hold:
    """Hold tokens."""
    return await at.reserve(
        TENANT, provider="p", model="m", prompt="x", estimated_tokens=tokens, subject=subject, hold_id=hold_id
    )


async def day(at: BudgetGate) -> Window:
    """The tenant's window of the present day."""
    (window,) = [w for w in await at.windows(TENANT) if w.key.scope == TENANT and w.key.period == "day"]
    return window


# ---- Decisions ----


def windows(**limits: Allowance) -> list[Window]:
    """The six windows of a hold, each with 60 tokens spent, 30 held, 6 calls made and 3 under way.

    Args:
        limits: By scope and period, for example `tenant_day`.
    """
    return [
        Window(
            key,
            used_tokens=60,
            held_tokens=30,
            used_requests=6,
            held_requests=3,
            limit=limits.get(f"{'global' if key.scope == EVERYONE else 'tenant'}_{key.period}", Allowance()),
        )
        for key in window_keys(TENANT, NOON.date(), provider="p")
    ]


TIGHT = Allowance(99)


@pytest.mark.parametrize(
    ("limits", "reason", "reset_at"),
    [
        ({}, None, None),
        ({"tenant_day": Allowance(100)}, None, None),
        ({"tenant_day": TIGHT}, "daily_limit", datetime(2026, 2, 28, tzinfo=UTC)),
        ({"tenant_day": Allowance(requests=9)}, "daily_limit", datetime(2026, 2, 28, tzinfo=UTC)),
        ({"tenant_day": Allowance(requests=10)}, None, None),
        ({"tenant_month": TIGHT}, "monthly_limit", datetime(2026, 3, 1, tzinfo=UTC)),
        ({"tenant_month": Allowance(requests=9)}, "monthly_limit", datetime(2026, 3, 1, tzinfo=UTC)),
        ({"global_day": TIGHT}, "global_limit", datetime(2026, 2, 28, tzinfo=UTC)),
        ({"global_month": TIGHT}, "global_limit", datetime(2026, 3, 1, tzinfo=UTC)),
        ({"tenant_calls": Allowance(requests=3)}, "rate_limited", None),
        ({"tenant_calls": Allowance(requests=4)}, None, None),
        ({"global_calls": Allowance(requests=3)}, "rate_limited", None),
        ({"tenant_day": TIGHT, "tenant_month": TIGHT}, "monthly_limit", datetime(2026, 3, 1, tzinfo=UTC)),
        ({"tenant_day": TIGHT, "global_day": TIGHT}, "daily_limit", datetime(2026, 2, 28, tzinfo=UTC)),
        ({"tenant_day": TIGHT, "global_month": TIGHT}, "global_limit", datetime(2026, 3, 1, tzinfo=UTC)),
        (
            {"tenant_calls": Allowance(requests=0), "tenant_day": TIGHT},
            "daily_limit",
            datetime(2026, 2, 28, tzinfo=UTC),
        ),
    ],
)
def test_each_limit_has_its_reason(limits: dict[str, Allowance], reason: str | None, reset_at: datetime | None) -> None:
    """A call of 10 tokens after 60 spent and 30 held: every limit bites at its figure, the longest one is named."""
    found = verdict(windows(**limits), 10)
    assert (found.allowed, found.reason, found.reset_at) == (reason is None, reason, reset_at)


def test_remaining_is_that_of_the_tightest_window() -> None:
    """What is left is what the tightest window leaves; over-full is nothing; without a limit it is not known."""
    assert verdict(windows(), 1).remaining_tokens is None
    assert verdict(windows(tenant_day=Allowance(100), tenant_month=Allowance(95)), 1).remaining_tokens == 5
    assert verdict(windows(tenant_day=Allowance(50)), 1).remaining_tokens == 0


@pytest.mark.parametrize(
    ("period", "starts_on", "ends"),
    [
        ("day", date(2026, 12, 31), datetime(2027, 1, 1, tzinfo=UTC)),
        ("month", date(2026, 12, 1), datetime(2027, 1, 1, tzinfo=UTC)),
        ("month", date(2028, 2, 1), datetime(2028, 3, 1, tzinfo=UTC)),
        ("month", date(2026, 4, 1), datetime(2026, 5, 1, tzinfo=UTC)),
        ("calls", EPOCH, None),
    ],
)
def test_windows_end_with_their_period(period: Period, starts_on: date, ends: datetime | None) -> None:
    """A day ends at the next midnight UTC, a month with its last day, calls at once never."""
    assert resets_at(WindowKey(TENANT, period, "", starts_on)) == ends


def test_windows_are_named_in_the_order_of_their_key() -> None:
    """The order is that of the primary key, and all tenants together come last."""
    keys = window_keys(TENANT, NOON.date(), provider="p")
    assert keys == sorted(keys)
    assert [key.scope for key in keys] == [TENANT] * 3 + [EVERYONE] * 3
    assert len(window_keys(TENANT, NOON.date(), provider=None)) == 4


def test_the_estimate_is_learned_from_enough_calls() -> None:
    """Under a hundred calls it is the floor; then the 99th percentile, never under the floor."""
    few = estimate({64: LEARNED_FROM_CALLS - 1}, floor_tokens=50)
    assert (few.tokens, few.calls, few.learned) == (50, 99, False)
    assert estimate({64: 100}, floor_tokens=50).tokens == 64
    assert estimate({64: 100}, floor_tokens=1792).tokens == 1792
    assert estimate({64: 990, 640: 9, 6400: 1}, floor_tokens=50).tokens == 64
    assert estimate({64: 989, 640: 10, 6400: 1}, floor_tokens=50).tokens == 640


# ---- The gate ----


async def test_hold_settle_release() -> None:
    """A hold takes room; settled it is charged as billed, released it costs nothing; each ends once."""
    at = gate(limits=day_limit(1000))
    first, second = await hold(at, 300), await hold(at, 400)
    assert (await day(at)).remaining_tokens == 300
    assert await at.settle(first, 250) == Settled(250, late=False)
    assert await at.settle(first, 250) is None
    assert await at.release(second) == Settled(0, late=False)
    assert await at.settle(second, 400) is None
    window = await day(at)
    assert (window.used_tokens, window.held_tokens, window.used_requests) == (250, 0, 1)


async def test_an_oversized_call_is_refused_whole() -> None:
    """A call above what is left is not cut down to it: it is refused with the figures, and nothing is held."""
    at = gate(limits=day_limit(1000))
    await hold(at, 900)
    with pytest.raises(BudgetExceeded) as refused:
        await hold(at, 101)
    assert (refused.value.reason, refused.value.remaining_tokens) == ("daily_limit", 100)
    assert refused.value.reset_at == datetime(2026, 2, 28, tzinfo=UTC)
    assert (await day(at)).held_tokens == 900
    assert (await hold(at, 100)).estimated_tokens == 100


async def test_one_batch_decides_greedily_in_order() -> None:
    """Callers who ask at once are decided in order, as if each came alone: a small call after a big one still fits."""
    at = gate(limits=day_limit(1000))
    answers = await asyncio.gather(*(hold(at, tokens) for tokens in (600, 500, 400, 1)), return_exceptions=True)
    assert [isinstance(answer, Hold) for answer in answers] == [True, False, True, False]


async def test_overrun_is_charged_and_recorded() -> None:
    """What a call takes above its estimate is charged in full; that alone goes above a limit."""
    at = gate(limits=day_limit(1000))
    await at.settle(await hold(at, 1000), 1300)
    window = await day(at)
    assert (window.used_tokens, window.overrun_tokens, window.remaining_tokens) == (1300, 300, 0)


async def test_verdict_only() -> None:
    """`check_budget` and `is_quota_exhausted` say what a reserve would get, and hold nothing."""
    at = gate(limits=BudgetLimits(tenant={"day": Allowance(1000), "calls": Allowance(requests=1)}), floor=200)
    await hold(at, 850)
    assert (await at.check_budget(TENANT, 150)).allowed
    assert (await at.check_budget(TENANT, 150, provider="p")).reason == "rate_limited"
    assert (await at.check_budget(TENANT, 150, provider="other")).allowed
    assert (await at.check_budget(TENANT)).reason == "daily_limit"  # 1,792 tokens
    assert await at.is_quota_exhausted(TENANT)
    assert not await at.is_quota_exhausted(TenantId(UUID(int=2)))
    assert (await day(at)).held_tokens == 850


async def test_limits_of_the_ledger_go_before_the_settings() -> None:
    """A limit set for a tenant replaces the figure of the settings, and leaves the other figures."""
    ledger = MemoryBudget()
    at = gate(ledger, BudgetLimits(tenant={"day": Allowance(1000, requests=1)}))
    ledger.limits[TENANT, "day"] = Allowance(50)
    with pytest.raises(BudgetExceeded):
        await hold(at, 51)
    await hold(at, 50)
    assert (await day(at)).limit == Allowance(50, 1)


async def test_one_call_a_subject() -> None:
    """While a subject is held, nobody else gets it: told until when. Afterwards it is free."""
    at = gate()
    first = await hold(at, subject="s")
    with pytest.raises(CallInFlight) as busy:
        await hold(at, subject="s")
    assert busy.value.until == first.expires_at
    await hold(at, subject="other")
    await at.settle(first, 1)
    assert (await hold(at, subject="s")).attempt == 1


async def test_attempts_are_capped() -> None:
    """Each hold that expires counts as an attempt; after the third no call about the subject is made any more."""
    clock = Clock()
    at = gate(clock=clock)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert (await hold(at, subject="s")).attempt == attempt
        clock.now += HOLD_LIFE
    with pytest.raises(TooManyAttempts) as refused:
        await hold(at, subject="s")
    assert refused.value.reason == "too_many_attempts"


async def test_dead_calls_leave_their_slots_when_they_are_needed() -> None:
    """A slot that an expired hold has is freed by the next one who needs it; its tokens stay charged."""
    clock = Clock()
    at = gate(limits=BudgetLimits(tenant={"calls": Allowance(requests=1)}), clock=clock)
    await hold(at, 70)
    with pytest.raises(BudgetExceeded, match="rate_limited"):
        await hold(at)
    clock.now += HOLD_LIFE
    await hold(at, 30)
    window = await day(at)
    assert (window.used_tokens, window.phantom_tokens, window.held_tokens) == (70, 70, 30)


async def test_the_same_id_is_the_same_hold() -> None:
    """A request that comes again gets its hold again; the id of another call, or of an expired hold, gets nothing."""
    clock = Clock()
    at = gate(clock=clock)
    hold_id = uuid4()
    first = await hold(at, hold_id=hold_id)
    assert await hold(at, hold_id=hold_id) == first
    with pytest.raises(CallInFlight):
        await hold(at, hold_id=hold_id, subject="another")
    assert (await day(at)).held_requests == 1
    clock.now += HOLD_LIFE
    await at.sweep()
    with pytest.raises(CallInFlight):
        await hold(at, hold_id=hold_id)


async def test_the_estimate_is_learned_by_settling() -> None:
    """Settled calls teach the estimate of their model and prompt; it is kept for a minute."""
    clock = Clock()
    at = gate(clock=clock, floor=100)
    assert (await at.estimate("p", "m", "x")).tokens == 100
    for held in await asyncio.gather(*(hold(at) for _ in range(LEARNED_FROM_CALLS))):
        await at.settle(held, 321)
    assert not (await at.estimate("p", "m", "x")).learned
    clock.now += timedelta(seconds=61)
    found = await at.estimate("p", "m", "x")
    assert (found.tokens, found.calls, found.learned) == (352, 100, True)  # rounded up to 32
    assert not (await at.estimate("p", "m", "another prompt")).learned


class Flaky(MemoryBudget):
    """Books that are done, but whose acknowledgements are lost, or that are not reached at all.

    Attributes:
        unheard: Acknowledgements that get lost.
        down: Nothing arrives.
    """

    unheard = 0
    down = False

    def _fail(self, when: str) -> None:
        if self.down or (when == "after" and self.unheard):
            self.unheard -= when == "after"
            raise DatabaseUnavailable("gone")

    async def reserve(
        self, requests: Sequence[HoldRequest], *, limits: BudgetLimits, now: datetime, until: datetime
    ) -> Sequence[Answer]:
        """See the Protocol."""
        self._fail("before")
        answers = await MemoryBudget.reserve(self, requests, limits=limits, now=now, until=until)
        await asyncio.sleep(0)
        self._fail("after")
        return answers

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | None]:
        """See the Protocol."""
        self._fail("before")
        settled = await MemoryBudget.settle(self, outcomes)
        await asyncio.sleep(0)
        self._fail("after")
        return settled


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_caller_leaves_no_hold(turns: int) -> None:
    """Wherever a caller is cancelled, its hold is released, and the other callers of its batch get theirs."""
    at = gate(Flaky())
    other = asyncio.create_task(hold(at, 5))
    asking = asyncio.create_task(hold(at, 100))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await other
    await at.aclose()
    window = await day(at)
    assert (window.held_tokens, window.used_tokens, window.used_requests) == (5, 0, 0)


@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_cancelled_settle_goes_on(turns: int) -> None:
    """Who is cancelled while it settles has settled all the same."""
    at = gate(Flaky())
    held = await hold(at)
    settling = asyncio.create_task(at.settle(held, 60))
    for _ in range(turns):
        await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await at.aclose()
    window = await day(at)
    assert (window.used_tokens, window.held_tokens) == (60, 0)


async def test_a_lost_acknowledgement_holds_once() -> None:
    """When the answer to a reserve or a settle is lost on the way, the repeated one finds it done."""
    ledger = Flaky()
    at = gate(ledger)
    ledger.unheard = 2
    held = await hold(at)
    assert (await day(at)).held_requests == 1
    ledger.unheard = 2
    assert await at.settle(held, 60) is None
    assert (await day(at)).used_tokens == 60


async def test_a_reserve_that_failed_leaves_no_hold() -> None:
    """A hold that was written, but whose every acknowledgement was lost, is released when the ledger answers again."""
    ledger = Flaky()
    at = gate(ledger)
    ledger.unheard = 3
    with pytest.raises(DatabaseUnavailable):
        await hold(at)
    await at.aclose()
    window = await day(at)
    assert (window.held_tokens, window.used_tokens) == (0, 0)


async def test_a_chosen_id_is_never_released_behind_its_owner() -> None:
    """Who chose the id may ask again; a release in the background could then end the hold under a running call."""
    ledger = Flaky()
    at = gate(ledger)
    ledger.unheard = 3
    hold_id = uuid4()
    with pytest.raises(DatabaseUnavailable):
        await hold(at, hold_id=hold_id)
    again = await hold(at, hold_id=hold_id)
    await at.aclose()
    assert await at.settle(again, 1) == Settled(1, late=False)


async def test_without_a_ledger_nothing_may_be_called() -> None:
    """A ledger that cannot be reached holds nothing and says so."""
    ledger = Flaky()
    ledger.down = True
    with pytest.raises(DatabaseUnavailable):
        await hold(gate(ledger))


async def test_a_hold_belongs_to_its_day() -> None:
    """Settled after midnight, it is charged to the day and month on which it was made."""
    clock = Clock()
    clock.now = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    at = gate(clock=clock)
    held = await hold(at)
    before = await at.windows(TENANT)
    clock.now += timedelta(seconds=2)
    await at.settle(held, 70)
    assert all(window.used_tokens == window.held_tokens == 0 for window in await at.windows(TENANT))
    clock.now -= timedelta(seconds=2)
    assert await at.windows(TENANT) == [
        replace(window, used_tokens=70, held_tokens=0, used_requests=1, held_requests=0) for window in before
    ]
