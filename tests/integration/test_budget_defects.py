"""What was wrong with token budgets in the system that this project re-founds, and in its field: one test each.

Each runs on the real Postgres, most over several gates with connections of their own, as processes have them.
What is not here: kills and long races (`tests/chaos`), and two workers about one picture (`test_single_flight.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.budget_oracle import Wire
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.core.budget import EVERYONE, HOLD_LIFE, Allowance, BudgetLimits, Hold, Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import BudgetExceeded, CallInFlight, DatabaseUnavailable
from vision_assets.core.tenants import TenantId

TENANT, OTHER = TenantId(UUID(int=1)), TenantId(UUID(int=2))
NOON = datetime(2026, 2, 27, 12, tzinfo=UTC)


async def no_wait(_: float) -> None:
    """Wait for nothing."""


@dataclass(slots=True)
class Budget:
    """One database, any number of gates over it, and a clock that the test moves."""

    open_ledger: Callable[[], "asyncio.Future[PostgresBudget]"]
    now: datetime = NOON
    limits: BudgetLimits = field(default_factory=lambda: BudgetLimits(tenant={"day": Allowance(1000)}))

    async def gate(self) -> BudgetGate:
        """A gate with connections of its own, as another process has it."""
        return BudgetGate(await self.open_ledger(), self.limits, clock=lambda: self.now, sleep=no_wait)

    async def day(self, scope: TenantId = TENANT) -> Window:
        """The window of the present day."""
        at = await self.gate()
        found = await at.windows(TENANT if scope == EVERYONE else scope)
        return next(w for w in found if w.key.scope == scope and w.key.period == "day")


@pytest.fixture
async def budget(database: str) -> AsyncIterator[Budget]:
    """Books without a line."""
    async with AsyncExitStack() as stack:
        yield Budget(lambda: asyncio.ensure_future(stack.enter_async_context(PostgresBudget.open(database))))


async def hold(at: BudgetGate, tokens: int = 100, *, tenant: TenantId = TENANT, subject: str | None = None) -> Hold:
    """Hold tokens."""
    return await at.reserve(tenant, provider="p", model="m", prompt="x", estimated_tokens=tokens, subject=subject)


def granted(answers: Sequence[Hold | BaseException]) -> list[Hold]:
    """Of many answers, the holds; the others must be denials."""
    assert all(isinstance(answer, Hold | BudgetExceeded) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Hold)]


async def test_concurrent_calls_do_not_overshoot(budget: Budget) -> None:
    """128 callers at four gates get exactly what fits. There each looked first and charged afterwards."""
    gates = [await budget.gate() for _ in range(4)]
    await asyncio.gather(*(hold(at, 1) for at in gates))  # so that all are connected
    answers = await asyncio.gather(*(hold(at, 33) for at in gates for _ in range(32)), return_exceptions=True)
    assert len(granted(answers)) == (1000 - 4) // 33
    assert (await budget.day()).held_tokens == 4 + 30 * 33


async def test_calls_at_once_do_not_overshoot(budget: Budget) -> None:
    """Three calls of a tenant at once to one provider, over all gates; another provider has slots of its own."""
    budget.limits = BudgetLimits(tenant={"calls": Allowance(requests=3)})
    gates = [await budget.gate() for _ in range(3)]
    first = granted(await asyncio.gather(*(hold(at) for at in gates for _ in range(5)), return_exceptions=True))
    assert len(first) == 3
    await gates[0].settle(first[0], 1)
    assert len(granted(await asyncio.gather(*(hold(at) for at in gates), return_exceptions=True))) == 1
    await gates[0].reserve(TENANT, provider="q", model="m", prompt="x", estimated_tokens=1)


async def test_slots_of_dead_workers_come_back(budget: Budget) -> None:
    """A worker that dies leaves its slot until its hold expires, and no longer. There slots leaked for ever."""
    budget.limits = BudgetLimits(tenant={"calls": Allowance(requests=1)})
    await hold(await budget.gate(), 70)
    living = await budget.gate()
    with pytest.raises(BudgetExceeded, match="rate_limited"):
        await hold(living)
    budget.now += HOLD_LIFE
    await hold(living)


async def test_what_a_dead_worker_called_stays_charged(budget: Budget) -> None:
    """An expired hold is charged at its estimate, not freed: the provider may have billed it."""
    at = await budget.gate()
    await hold(at, 600)
    budget.now += HOLD_LIFE
    await at.sweep()
    with pytest.raises(BudgetExceeded, match="daily_limit"):
        await hold(at, 401)
    window = await budget.day()
    assert (window.used_tokens, window.phantom_tokens, window.used_requests, window.held_requests) == (600, 600, 1, 0)


async def test_a_late_settle_corrects_the_charge(budget: Budget) -> None:
    """A call that ends after its hold expired is charged what it took, once: not on top of its estimate."""
    at = await budget.gate()
    held = await hold(at, 600)
    budget.now += HOLD_LIFE
    await at.sweep()
    settled = await at.settle(held, 450)
    assert settled is not None
    assert (settled.charged_tokens, settled.late) == (450, True)
    assert await at.settle(held, 450) is None
    window = await budget.day()
    assert (window.used_tokens, window.phantom_tokens, window.used_requests) == (450, 0, 1)


async def test_the_sweeper_leaves_live_holds(budget: Budget) -> None:
    """Only what has expired is swept, and once, whoever sweeps. Others' sweepers freed calls under way."""
    at, sweepers = await budget.gate(), [await budget.gate() for _ in range(3)]
    await hold(at, 100)
    budget.now += HOLD_LIFE / 2
    live = await hold(at, 200)
    budget.now += HOLD_LIFE / 2
    async with asyncio.timeout(30), (await budget.open_ledger()).database.transaction() as connection:
        await connection.execute("SELECT lock_budget()")
        sweeps = [asyncio.create_task(sweeper.sweep()) for sweeper in sweepers]
        # All have seen the same overdue hold, and wait.
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while await connection.fetchval(waiting) < len(sweepers):  # noqa: ASYNC110 - the server tells no event
            await asyncio.sleep(0.01)
    swept = await asyncio.gather(*sweeps)
    assert sorted((one.holds, one.tokens) for one in swept) == [(0, 0), (0, 0), (1, 100)]
    window = await budget.day()
    assert (window.held_tokens, window.used_tokens, window.phantom_tokens) == (200, 100, 100)
    assert (await at.settle(live, 200)) is not None


async def test_used_tokens_are_those_of_the_bill(budget: Budget) -> None:
    """What a call took is charged, above its estimate too. There every call was stored with 0 tokens."""
    at = await budget.gate()
    await at.settle(await hold(at, 100), 64)
    await at.settle(await hold(at, 100), 130)
    window = await budget.day()
    assert (window.used_tokens, window.overrun_tokens, window.held_tokens) == (194, 30, 0)
    assert await at.ledger.token_counts(provider="p", model="m", prompt="x") == {64: 1, 160: 1}


async def test_a_cancelled_caller_leaves_no_hold(budget: Budget) -> None:
    """Callers that are cancelled while they ask hold nothing in the end, wherever they were."""
    at = await budget.gate()
    await at.settle(await hold(at, 1), 1)
    for milliseconds in (0, 0, 1, 1, 2, 3, 5, 8):
        asking = [asyncio.create_task(hold(at, 10)) for _ in range(8)]
        await asyncio.sleep(milliseconds / 1000)
        for task in asking:
            task.cancel()
        for answer in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(answer, Hold):  # it had been answered before
                await at.release(answer)
    await at.aclose()
    window = await budget.day()
    assert (window.held_tokens, window.held_requests, window.used_tokens, window.used_requests) == (0, 0, 1, 1)


async def test_a_settle_outlives_its_caller(budget: Budget) -> None:
    """A settle whose caller is cancelled is written all the same."""
    at = await budget.gate()
    held = await hold(at, 100)
    settling = asyncio.create_task(at.settle(held, 64))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await at.aclose()
    assert (await budget.day()).used_tokens == 64


async def test_settled_twice_is_charged_once(budget: Budget) -> None:
    """However often and from wherever a hold is settled or released, it ends once."""
    gates = [await budget.gate() for _ in range(4)]
    held = await hold(gates[0], 100)
    answers = await asyncio.gather(*(at.settle(held, 64) for at in gates * 3), *(at.release(held) for at in gates[1:]))
    assert sum(answer is not None for answer in answers) == 1
    window = await budget.day()
    assert (window.held_tokens, window.used_requests) == (0, 1)
    assert window.used_tokens == 64


async def test_an_oversized_call_is_refused_whole(budget: Budget) -> None:
    """A call above what is left is refused, with the figures; it is not cut down to what is left."""
    at = await budget.gate()
    await hold(at, 900)
    with pytest.raises(BudgetExceeded) as refused:
        await hold(at, 101)
    assert (refused.value.reason, refused.value.remaining_tokens) == ("daily_limit", 100)
    assert refused.value.reset_at == datetime(2026, 2, 28, tzinfo=UTC)
    assert (await budget.day()).held_tokens == 900


async def test_denied_calls_cost_nothing(budget: Budget) -> None:
    """A denial moves no figure: no tokens, no call, no slot, for the tenant or for all."""
    at = await budget.gate()
    await hold(at, 1000)
    before = await at.windows(TENANT, provider="p")
    await asyncio.gather(*(hold(at, 1) for _ in range(20)), return_exceptions=True)
    assert await at.windows(TENANT, provider="p") == before


async def test_a_reserve_that_failed_costs_nothing(budget: Budget) -> None:
    """A hold that was written, but of which nobody ever heard, is released when the ledger answers again."""
    wire = Wire(await budget.open_ledger(), to_lose=3)
    at = BudgetGate(wire, budget.limits, clock=lambda: budget.now, sleep=no_wait)
    with pytest.raises(DatabaseUnavailable):
        await hold(at)
    await at.aclose()
    window = await budget.day()
    assert (window.held_tokens, window.used_tokens, window.used_requests) == (0, 0, 0)


async def test_a_settle_after_midnight_leaves_the_new_day_alone(budget: Budget) -> None:
    """A hold is charged to the day and month in which it was made; its slot is free at once all the same."""
    budget.now = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    at = await budget.gate()
    held = await hold(at, 100)
    left = await hold(at, 50)
    budget.now += timedelta(seconds=2)
    await hold(at, 1000)  # March has its whole day
    await at.settle(held, 64)
    new_day = await budget.day()
    assert (new_day.used_tokens, new_day.held_tokens) == (0, 1000)
    budget.now += HOLD_LIFE
    await at.sweep()
    assert (await budget.day()).phantom_tokens == 1000
    budget.now = left.expires_at - HOLD_LIFE
    window = await budget.day()
    assert (window.used_tokens, window.phantom_tokens, window.held_tokens) == (64 + 50, 50, 0)


async def test_an_outage_admits_nothing() -> None:
    """A ledger that cannot be reached lets no call through. Others took that for an empty budget."""
    async with PostgresBudget.open("postgresql://127.0.0.1:1/nowhere") as unreachable:
        at = BudgetGate(unreachable, BudgetLimits(), sleep=no_wait)
        with pytest.raises(DatabaseUnavailable):
            await hold(at)
        with pytest.raises(DatabaseUnavailable):
            await at.is_quota_exhausted(TENANT)


async def test_a_limit_holds_everywhere_at_once(budget: Budget, database: str) -> None:
    """A limit that is lowered binds the next call of every process. Others kept quotas for minutes in each worker."""
    gates = [await budget.gate() for _ in range(2)]
    for at in gates:
        await hold(at, 200)
    async with PostgresBudget.open(database) as ledger:
        await ledger.database.pool.execute("INSERT INTO budget_limits VALUES ($1, 'day', 450)", TENANT)
    for at in gates:
        with pytest.raises(BudgetExceeded) as refused:
            await hold(at, 51)
        assert refused.value.remaining_tokens == 50
    await hold(gates[0], 50)


async def test_one_tenants_spending_is_its_own(budget: Budget) -> None:
    """What one tenant spends leaves another's budget alone, in one batch too; a ceiling bounds all together."""
    budget.limits = BudgetLimits(tenant={"day": Allowance(1000)}, everyone={"day": Allowance(1500)})
    at = await budget.gate()
    answers = await asyncio.gather(
        *(hold(at, 300, tenant=tenant) for _ in range(4) for tenant in (TENANT, OTHER)), return_exceptions=True
    )
    assert [isinstance(answer, Hold) for answer in answers] == [True] * 5 + [False] * 3
    assert {answer.reason for answer in answers if isinstance(answer, BudgetExceeded)} == {
        "global_limit",
        "daily_limit",
    }
    assert ((await budget.day()).held_tokens, (await budget.day(OTHER)).held_tokens) == (900, 600)
    assert (await budget.day(EVERYONE)).held_tokens == 1500


async def test_new_days_do_not_deadlock(budget: Budget) -> None:
    """At midnight many processes meet windows that are not there yet, in any order of tenants, and all get theirs."""
    tenants = [TenantId(UUID(int=number)) for number in range(1, 17)]
    gates = [await budget.gate() for _ in range(4)]
    for _ in range(5):
        budget.now += timedelta(days=1)
        answers = await asyncio.gather(
            *(
                hold(at, 1, tenant=tenant)
                for turn, at in enumerate(gates)
                for tenant in (tenants if turn % 2 else reversed(tenants))
            )
        )
        assert len(answers) == 64
        assert (await budget.day(EVERYONE)).held_tokens == 64
        await asyncio.gather(*(gates[0].settle(answer, 1) for answer in answers))


async def test_two_processes_never_hold_one_subject(budget: Budget) -> None:
    """Of many who want to make the same call at once, one may; the others are told until when."""
    gates = [await budget.gate() for _ in range(4)]
    answers = await asyncio.gather(
        *(hold(at, 1, subject="s") for at in gates for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(answer, Hold) for answer in answers) == 1
    assert sum(isinstance(answer, CallInFlight) for answer in answers) == 15
    assert (await budget.day()).held_requests == 1


@pytest.mark.slow
async def test_a_frozen_process_does_not_stop_the_others(budget: Budget) -> None:
    """Who freezes in the middle of a decision, with everyone waiting for it, loses its turn after some seconds."""
    at, ledger, frozen = await budget.gate(), await budget.open_ledger(), asyncio.Event()

    async def freeze() -> None:
        async with ledger.database.transaction() as connection:
            await connection.execute("SELECT lock_budget()")
            frozen.set()
            await asyncio.sleep(8)

    freezing = asyncio.create_task(freeze())
    await frozen.wait()
    await asyncio.wait_for(hold(at, 10), 15)
    with pytest.raises(DatabaseUnavailable):
        await freezing
    assert (await budget.day()).held_tokens == 10
