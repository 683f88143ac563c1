"""A state machine over the real `BudgetGate`: whatever happens, in whatever order, its books equal a simple list.

What is not here: the list (`budget_oracle.py`), the ledgers that it runs on (`budget_ledger.py`, Postgres), how long.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from tests.budget_oracle import Call, Oracle, Verdict, Wire
from vision_assets.core.budget import (
    EVERYONE,
    EXPIRED_KEPT,
    HOLD_LIFE,
    MAX_ATTEMPTS,
    Allowance,
    BudgetLedger,
    BudgetLimits,
    Hold,
    HoldRequest,
    Period,
    Settled,
    Window,
    WindowKey,
    window_keys,
)
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import BudgetExceeded, CallInFlight, DatabaseUnavailable, TooManyAttempts
from vision_assets.core.tenants import TenantId

Result = TypeVar("Result")

TENANTS = tuple(TenantId(UUID(int=number)) for number in (1, 2, 3))
PROVIDERS = ("alpha", "beta")
SUBJECTS = (None, None, "picture-1", "picture-2")
# Sizes of calls and limits, so that limits bite: as fractions of a tenant's day.
DAY_TOKENS = 840
FRACTIONS = (1 / 5, 1 / 7, 1 / 3, 1 / 2, 0, 1 / 840, 1, 1 + 1 / 840)

tokens = st.sampled_from([round(fraction * DAY_TOKENS) for fraction in FRACTIONS])
tenants = st.sampled_from(TENANTS)
providers = st.sampled_from(PROVIDERS)
requests = st.tuples(tenants, providers, tokens, st.sampled_from(SUBJECTS))


class BudgetMachine(RuleBasedStateMachine):
    """Subclasses say which ledger: `open_ledger` and `set_limit`."""

    calls: "Bundle[Call]" = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = datetime(2026, 1, 31, 21, 0, tzinfo=UTC)
        self.oracle = Oracle()
        self.wire = Wire(self.run(self.open_ledger()))
        self.gate = BudgetGate(self.wire, BudgetLimits(), clock=lambda: self.now, sleep=_no_wait)
        self.overrides: dict[tuple[TenantId, Period], Allowance] = {}
        self.before: dict[tuple[WindowKey, str], int] = {}

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run in the machine's own event loop."""
        return self.runner.run(coroutine)

    async def open_ledger(self) -> BudgetLedger:
        """Give an empty ledger."""
        raise NotImplementedError

    async def set_limit(self, scope: TenantId, period: Period, limit: Allowance) -> None:
        """Set a limit in the ledger itself."""
        raise NotImplementedError

    async def close_ledger(self) -> None:
        """Clean up."""

    def limit(self, scope: TenantId, period: Period) -> Allowance:
        """Tell the limit in force."""
        own, default = self.overrides.get((scope, period), Allowance()), self.gate.limits.of(scope, period)
        return Allowance(
            default.tokens if own.tokens is None else own.tokens,
            default.requests if own.requests is None else own.requests,
        )

    # ---- What happens ----

    @initialize(
        day=st.sampled_from([DAY_TOKENS, None]),
        day_calls=st.sampled_from([4, None, None]),
        month=st.sampled_from([2 * DAY_TOKENS, None]),
        calls=st.sampled_from([2, 3, None]),
        everyone=st.sampled_from([round(1.5 * DAY_TOKENS), None, None]),
        everyone_calls=st.sampled_from([4, None, None]),
    )
    def begin(
        self,
        *,
        day: int | None,
        day_calls: int | None,
        month: int | None,
        calls: int | None,
        everyone: int | None,
        everyone_calls: int | None,
    ) -> None:
        """Choose the limits of the settings."""
        self.gate.limits = BudgetLimits(
            tenant={"day": Allowance(day, day_calls), "month": Allowance(month), "calls": Allowance(requests=calls)},
            everyone={"day": Allowance(everyone), "calls": Allowance(requests=everyone_calls)},
        )

    @rule(target=calls, wanted=st.lists(requests, min_size=1, max_size=6), own_ids=st.booleans())
    def reserve(self, wanted: list[tuple[TenantId, str, int, str | None]], own_ids: bool) -> "MultipleResults[Call]":
        """Several callers ask at once, of several tenants, in sizes from nothing to more than a day's budget."""
        return multiple(*self._reserved(wanted, own_ids=own_ids))

    @rule(target=calls, tenant=tenants, provider=providers, sizes=st.lists(tokens, min_size=3, max_size=6))
    def burst(self, tenant: TenantId, provider: str, sizes: list[int]) -> "MultipleResults[Call]":
        """Many callers of one tenant ask at once for more than there is."""
        return multiple(*self._reserved([(tenant, provider, size, None) for size in sizes], own_ids=False))

    @rule(target=calls, tenant=tenants, deaths=st.integers(1, MAX_ATTEMPTS + 1))
    def crash_loop(self, tenant: TenantId, deaths: int) -> "MultipleResults[Call]":
        """A picture brings its workers down, one after the other."""
        held: list[Call] = []
        for _ in range(deaths):
            held += self._reserved([(tenant, PROVIDERS[0], 1, SUBJECTS[-1])], own_ids=False)
            self.now += HOLD_LIFE
        return multiple(*held)

    def _reserved(self, wanted: list[tuple[TenantId, str, int, str | None]], *, own_ids: bool) -> list[Call]:
        asked = [
            HoldRequest(uuid4(), tenant, provider, "model", "prompt", size, subject)
            for tenant, provider, size, subject in wanted
        ]
        answers = self.run(self._ask(asked, own_ids=own_ids))
        known = len(self.oracle.calls)
        assert [_name(answer) for answer in answers] == self._expect(asked)
        new = {call.id: call for call in self.oracle.calls[known:]}
        for request, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Hold):
                call = new[request.id]
                call.id, call.hold = answer.id, answer
                assert answer.day == call.day
                assert answer.expires_at == call.expires_at
                assert answer.estimated_tokens == request.estimated_tokens, "never cut down to what is left"
        return list(new.values())

    @rule(call=calls, losses=st.integers(0, 3))
    def reserve_again(self, call: Call, losses: int) -> None:
        """The same request with the same id comes again, perhaps over a bad wire: it is the same hold."""
        request = HoldRequest(call.id, call.tenant, call.provider, "model", "prompt", call.estimate, call.subject)
        assume(call.state in ("live", "expired") and call.expires_at >= self.now - EXPIRED_KEPT)
        self.wire.to_lose = losses
        (answer,) = self.run(self._ask([request], own_ids=True))
        self.run(self.gate.aclose())
        self.wire.to_lose = 0
        verdicts = [self._expect([request])[0] for _ in range(min(losses + 1, 3))]
        if losses == 3:
            assert isinstance(answer, DatabaseUnavailable)
        else:
            assert _name(answer) == verdicts[-1]
        if isinstance(answer, Hold) and call.state == "live":
            assert answer == call.hold

    @rule(wanted=requests, turns=st.integers(0, 6), losses=st.sampled_from([0, 0, 1, 3]))
    def give_up(self, wanted: tuple[TenantId, str, int, str | None], turns: int, losses: int) -> None:
        """A caller is cancelled at any point, or never hears an answer: nothing stays held, nothing is charged."""
        assume(not any(call.state == "live" and call.expires_at <= self.now for call in self.oracle.calls))
        self.wire.to_lose = losses
        self.run(self._cancelled(wanted, turns))
        self.wire.to_lose = 0

    @rule(
        ends=st.lists(st.tuples(calls, st.sampled_from([None, *FRACTIONS])), min_size=1, max_size=5),
        losses=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def end(self, ends: list[tuple[Call, float | None]], losses: int) -> None:
        """Calls end, some twice, some long after their expiry: billed as estimated, less, more; or never sent."""
        outcomes: list[tuple[Call, int | None]] = []
        for call, fraction in ends:
            never_sent = (call, None) in outcomes
            if call.billed is None and fraction is not None and not never_sent and call.state in ("live", "expired"):
                call.billed = round(fraction * call.estimate * 2)
            outcomes.append((call, call.billed))
        self.wire.to_lose = losses
        answers = self.run(self._end(outcomes))
        self.wire.to_lose = 0
        for (call, billed), answer in zip(outcomes, answers, strict=True):
            expected = None
            if call.state in ("live", "expired"):
                expected = Settled(billed or 0, late=call.state == "expired")
                call.state = "released" if billed is None else "settled"
                call.charged = billed or 0
            # With its acknowledgement lost, the repeated settle finds nothing more to do.
            assert answer == (None if losses else expected)

    @rule(call=calls, fraction=st.sampled_from(FRACTIONS), turns=st.integers(1, 4))
    def end_cancelled(self, call: Call, fraction: float, turns: int) -> None:
        """A worker is cancelled while it settles: the settle goes on."""
        assume(call.state in ("live", "expired"))
        if call.billed is None:
            call.billed = round(fraction * call.estimate)
        self.run(self._settle_cancelled(call, turns))
        call.state, call.charged = "settled", call.billed or 0

    @rule(call=calls, fraction=st.sampled_from(FRACTIONS))
    def bill(self, call: Call, fraction: float) -> None:
        """The provider bills a call, and its worker dies or takes its time: nobody settles now."""
        if call.billed is None and call.state in ("live", "expired"):
            call.billed = round(fraction * call.estimate)

    @rule(call=calls, fraction=st.none() | st.sampled_from(FRACTIONS), losses=st.sampled_from([0, 0, 1, 3]))
    def abandon(self, call: Call, fraction: float | None, losses: int) -> None:
        """A call fails before its worker's eyes, billed or not: it is charged at once and may be made again."""
        if call.billed is None and fraction is not None and call.state in ("live", "expired"):
            call.billed = round(fraction * call.estimate)
        self.wire.to_lose = losses
        self.run(self.gate.abandon(_hold(call)))
        self.wire.to_lose = 0
        if call.state in ("live", "expired"):
            call.state, call.explained, call.subject = "expired", True, None

    @rule(tenant=tenants, hours=st.sampled_from([1, 6, 48]))
    def lost(self, tenant: TenantId, hours: int) -> None:
        """Someone asks what was lost of late."""
        within = timedelta(hours=hours)
        found = self.run(self.gate.lost(tenant, within=within))
        self.oracle.sweep(self.now, tenant)
        lost = self.oracle.lost(tenant, self.now - within)
        assert (found.holds, found.tokens) == (len(lost), sum(call.estimate for call in lost))

    @rule(tenant=st.none() | tenants)
    def sweep(self, tenant: TenantId | None) -> None:
        """The sweeper comes by."""
        swept = self.run(self.gate.sweep(tenant))
        overdue = self.oracle.sweep(self.now, tenant)
        assert (swept.holds, swept.tokens) == (len(overdue), sum(call.estimate for call in overdue))

    @rule(
        seconds=st.sampled_from(
            [1, 60, 479, 481, 481, 3 * 3600, 3 * 3600, 24 * 3600, 32 * 86400, 41 * 86400, -1, -481, -4 * 3600]
        )
    )
    def time_passes(self, seconds: int) -> None:
        """The clock goes on, past expiries, midnights and months; or jumps back."""
        self.now += timedelta(seconds=seconds)

    @rule()
    def midnight(self) -> None:
        """The clock comes to the last second of a day, or to the first of the next."""
        midnight = datetime.combine(self.now.date() + timedelta(days=1), time(), UTC)
        self.now = midnight - timedelta(seconds=1) if self.now < midnight - timedelta(seconds=1) else midnight

    @rule(
        scope=st.sampled_from([*TENANTS, EVERYONE]),
        period=st.sampled_from(["day", "month", "calls"]),
        fraction=st.sampled_from([1, 2, 1 / 2, 1 / 7, 0, 3, 5]),
        requests_limit=st.sampled_from([None, None, 5, 2, 1, 0]),
    )
    def move_limit(self, scope: TenantId, period: Period, fraction: float, requests_limit: int | None) -> None:
        """Someone raises or lowers a limit, also below what is spent and held."""
        limit = Allowance(None if period == "calls" else round(fraction * DAY_TOKENS), requests_limit)
        assume(limit != Allowance())
        self.overrides[scope, period] = limit
        self.run(self.set_limit(scope, period, limit))

    @rule(tenant=tenants, provider=st.none() | providers, size=tokens)
    def check(self, tenant: TenantId, provider: str | None, size: int) -> None:
        """Someone asks for a verdict: it is the one that a reserve would get, and nothing is held by it."""
        found = self.run(self.gate.check_budget(tenant, size, provider=provider))
        expected = self.oracle.denies(tenant, provider, size, self.now, self.limit)
        assert (found.allowed, found.reason) == (expected is None, expected)
        if found.reset_at is not None:
            assert self.now < found.reset_at <= self.now + timedelta(days=31)

    # ---- What must be true after each of it ----

    @invariant()
    def books_agree(self) -> None:
        """Check every invariant of the budget."""
        windows = self._windows()
        self._sums(windows)
        self._limits(windows)

    def _sums(self, windows: Sequence[Window]) -> None:
        """1, 3 and 4: every window is the sum of its calls, whatever happened to them, and at least what was billed."""
        for window in windows:
            assert window == self.oracle.window(window.key, window.limit)
            assert window.limit == self.limit(window.key.scope, window.key.period)
            mine = [call for call in self.oracle.calls if call.counts_in(window.key)]
            open_overruns = sum(
                max((call.billed or 0) - call.estimate, 0)
                for call in mine
                if call.state in ("live", "expired", "forgotten")
            )
            billed = sum(call.billed or 0 for call in mine)
            assert window.used_tokens + window.held_tokens + open_overruns >= billed

    def _limits(self, windows: Sequence[Window]) -> None:
        """2: only overruns go above a limit; above a limit that was lowered, nothing more is let in."""
        for window in windows:
            calls = window.held_requests + (0 if window.key.period == "calls" else window.used_requests)
            for what, value, limit in (
                ("tokens", window.used_tokens + window.held_tokens - window.overrun_tokens, window.limit.tokens),
                ("requests", calls, window.limit.requests),
            ):
                before = self.before.get((window.key, what), 0)
                assert limit is None or value <= max(limit, before)
                self.before[window.key, what] = value

    def teardown(self) -> None:
        """5: after the last expiry and a sweep, nothing is held for ever."""
        try:
            self.now = max([self.now, *(call.expires_at for call in self.oracle.calls)])
            self.sweep(None)
            self.books_agree()
            assert all(window.held_tokens == window.held_requests == 0 for window in self._windows())
        finally:
            self.run(self.close_ledger())
            self.runner.close()

    # ---- How ----

    async def _ask(self, asked: Sequence[HoldRequest], *, own_ids: bool) -> list[Hold | BaseException]:
        return await asyncio.gather(
            *(
                self.gate.reserve(
                    request.tenant_id,
                    provider=request.provider,
                    model=request.model,
                    prompt=request.prompt,
                    estimated_tokens=request.estimated_tokens,
                    subject=request.subject,
                    hold_id=request.id if own_ids else None,
                )
                for request in asked
            ),
            return_exceptions=True,
        )

    def _expect(self, asked: Sequence[HoldRequest]) -> list[Verdict]:
        verdicts = self._decide(asked)
        # What may hang on a dead hold is asked again after a sweep.
        if {"busy", "rate_limited"} & set(verdicts) and self.oracle.sweep(self.now):
            verdicts = self._decide(asked)
        return verdicts

    def _decide(self, asked: Sequence[HoldRequest]) -> list[Verdict]:
        verdicts = []
        for request in asked:
            verdicts.append(self.oracle.verdict(request, self.now, self.limit))
            if verdicts[-1] == "held" and not any(
                call.id == request.id and call.state == "live" for call in self.oracle.calls
            ):
                self.oracle.calls.append(
                    Call(
                        id=request.id,
                        tenant=request.tenant_id,
                        provider=request.provider,
                        subject=request.subject,
                        estimate=request.estimated_tokens,
                        day=self.now.date(),
                        expires_at=self.now + HOLD_LIFE,
                    )
                )
        return verdicts

    async def _cancelled(self, wanted: tuple[TenantId, str, int, str | None], turns: int) -> None:
        tenant, provider, size, subject = wanted
        asking = asyncio.create_task(
            self.gate.reserve(
                tenant, provider=provider, model="model", prompt="prompt", estimated_tokens=size, subject=subject
            )
        )
        for turn in range(turns):
            await asyncio.sleep(0 if turn < 4 else 0.001)
        asking.cancel()
        with suppress(asyncio.CancelledError, BudgetExceeded, CallInFlight, TooManyAttempts, DatabaseUnavailable):
            await self.gate.release(await asking)
        await self.gate.aclose()

    async def _settle_cancelled(self, call: Call, turns: int) -> None:
        settling = asyncio.create_task(self.gate.settle(_hold(call), call.billed or 0))
        for _ in range(turns):
            await asyncio.sleep(0)
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        await self.gate.aclose()

    async def _end(self, outcomes: Sequence[tuple[Call, int | None]]) -> list[Settled | None]:
        return await asyncio.gather(
            *(
                self.gate.release(_hold(call)) if billed is None else self.gate.settle(_hold(call), billed)
                for call, billed in outcomes
            )
        )

    def _windows(self) -> Sequence[Window]:
        days = {call.day for call in self.oracle.calls} | {self.now.date()}
        keys = {
            key
            for tenant in TENANTS
            for provider in PROVIDERS
            for day in days
            for key in window_keys(tenant, day, provider=provider)
        }
        return self.run(self.wire.windows(sorted(keys), limits=self.gate.limits))


def _hold(call: Call) -> Hold:
    assert call.hold is not None
    return call.hold


def _name(answer: Hold | BaseException) -> Verdict:
    match answer:
        case Hold():
            return "held"
        case CallInFlight():
            return "busy"
        case TooManyAttempts():
            return "too_often"
        case BudgetExceeded(reason=reason):
            return reason
    raise answer


async def _no_wait(_: float) -> None:
    await asyncio.sleep(0)
