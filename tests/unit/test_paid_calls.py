"""Whatever becomes of a call that costs, its hold is settled, released or left to be charged, as it must."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.budget_ledger import MemoryBudget
from tests.paid_provider import PaidProvider
from vision_assets.core.budget import EVERYONE, Allowance, Answer, BudgetLimits, HoldRequest, Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import (
    AnswerRefused,
    BudgetExceeded,
    CallDeferred,
    CallInFlight,
    DatabaseConflict,
    DatabaseUnavailable,
    InputRejected,
    MediaMissing,
    ProviderUnavailable,
    StorageUnavailable,
)
from vision_assets.core.paid_calls import PaidCalls
from vision_assets.core.tenants import TenantId

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

    async def call(self, fetch: Callable[[], Awaitable[bytes]] | None = None) -> None:
        """Make one call and settle it."""

        async def content() -> bytes:
            return b"picture"

        hold = await self.calls.hold("picture")
        analysis = await self.calls.call(hold, fetch or content, mime="image/png")
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
    ("error", "used", "held"),
    [
        (AnswerRefused("blacklist", "no", tokens_used=9), 9, 0),
        (InputRejected("truncated", "not a picture"), 0, 0),
        (ProviderUnavailable("refused the connection", sent=False), 0, 0),
        (ProviderUnavailable("no answer"), 0, 1792),
        (TimeoutError(), 0, 1792),
        (RuntimeError("a defect of ours"), 0, 1792),
    ],
)
async def test_what_a_failed_call_costs(error: Exception, used: int, held: int) -> None:
    """What was billed is settled, what cannot have been is released, what may have been stays held until it expires."""
    setting = Setting()

    async def fail() -> None:
        raise error

    setting.provider.thinking = fail
    with pytest.raises(ProviderUnavailable if isinstance(error, TimeoutError) else type(error)):
        await setting.call()
    window = await setting.day()
    assert (window.used_tokens, window.held_tokens) == (used, held)
    setting.now += timedelta(seconds=301)
    await setting.gate.sweep()
    assert (await setting.day()).used_tokens == used + held


@pytest.mark.parametrize("error", [StorageUnavailable("503"), MediaMissing("gone"), TimeoutError()])
async def test_without_its_picture_a_call_costs_nothing(error: Exception) -> None:
    """What fails before anything is sent is released."""
    setting = Setting()

    async def fetch() -> bytes:
        raise error

    with pytest.raises(ProviderUnavailable if isinstance(error, TimeoutError) else type(error)):
        await setting.call(fetch)
    window = await setting.day()
    assert (window.used_tokens, window.held_tokens, setting.provider.calls) == (0, 0, [])


@pytest.mark.parametrize("sent", [False, True])
async def test_cancellation_releases_only_what_was_never_sent(sent: bool) -> None:
    """A call that is cancelled under way may be billed, so its hold stays; one that was not sent leaves nothing."""
    setting, reached = Setting(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.sleep(3600)

    async def fetch() -> bytes:
        if not sent:
            await hang()
        return b"picture"

    setting.provider.thinking = hang
    calling = asyncio.create_task(setting.call(fetch))
    await reached.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await setting.gate.aclose()
    assert (await setting.day()).held_tokens == (1792 if sent else 0)


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
    setting.now += timedelta(seconds=301)
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


async def test_what_may_go_in_a_moment_is_not_deferred_yet() -> None:
    """A call of somebody else, and slots that are all taken, are told as such: the pass waits and looks again."""
    setting = Setting(BudgetLimits(tenant={"calls": Allowance(requests=2)}))
    await setting.calls.hold("picture")
    with pytest.raises(CallInFlight):
        await setting.calls.hold("picture")
    await setting.calls.hold("second")
    with pytest.raises(BudgetExceeded, match="rate_limited"):
        await setting.calls.hold("third")
