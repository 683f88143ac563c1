"""Whatever becomes of a call that costs, its hold is settled, released or left to be charged, as it must."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.budget_ledger import MemoryBudget
from tests.paid_provider import PaidProvider, at_once
from vision_assets.core.budget import EVERYONE, MAX_ATTEMPTS, Allowance, Answer, BudgetLimits, Hold, HoldRequest, Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import (
    AnswerRefused,
    CallDeferred,
    CallInFlight,
    ConfigurationError,
    DatabaseConflict,
    DatabaseUnavailable,
    InputRejected,
    ProviderBudgetGone,
    ProviderUnavailable,
)
from vision_assets.core.paid_calls import REFUSALS_IN_SUCCESSION, REFUSED, WAITS_SECONDS, PaidCalls
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Analysis

TENANT = TenantId(UUID(int=1))
NOW = datetime(2026, 2, 27, 12, tzinfo=UTC)


class Books(MemoryBudget):
    """Books that count how often they are asked, and may be out of reach."""

    asked = 0
    down = False
    busy = False

    async def reserve(
        self, requests: Sequence[HoldRequest], *, limits: BudgetLimits, now: datetime, until: datetime
    ) -> Sequence[Answer]:
        """See the Protocol."""
        self.asked += 1
        if self.down:
            raise DatabaseUnavailable("down")
        if self.busy:
            raise DatabaseConflict("lock time-out")
        return await MemoryBudget.reserve(self, requests, limits=limits, now=now, until=until)


class Setting:
    """Calls of one tenant over books in memory, with a clock that the test moves."""

    def __init__(self, limits: BudgetLimits | None = None) -> None:
        self.books, self.provider, self.now = Books(), PaidProvider(), NOW
        self.gate = BudgetGate(self.books, limits or BudgetLimits(), clock=lambda: self.now, sleep=self._no_wait)
        self.calls = PaidCalls(self.gate, TENANT, self.provider)

    async def _no_wait(self, _: float) -> None:
        pass

    async def look(self, hold: Hold) -> Analysis:
        """Have the picture looked at."""
        async with self.calls.ready(b"picture", mime="image/png", measured=None) as look:
            return await self.calls.call(hold, look)

    async def call(self) -> None:
        """Make one call and settle it."""
        hold = await self.calls.hold("picture")
        try:
            analysis = await self.look(hold)
        except InputRejected:
            await self.calls.release(hold)
            raise
        await self.calls.settle(hold, analysis.tokens_used)

    async def day(self) -> Window:
        """The tenant's day."""
        return next(w for w in await self.gate.windows(TENANT) if w.key.scope != EVERYONE and w.key.period == "day")


async def test_an_answer_is_charged_as_billed() -> None:
    """A call is held at the provider's own bound, and charged at what it took."""
    setting = Setting()
    setting.provider.estimated_tokens = 5000
    hold = await setting.calls.hold("picture")
    assert hold.estimated_tokens == 5000
    assert hold.subject == "picture/paid/test-1/v1.0"
    await setting.calls.settle(hold, 700)
    window = await setting.day()
    assert (window.used_tokens, window.held_tokens, window.used_requests) == (700, 0, 1)


@pytest.mark.parametrize(
    ("error", "used"),
    [
        (ProviderUnavailable("refused the connection", sent=False), 0),
        (ProviderUnavailable("no answer"), 1792),
        (TimeoutError(), 1792),
        (RuntimeError("a defect of ours"), 1792),
    ],
)
async def test_what_a_failed_call_costs(error: Exception, used: int) -> None:
    """What cannot have been billed is released, what may have been is charged; the call may be made again at once."""
    setting = Setting(BudgetLimits(tenant={"calls": Allowance(requests=1)}))

    async def fail() -> None:
        raise error

    setting.provider.thinking = fail
    for times in range(1, MAX_ATTEMPTS + 3):
        with pytest.raises(ProviderUnavailable if isinstance(error, TimeoutError) else type(error)):
            await setting.call()
        window = await setting.day()
        assert (window.used_tokens, window.held_tokens) == (used * times, 0)
    setting.provider.thinking = at_once
    await setting.call()


@pytest.mark.parametrize("error", [AnswerRefused("blacklist", "no", tokens_used=9), InputRejected("truncated", "no")])
async def test_a_hold_outlasts_the_note_of_a_rejection(error: InputRejected) -> None:
    """What a picture was rejected for is written before the hold ends, so the hold stays."""
    setting = Setting()

    async def fail() -> None:
        raise error

    setting.provider.thinking = fail
    hold = await setting.calls.hold("picture")
    with pytest.raises(type(error)):
        await setting.look(hold)
    assert (await setting.day()).held_tokens == 1792


async def test_a_call_leaves_time_to_store_its_answer() -> None:
    """A call ends in the first half of its hold's life, however much of that is gone; in the second none begins."""
    setting = Setting()
    setting.gate.hold_life = timedelta(seconds=0.2)

    async def hang() -> None:
        await asyncio.sleep(3600)

    setting.provider.thinking = hang
    with pytest.raises(ProviderUnavailable) as failed:
        await asyncio.wait_for(setting.call(), 1)
    assert failed.value.sent
    hold = await setting.calls.hold("picture")
    setting.now += timedelta(seconds=0.11)
    with pytest.raises(ProviderUnavailable) as late:
        await setting.look(hold)
    assert not late.value.sent
    assert (await setting.day()).held_tokens == 0
    assert len(setting.provider.calls) == 1


async def test_a_cancelled_call_is_charged() -> None:
    """A call that is cancelled under way may be billed, so it is charged."""
    setting, reached = Setting(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.sleep(3600)

    setting.provider.thinking = hang
    calling = asyncio.create_task(setting.call())
    await reached.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await setting.gate.aclose()
    window = await setting.day()
    assert (window.used_tokens, window.held_tokens) == (1792, 0)


@pytest.mark.parametrize("error", [ProviderBudgetGone("402"), ConfigurationError("no such model")])
async def test_a_provider_that_answers_nobody_is_asked_once(error: Exception) -> None:
    """An empty account, or a wrong setting, costs nothing and ends the calls of the pass."""
    setting = Setting()

    async def fail() -> None:
        raise error

    setting.provider.thinking = fail
    with pytest.raises(type(error)):
        await setting.call()
    with pytest.raises(CallDeferred, match="provider_refuses"):
        await setting.calls.hold("another")
    window = await setting.day()
    assert (window.used_tokens, window.held_tokens, len(setting.provider.calls)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProviderBudgetGone("402"), "provider_refuses"),
        (ConfigurationError("wrong key"), "provider_refuses"),
        (ProviderUnavailable("slower", sent=False, retry_after_seconds=9.0), "provider_busy"),
    ],
)
async def test_an_upload_that_nobody_is_granted_ends_the_calls(error: Exception, reason: str) -> None:
    """What a provider says before a call holds for the calls that would follow; nothing is held for it."""
    setting = Setting()

    async def fail() -> None:
        raise error

    setting.provider.uploading = fail
    with pytest.raises(type(error)):
        async with setting.calls.ready(b"picture", mime="image/png", measured=None):
            pytest.fail("it was not ready")
    with pytest.raises(CallDeferred, match=reason):
        setting.calls.check()
    window = await setting.day()
    assert (window.held_tokens, window.used_requests, setting.provider.calls) == (0, 0, [])


async def test_refused_uploads_count_with_refused_calls() -> None:
    """A provider that takes no picture at all may say so at either point."""
    setting = Setting()

    async def refuse() -> None:
        raise InputRejected(REFUSED, "this account takes no pictures")

    setting.provider.uploading = refuse
    for _ in range(REFUSALS_IN_SUCCESSION - 1):
        with pytest.raises(InputRejected):
            async with setting.calls.ready(b"picture", mime="image/png", measured=None):
                pytest.fail("it was not ready")
    setting.provider.uploading, setting.provider.thinking = at_once, refuse
    with pytest.raises(ConfigurationError, match="refused 10 pictures in succession"):
        await setting.call()
    assert (await setting.day()).held_tokens == 0


async def test_a_provider_that_refuses_one_picture_after_the_other_is_set_up_wrongly() -> None:
    """Single refusals are the pictures' own; many without an answer between them end the calls, and cost nothing."""
    setting = Setting()

    async def refuse() -> None:
        raise InputRejected(REFUSED, "this model takes no pictures")

    setting.provider.thinking = refuse
    for _ in range(REFUSALS_IN_SUCCESSION - 1):
        with pytest.raises(InputRejected):
            await setting.call()
    setting.provider.thinking = at_once
    await setting.call()
    setting.provider.thinking = refuse
    for _ in range(REFUSALS_IN_SUCCESSION - 1):
        with pytest.raises(InputRejected):
            await setting.call()
    with pytest.raises(ConfigurationError, match="check the model"):
        await setting.call()
    with pytest.raises(CallDeferred, match="provider_refuses"):
        await setting.calls.hold("another")
    window = await setting.day()
    assert (window.used_tokens, window.held_tokens) == (700, 0)


@pytest.mark.parametrize(("sent", "charged"), [(False, 300), (True, 300 + 1792)])
async def test_what_was_billed_before_a_failure_is_charged(sent: bool, charged: int) -> None:
    """Of a call of several questions the billed ones are charged as billed, one that may have been at the estimate."""
    setting = Setting()

    async def fail() -> None:
        raise ProviderUnavailable("the second question failed", sent=sent, tokens_used=300)

    setting.provider.thinking = fail
    with pytest.raises(ProviderUnavailable):
        await setting.call()
    window = await setting.day()
    assert (window.used_tokens, window.held_tokens) == (charged, 0)


async def test_a_provider_that_asks_for_patience_gets_it() -> None:
    """After `Retry-After` no picture is tried before, and none is charged."""
    setting = Setting()

    async def fail() -> None:
        raise ProviderUnavailable("429", sent=False, retry_after_seconds=40)

    setting.provider.thinking = fail
    with pytest.raises(ProviderUnavailable):
        await setting.call()
    with pytest.raises(CallDeferred, match="provider_busy"):
        await setting.calls.hold("another")
    setting.now += timedelta(seconds=41)
    await setting.calls.hold("another")
    assert (await setting.day()).used_tokens == 0


async def test_a_denial_counts_for_a_while() -> None:
    """After a denial the ledger is not asked for half a minute; then it is, and may say yes."""
    setting = Setting(BudgetLimits(tenant={"day": Allowance(1000)}))
    for _ in range(3):
        with pytest.raises(CallDeferred, match="daily_limit"):
            await setting.calls.hold("picture")
    assert setting.books.asked == 1
    setting.books.limits[TENANT, "day"] = Allowance(5000)
    setting.now += timedelta(seconds=31)
    await setting.calls.hold("picture")


async def test_the_budget_is_asked_once_before_a_pass() -> None:
    """`begin` charges what expired, and a budget without room closes the pass to calls before one is tried."""
    setting = Setting(BudgetLimits(tenant={"day": Allowance(2000)}))
    await setting.calls.hold("left by a dead worker")
    setting.now += setting.gate.hold_life
    await setting.calls.begin()
    assert (await setting.day()).phantom_tokens == 1792
    asked = setting.books.asked
    with pytest.raises(CallDeferred, match="daily_limit"):
        await setting.calls.hold("picture")
    assert setting.books.asked == asked


async def test_without_a_ledger_calls_are_deferred() -> None:
    """A ledger that cannot be reached lets no call through, and is not asked again for half a minute."""
    setting = Setting()
    setting.books.down = True
    with pytest.raises(CallDeferred, match="ledger_unavailable"):
        await setting.calls.hold("picture")
    asked = setting.books.asked
    with pytest.raises(CallDeferred, match="ledger_unavailable"):
        await setting.calls.hold("picture")
    assert setting.books.asked == asked
    setting.books.down = False
    setting.now += timedelta(seconds=31)
    await setting.calls.hold("picture")


async def test_a_busy_ledger_is_not_a_dead_one() -> None:
    """After a lock time-out the call is deferred, and the next one asks at once: only an outage counts for a while."""
    setting = Setting()
    setting.books.busy = True
    with pytest.raises(CallDeferred, match="ledger_busy"):
        await setting.calls.hold("picture")
    setting.books.busy = False
    await setting.calls.hold("picture")


async def test_a_call_of_somebody_else_is_not_deferred_yet() -> None:
    """It is told as such: its result may be there in a moment."""
    setting = Setting()
    await setting.calls.hold("picture")
    with pytest.raises(CallInFlight):
        await setting.calls.hold("picture")


async def test_a_slot_is_waited_for() -> None:
    """A call for which no slot is free goes as soon as one is, however long the pass's own calls take."""
    setting = Setting(BudgetLimits(tenant={"calls": Allowance(requests=1)}))
    first = await setting.calls.hold("first")
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            await setting.gate.release(first)
            other = await PaidCalls(setting.gate, TENANT, setting.provider).hold("of another pass")
            await setting.gate.release(other)

    setting.gate.sleep = sleep
    await setting.calls.hold("second")
    assert waits == list(WAITS_SECONDS[:3])


async def test_slots_that_stay_taken_are_waited_for_once() -> None:
    """After one picture has waited for a slot in vain, no other one waits, as long as the dead may keep theirs."""
    setting = Setting(BudgetLimits(tenant={"calls": Allowance(requests=1)}))
    await PaidCalls(setting.gate, TENANT, setting.provider).hold("of a dead worker")
    with pytest.raises(CallDeferred, match="rate_limited"):
        await setting.calls.hold("picture")
    asked = setting.books.asked
    assert asked == 2 + len(WAITS_SECONDS)
    with pytest.raises(CallDeferred, match="rate_limited"):
        await setting.calls.hold("another")
    assert setting.books.asked == asked
    setting.now += setting.gate.hold_life
    await setting.calls.hold("another")


async def test_a_pass_that_gets_slots_goes_on_waiting() -> None:
    """As long as some picture of the pass gets a slot, the others wait on, longer than one would in vain."""
    setting = Setting(BudgetLimits(tenant={"calls": Allowance(requests=1)}))
    taken = await setting.calls.hold("first")
    waits = 0

    async def sleep(_: float) -> None:
        nonlocal waits, taken
        waits += 1
        if waits == len(WAITS_SECONDS):  # at the last moment another picture of the pass is faster
            await setting.gate.release(taken)
            taken = await setting.calls.hold("faster")
        if waits == len(WAITS_SECONDS) + 1:
            await setting.gate.release(taken)

    setting.gate.sleep = sleep
    await setting.calls.hold("second")
    assert waits == len(WAITS_SECONDS) + 1
