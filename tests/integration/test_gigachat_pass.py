"""The pass of `vision_results` over GigaChat, with Postgres, S3 and the emulated server: the books are right."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_gigachat import EmulatedGigaChat
from tests.pictures import photo
from tests.world import World
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.analysis import VisionPass
from vision_assets.core.budget import Allowance, BudgetLimits, Window
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision_report import VisionReport

PICTURES = 12


@dataclass(slots=True)
class Payer:
    """A tenant with pictures, and GigaChat to look at them."""

    world: World
    tenant: Tenant
    api: GigaChat
    budget: PostgresBudget
    server: EmulatedGigaChat

    async def analyse(self, *, day_tokens: int = 1_000_000) -> VisionReport:
        """Run the pass."""
        limits = BudgetLimits(tenant={"day": Allowance(day_tokens), "calls": Allowance(requests=3)})
        async with aclosing(BudgetGate(self.budget, limits)) as gate:
            return await VisionPass(
                tenant_id=self.tenant.id,
                provider=GigaChatVision(self.api, self.tenant.id, model="GigaChat-2-Max"),
                store=self.world.bucket,
                quota=self.world.quota(),
                ledger=PostgresVision(self.world.database),
                gate=gate,
                concurrency=3,
            ).analyse_media()

    async def day(self) -> Window:
        """The tenant's day in the books."""
        gate = BudgetGate(self.budget, BudgetLimits())
        return next(window for window in await gate.windows(self.tenant.id) if window.key.period == "day")

    def billed(self) -> int:
        """Tokens that the server billed to the tenant."""
        bills = [bill for bill in self.server.bills() if bill["tenant"] == str(self.tenant.id)]
        assert len(bills) == len(self.server.bills())
        return sum(bill["usage"]["total_tokens"] for bill in bills)

    async def statuses(self) -> Counter[str]:
        """Results by status, and by reason where there is one."""
        rows = await self.world.database.pool.fetch("SELECT coalesce(reason, status) AS status FROM vision_results")
        return Counter(row["status"] for row in rows)


@pytest.fixture
async def payer(tmp_path: Path, world: World, database: str, gigachat: EmulatedGigaChat) -> AsyncIterator[Payer]:
    """A tenant with pictures that do not look alike."""
    tenant = await world.tenant("Payer")
    for seed in range(PICTURES):
        photo(320, 240, seed=seed).save(tmp_path / f"{seed}.jpg")
    await world.load(tenant, tmp_path)
    await world.store_media(tenant)
    access = gigachat.access(read_seconds=2, deadline_seconds=10)
    async with GigaChat.open(access) as api, PostgresBudget.open(database) as budget:
        yield Payer(world, tenant, api, budget, gigachat)


async def test_the_books_hold_what_was_billed(payer: Payer) -> None:
    """Every picture is described by one call; budget, rows and the provider's bills agree to the token."""
    report = await payer.analyse()
    assert (report.analyses, report.failures, report.deferred) == (PICTURES, [], {})
    window = await payer.day()
    assert window.used_tokens == payer.billed() == report.tokens
    assert (window.held_tokens, window.used_requests, window.overrun_tokens) == (0, PICTURES, 0)
    rows = await payer.world.database.pool.fetchval("SELECT sum(tokens_used) FROM vision_results")
    assert rows == window.used_tokens
    assert payer.server.files() == []
    again = await payer.analyse()
    assert (again.analyses, len(payer.server.bills())) == (0, PICTURES)


async def test_a_bad_day(payer: Payer) -> None:
    """A token runs out, 429s come in a burst, calls hang, are dropped and refused: in the end every picture has an end.

    What was charged without an answer stands apart in the books; the rest is what was billed, to the token.
    """
    faults: list[dict[str, Any]] = [
        {"kind": "token_expired", "endpoint": "chat", "after": 2, "times": 1},
        {"kind": "rate_limited", "endpoint": "chat", "after": 1, "times": 3, "retry_after": "seconds"},
        {"kind": "hang", "endpoint": "chat", "after": 4, "times": 1},
        {"kind": "drop", "endpoint": "chat", "after": 5, "times": 1},
        {"kind": "blacklist", "after": 6, "times": 1},
        {"kind": "prose", "after": 5, "times": 2},
        {"kind": "server_error", "endpoint": "files", "after": 7, "times": 2},
    ]
    payer.server.set_faults(*faults)
    first = await payer.analyse()
    assert (first.failures, first.deferred) == ([], {"provider_failed": 2}), "one hung, one was dropped"
    await payer.world.database.pool.execute("UPDATE vision_decisions SET due_at = now()")
    second = await payer.analyse()
    assert (second.failures, second.deferred) == ([], {})
    assert all(fault["hit"] for fault in payer.server.faults())
    statuses = await payer.statuses()
    assert statuses.total() == PICTURES
    assert statuses["blacklist"] == 1
    window = await payer.day()
    assert window.used_tokens - window.phantom_tokens == payer.billed()
    assert (window.held_tokens, window.phantom_tokens > 0) == (0, True)
    assert payer.server.files() == []


async def test_an_empty_account_ends_the_calls(payer: Payer) -> None:
    """When the account is empty few calls find out, nothing is charged, and after a top-up all is done."""
    payer.server.set_faults({"kind": "payment_required", "endpoint": "chat"})
    report = await payer.analyse()
    assert 1 <= len(report.failures) <= 3
    assert "Top the account up" in report.failures[0]
    assert report.deferred == {"provider_refuses": PICTURES - len(report.failures)}
    assert (await payer.day()).used_tokens == 0
    payer.server.set_faults()
    assert (await payer.analyse()).analyses == PICTURES


async def test_no_budget_is_overspent(payer: Payer) -> None:
    """With room for a few pictures a few are described; the rest waits, and the limit stands."""
    report = await payer.analyse(day_tokens=8_000)
    assert 0 < report.analyses < PICTURES
    assert report.deferred == {"daily_limit": PICTURES - report.analyses}
    window = await payer.day()
    assert window.used_tokens == payer.billed() <= 8_000
