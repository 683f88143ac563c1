"""Billing of paid calls on the real Postgres: what the provider billed, on the day of the hold."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.billed import PRICE, Account, days_ago, events, midnight, parquet_rows
from tests.emulated_gigachat import EmulatedGigaChat
from tests.integration.test_gigachat_pass import Payer
from tests.pictures import photo
from tests.world import World
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.core.budget import BudgetLimits, Hold
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.price import TokenPrice

TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)
TOMORROW = midnight(TODAY + timedelta(days=1))
NO_LIMITS = BudgetLimits()


@pytest.fixture
async def account(world: World) -> Account:
    """A tenant that has asked nothing."""
    return Account(world, await world.tenant("Alpha"))


@pytest.fixture
async def budget(database: str) -> AsyncIterator[PostgresBudget]:
    """The budget's books."""
    async with PostgresBudget.open(database) as opened:
        yield opened


async def held_yesterday(
    account: Account, budget: PostgresBudget, *, provider: str = "paid", model: str = "M", tokens: int = 1_000
) -> Hold:
    """Hold a call an hour before midnight."""
    async with aclosing(BudgetGate(budget, NO_LIMITS, clock=lambda: days_ago(1 / 24))) as gate:
        return await gate.reserve(
            account.tenant.id, provider=provider, model=model, prompt="p", estimated_tokens=tokens
        )


async def settle(budget: PostgresBudget, hold: Hold, tokens: int) -> None:
    """Settle a call now."""
    async with aclosing(BudgetGate(budget, NO_LIMITS)) as gate:
        await gate.settle(hold, tokens)


async def billed_calls(account: Account) -> list[tuple[Any, ...]]:
    """What is billed of calls, by revision: day, model, figures, cost."""
    columns = ("day", "model", "revision", "tokens", "calls", "unconfirmed_tokens", "unconfirmed_calls")
    return [
        (*(row[name] for name in columns), row["cost_microunits"])
        for row in await account.rows()
        if row["meter"] == "vision"
    ]


async def test_tokens_are_what_the_provider_billed(
    tmp_path: Path, world: World, database: str, gigachat: EmulatedGigaChat
) -> None:
    """After a day on which calls hang, are dropped, refused and repeated; what came to nothing stands apart."""
    tenant = await world.tenant("Payer")
    for seed in range(8):
        photo(320, 240, seed=seed).save(tmp_path / f"{seed}.jpg")
    await world.load(tenant, tmp_path)
    await world.store_media(tenant)
    gigachat.set_faults(
        {"kind": "drop", "endpoint": "chat", "after": 2, "times": 1},
        {"kind": "blacklist", "after": 3, "times": 1},
        {"kind": "prose", "after": 4, "times": 2},
    )
    async with (
        GigaChat.open(gigachat.access(read_seconds=2, deadline_seconds=10)) as api,
        PostgresBudget.open(database) as budget,
    ):
        payer = Payer(world, tenant, api, budget, gigachat)
        await payer.analyse()
        window = await payer.day()
    account = Account(world, tenant)
    await account.bill(now=TOMORROW)
    [row] = [row for row in await account.rows() if row["meter"] == "vision"]
    assert (row["provider"], row["model"], row["day"]) == ("gigachat", "GigaChat-2-Max", TODAY)
    assert row["tokens"] == payer.billed() > 0
    assert row["unconfirmed_tokens"] == window.phantom_tokens > 0
    assert row["calls"] + row["unconfirmed_calls"] == window.used_requests
    assert row["cost_microunits"] == 650 * payer.billed()
    assert row["currency"] == "RUB"


async def test_a_call_is_billed_on_the_day_of_its_hold(account: Account, budget: PostgresBudget) -> None:
    """Whenever it settles; each model by itself, what was never sent not at all."""
    first, second, other, unsent = [
        await held_yesterday(account, budget, model=model) for model in ("M", "M", "other/model", "M")
    ]
    await settle(budget, first, 300)
    await settle(budget, second, 40)
    await settle(budget, other, 5)
    async with aclosing(BudgetGate(budget, NO_LIMITS)) as gate:
        await gate.release(unsent)
    await account.bill()
    assert await billed_calls(account) == [
        (YESTERDAY, "M", 1, 340, 2, 0, 0, 340 * 650),
        (YESTERDAY, "other/model", 1, 5, 1, 0, 0, 5 * 650),
    ]
    assert (await account.bill()).billed == ()


async def test_a_late_settle_restates_its_day(account: Account, budget: PostgresBudget) -> None:
    """A call that nobody settled is unconfirmed and costs nothing; it is billed when it settles after all."""
    hold = await held_yesterday(account, budget, tokens=1_000)
    await budget.sweep(now=datetime.now(UTC))
    await account.bill()
    assert await billed_calls(account) == [(YESTERDAY, "M", 1, 0, 0, 1_000, 1, 0)]
    await settle(budget, hold, 700)
    report = await account.bill(price=TokenPrice(Decimal(9_999), "USD"))
    assert [(one.line.day, one.revision, one.price) for one in report.restated] == [(YESTERDAY, 2, PRICE)]
    assert (await billed_calls(account))[1:] == [(YESTERDAY, "M", 2, 700, 1, 0, 0, 700 * 650)]
    told = events((await account.files())[f"{YESTERDAY:%Y-%m}/events.jsonl"])
    assert [
        {name: one["data"][name] for name in ("tokens", "calls", "unconfirmed_tokens", "cost", "revision")}
        for one in told
    ] == [
        {"tokens": 0, "calls": 0, "unconfirmed_tokens": 1_000, "cost": 0.0, "revision": 1},
        {"tokens": 700, "calls": 1, "unconfirmed_tokens": -1_000, "cost": 0.455, "revision": 2},
    ]


async def test_without_a_price_no_cost_is_told(account: Account, budget: PostgresBudget) -> None:
    """Neither in the table nor in files and events; a price that comes later holds for later days."""
    await settle(budget, await held_yesterday(account, budget), 10)
    await account.bill(price=None)
    assert await billed_calls(account) == [(YESTERDAY, "M", 1, 10, 1, 0, 0, None)]
    assert (await account.bill(price=PRICE)).billed == ()
    files = await account.files()
    [row] = parquet_rows(files[f"{YESTERDAY:%Y-%m}/usage.parquet"])
    assert (row["tokens"], row["cost"], row["currency"]) == (10, None, None)
    [told] = events(files[f"{YESTERDAY:%Y-%m}/events.jsonl"])
    assert not {"cost", "currency"} & set(told["data"])


async def test_a_price_is_of_one_provider(account: Account, budget: PostgresBudget) -> None:
    """What another one takes for its tokens is not known, and is not told."""
    await settle(budget, await held_yesterday(account, budget, model="A"), 10)
    await settle(budget, await held_yesterday(account, budget, provider="another", model="B"), 20)
    await account.bill()
    assert [(model, tokens, cost) for _, model, _, tokens, *_, cost in await billed_calls(account)] == [
        ("B", 20, None),
        ("A", 10, 10 * 650),
    ]
