"""Many processes spend from the same budgets, undisturbed and while they are killed: the books agree to the token."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.chaos.biller import Biller, biller
from tests.chaos.budget_books import (
    EVERYONE,
    ends,
    excesses,
    misbilled,
    note_excesses,
    read_books,
    uncharged,
    violations,
)
from tests.chaos.conftest import Run
from tests.chaos.crew import COROUTINES, PROCESSES, crew, deaths, missed
from tests.chaos.spending import STEPS
from tests.chaos.watch import Connection, Watch
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.core.budget import BudgetLimits
from vision_assets.core.budget_gate import BudgetGate

pytestmark = pytest.mark.chaos

MOST_TOKENS = 2000
"""Upper bound of one call."""


async def set_limit(
    connection: Connection, scope: UUID, period: str, *, tokens: int | None, requests: int | None
) -> None:
    """Give a scope a limit."""
    await connection.execute("INSERT INTO budget_limits VALUES ($1, $2, $3, $4)", scope, period, tokens, requests)


async def watch_over(connection: Connection, provider: Biller) -> Watch:
    """Check invariants 1 to 4 of the budget; the limits at every single change."""
    await note_excesses(connection)

    async def check(connection: Connection) -> list[str]:
        billed = provider.billed()
        books = await read_books(connection)
        return [*violations(books), *uncharged(books, billed), *await excesses(connection)]

    return Watch(check)


def orders(url: str, provider: Biller, tenants: list[UUID], **more: Any) -> dict[str, Any]:
    """Say what the workers shall do."""
    return {
        "database_url": url,
        "biller_port": provider.port,
        "tenants": [str(tenant) for tenant in tenants],
        "coroutines": COROUTINES,
        "turns": None,
        "most_tokens": MOST_TOKENS,
        "hold_seconds": 300,
        "dawdlers": 0,
        **more,
    }


async def limit(
    connection: Connection, scopes: list[UUID], *, tokens: int, calls_at_once: int = 200
) -> dict[UUID, int]:
    """Give the tenants limits whose sum is about so many tokens: by turns the day's tokens bite, requests, the month's.

    Args:
        calls_at_once: Of all together; of one tenant its share, and 3 at least.

    Returns:
        The most that each may ever be billed.
    """
    limits = {}
    for place, scope in enumerate(scopes):
        limits[scope] = share = tokens * (10 + place % 5) // (12 * len(scopes))
        match place % 3:
            case 0:
                await set_limit(connection, scope, "day", tokens=share, requests=None)
            case 1:  # as many as would take half of the tokens
                await set_limit(connection, scope, "day", tokens=None, requests=share // MOST_TOKENS)
        await set_limit(connection, scope, "month", tokens=share, requests=None)
        await set_limit(connection, scope, "calls", tokens=None, requests=max(calls_at_once // len(scopes), 3))
    await set_limit(connection, EVERYONE, "day", tokens=tokens * 9 // 10, requests=None)
    await set_limit(connection, EVERYONE, "calls", tokens=None, requests=calls_at_once)
    return limits


async def sweep(url: str, *, ahead_seconds: float) -> None:
    """Charge the holds of the dead, by a clock for which all of them have expired."""
    async with Database.open(url, max_size=1) as pool:
        ahead = timedelta(seconds=ahead_seconds)
        gate = BudgetGate(ledger=PostgresBudget(pool), limits=BudgetLimits(), clock=lambda: datetime.now(UTC) + ahead)
        await gate.sweep()


def over_limit(provider: Biller, limits: dict[UUID, int]) -> list[str]:
    """Name the tenants that were billed for more than their limits."""
    billed = provider.billed()
    return [f"{scope}: {billed[scope]} of {most}" for scope, most in limits.items() if billed[scope] > most]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tenants", [1, 100])
async def test_budget_race(run: Run, database: str, tenants: int) -> None:
    """Nobody is killed: what is charged is what was billed, to the token, and never above a limit."""
    scopes = [uuid4() for _ in range(tenants)]
    size, coroutines = run.choose(4, PROCESSES), run.choose(32, COROUTINES)
    at_once = run.choose(50, 200)
    calls = run.choose(600, 10_000)  # about as many fit into the limits
    with biller() as provider:
        connection = await asyncpg.connect(database)
        limits = await limit(connection, scopes, tokens=calls * MOST_TOKENS * 3 // 10, calls_at_once=at_once)
        watch = await watch_over(connection, provider)
        turns = 5 * calls // (size * coroutines)
        with crew(
            "budget",
            orders(database, provider, scopes, turns=turns, coroutines=coroutines),
            run.folder / "crew",
            run.seed,
        ) as workers:
            async with watch.beside(database):
                workers.start(size)
                await workers.finish(seconds=1000)
            await workers.stop()
            counts = workers.counts
        await watch.look(connection)
        books = await read_books(connection)
        await connection.close()
    billed, over = provider.billed(), over_limit(provider, limits)
    run.figures |= {
        "processes": size,
        "coroutines": size * coroutines,
        "tenants": tenants,
        "operations": dict(sorted(counts.items())),
        "billed_calls": len(provider.bills),
        "billed_tokens": billed.total(),
        "limit_tokens": min(calls * MOST_TOKENS * 27 // 100, sum(limits.values())),
        "charged_less_billed_tokens": books.used().total() - billed.total(),
        "most_calls_at_once": sum(provider.at_once.values()),
        "invariant_checks": watch.checks,
        "violations": len(watch.violations) + len(over),
    }
    assert not watch.violations
    assert not over
    assert books.used() == billed, "charged is what was billed"
    assert not ends(books)
    assert not counts["settled twice"]
    assert len({bill.call for bill in provider.bills}) == len(provider.bills) == counts["settled"]
    assert max(provider.at_once.values()) <= max(at_once // tenants, 3)
    assert any(counts[f"deferred {reason}"] for reason in ("daily_limit", "monthly_limit", "global_limit"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tenants", [1, 100])
async def test_budget_kills(run: Run, database: str, tenants: int) -> None:
    """Workers die before, within and after every step: no limit breaks, no bill is missing, nothing stays held.

    A hold that nobody settled is charged at its estimate, so the books say more than the bills, and exactly so much.
    """
    scopes = [uuid4() for _ in range(tenants)]
    kills, size, hold_seconds = run.choose(8, 160), run.choose(2, PROCESSES), run.choose(1, 3)
    appointed = deaths(
        run.chance,
        {"ledger.reserve": 20, "provider.call": 60, "ledger.settle": 20, "ledger.sweep": 4},
        any_moment=0.3,
        patience_seconds=5,
    )
    with biller() as provider:
        connection = await asyncpg.connect(database)
        limits = await limit(connection, scopes, tokens=kills * COROUTINES * MOST_TOKENS * 2)
        watch = await watch_over(connection, provider)
        told = orders(database, provider, scopes, hold_seconds=hold_seconds, dawdlers=run.choose(3, 1) / 100)
        with crew("budget", told, run.folder / "crew", run.seed, deaths=appointed) as workers:
            async with watch.beside(database):
                workers.start(size)
                await workers.run(seconds=run.choose(60, 900), kills=kills)
                workers.deaths = None
                await workers.run(seconds=run.choose(0, 15))  # long enough for some to settle after their hold's end
                await workers.stop()
            counts, killed, by_step = workers.counts, workers.kills, workers.kills_by_step()
        await sweep(database, ahead_seconds=hold_seconds)
        await watch.look(connection)
        books = await read_books(connection)
        await connection.close()
    billed, over = provider.billed(), over_limit(provider, limits)
    wrong = misbilled(books, provider.bills)
    run.figures |= {
        "processes": size,
        "coroutines": size * COROUTINES,
        "tenants": tenants,
        "kills": killed,
        "kills_by_step": by_step,
        "operations": dict(sorted(counts.items())),
        "billed_calls": len(provider.bills),
        "billed_tokens": billed.total(),
        "charged_for_expired_holds_tokens": books.used().total() - billed.total(),
        "invariant_checks": watch.checks,
        "violations": len(watch.violations) + len(over) + len(wrong),
    }
    assert killed >= kills
    assert not watch.violations
    assert not over
    assert not wrong
    assert not ends(books)
    assert not counts["settled twice"]
    if run.long:
        assert not missed(by_step, STEPS)
        assert counts["settled late"]
