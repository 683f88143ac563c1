"""All goes wrong in one day with GigaChat, and the worker is killed: every picture has an end, and so has every token.

What a call is charged, by what became of it:

- it was answered, or refused by an answer that was billed: what was billed;
- it was not billed for sure (401, 429, 5xx): nothing;
- it ended without an answer, because it timed out or its worker was killed: its estimate, which is more than it can
  have been billed. The books keep these apart as phantom tokens.

So of each tenant `used - phantom <= billed <= used`.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.day_worker import CALLS_AT_ONCE, ESTIMATE_TOKENS, MODEL, Orders
from tests.acceptance.to_do import still_to_do
from tests.chaos.test_storage import bucket_orders
from tests.emulated_gigachat import EmulatedGigaChat, emulated_gigachat
from tests.pictures import photo
from tests.world import World, open_world
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.limits import set_budget_limits
from vision_assets.core.tenants import Tenant
from vision_assets.devstack.gigachat_options import LognormalLatency, Options
from vision_assets.settings import PROJECT_ROOT, Settings

NAMES = ("Free", "Limited", "Unlucky")
PICTURES = 16
"""Of each tenant."""

REQUESTS = 14
"""That the second tenant may make in the month."""

BEFORE_THE_KILL = 8
"""Chats of each tenant that are let through; then all hang, and the worker is killed."""

READ_SECONDS = 5
HOLD_SECONDS = 16
_AWAITED_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Books:
    """What one tenant's ledger says, over all its months."""

    used_tokens: int
    phantom_tokens: int
    held_tokens: int
    used_requests: int
    held_requests: int


@dataclass(slots=True)
class Day:
    """Tenants with pictures, the emulated GigaChat, and workers."""

    world: World
    server: EmulatedGigaChat
    tenants: list[Tenant]
    orders: Orders
    folder: Path

    def start(self, number: int) -> "subprocess.Popen[bytes]":
        """Start a worker in a process of its own; it writes to a file."""
        with (self.folder / f"worker-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.day_worker"],
                cwd=PROJECT_ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        assert process.stdin
        with process.stdin as orders:
            orders.write(self.orders.to_json().encode())
        return process

    async def all_calls_hang(self) -> None:
        """Wait until every call that the worker may make at once is one that hangs."""
        async with asyncio.timeout(_AWAITED_SECONDS):
            while True:
                counts = self.server.counts()
                hung = [
                    counts["calls"].get(str(tenant.id), {}).get("chat", {}).get("hang", 0) for tenant in self.tenants
                ]
                under_way = counts["streams"]["chat"]["now"]
                if min(hung) >= CALLS_AT_ONCE and under_way == CALLS_AT_ONCE * len(self.tenants):
                    return
                await asyncio.sleep(0.02)

    async def run(self, number: int) -> None:
        """Run a worker to its end."""
        process = self.start(number)
        code = await asyncio.to_thread(process.wait, _AWAITED_SECONDS)
        assert code == 0, (self.folder / f"worker-{number}.log").read_text(errors="replace")[-5000:]

    async def books(self, tenant: Tenant) -> Books:
        """Read a tenant's ledger."""
        [row] = await self.world.database.pool.fetch(
            "SELECT sum(used_tokens)::bigint AS used_tokens, sum(phantom_tokens)::bigint AS phantom_tokens, "
            "sum(held_tokens)::bigint AS held_tokens, sum(used_requests)::bigint AS used_requests, "
            "sum(held_requests)::bigint AS held_requests FROM budget_windows WHERE scope = $1 AND period = 'month'",
            tenant.id,
        )
        return Books(**row)

    async def statuses(self, tenant: Tenant) -> dict[str, str]:
        """Results by picture: the status, or the reason of an error."""
        rows = await self.world.database.pool.fetch(
            "SELECT sha256, coalesce(reason, status) AS status FROM vision_results WHERE tenant_id = $1", tenant.id
        )
        return {row["sha256"]: row["status"] for row in rows}

    async def dead_letters(self, tenant: Tenant) -> set[str]:
        """Pictures that were given up."""
        rows = await self.world.database.pool.fetch("SELECT item FROM dead_letters WHERE tenant_id = $1", tenant.id)
        return {row["item"] for row in rows}

    async def let_pauses_pass(self) -> None:
        """Let the time pass for which pictures rest whose calls were charged in vain."""
        await self.world.database.pool.execute("UPDATE vision_decisions SET due_at = now() WHERE attempts > 0")


@pytest.fixture
def gigachat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedGigaChat]:
    """An emulated GigaChat of the test's own that takes its time."""
    options = Options(latency=LognormalLatency(mean_seconds=0.1, sigma=0.8))
    with emulated_gigachat(tmp_path_factory.mktemp("gigachat"), options) as server:
        yield server


@pytest.fixture
async def day(
    parts: Settings, database: str, bucket: str, gigachat: EmulatedGigaChat, tmp_path: Path
) -> AsyncIterator[Day]:
    """Tenants whose pictures are stored and do not look alike."""
    access = gigachat.access(read_seconds=READ_SECONDS, deadline_seconds=HOLD_SECONDS / 2)
    told = asdict(access) | {"credentials": access.credentials.get_secret_value(), "ca_file": str(access.ca_file)}
    async with open_world(database, bucket, parts) as world:
        tenants = [await world.tenant(name) for name in NAMES]
        for number, tenant in enumerate(tenants):
            folder = tmp_path / tenant.name
            folder.mkdir()
            for seed in range(number * PICTURES, (number + 1) * PICTURES):
                photo(128, 96, seed=seed).save(folder / f"{seed:03}.jpg")
            await world.load(tenant, folder)
            await world.store_media(tenant)
        await set_budget_limits(world.database, tenants[1].id, {"month": (None, REQUESTS)})
        orders = Orders(
            [str(tenant.id) for tenant in tenants], database, bucket_orders(parts, bucket), told, HOLD_SECONDS
        )
        yield Day(world, gigachat, tenants, orders, tmp_path)


def morning(tenants: list[Tenant]) -> list[dict[str, Any]]:
    """List what goes wrong for the first worker, until all its calls hang; those of one tenant are not billed."""
    unlucky = tenants[-1]
    return [
        {"kind": "token_expired", "endpoint": "chat", "after": 3, "times": 1},
        {"kind": "rate_limited", "endpoint": "chat", "after": 5, "times": 4},
        {"kind": "rate_limited", "endpoint": "chat", "after": 9, "times": 3, "retry_after": "seconds"},
        *(
            {
                "kind": "hang" if tenant is unlucky else "hang_after_billing",
                "endpoint": "chat",
                "tenant": str(tenant.id),
                "after": BEFORE_THE_KILL,
            }
            for tenant in tenants
        ),
    ]


def afternoon(tenants: list[Tenant]) -> list[dict[str, Any]]:
    """List what goes wrong for the second worker."""
    free, limited, unlucky = tenants
    return [
        {"kind": "token_expired", "endpoint": "chat", "after": 1, "times": 1},
        {"kind": "rate_limited", "endpoint": "chat", "times": 3, "retry_after": "http_date"},
        {"kind": "server_error", "endpoint": "chat", "after": 4, "times": 2, "status": 503},
        {"kind": "hang", "endpoint": "chat", "tenant": str(free.id), "after": 1, "times": 1},
        {"kind": "hang_after_billing", "endpoint": "chat", "tenant": str(free.id), "after": 2, "times": 1},
        {"kind": "blacklist", "tenant": str(unlucky.id), "after": 1, "times": 1},
        {"kind": "length", "tenant": str(limited.id), "times": 1},
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_worst_day(day: Day) -> None:
    """Every picture has a result, is a dead letter, or waits for budget; and the ledger is right to the token."""
    in_flight = CALLS_AT_ONCE * len(day.tenants)
    day.server.set_faults(*morning(day.tenants))
    worker = day.start(1)
    try:
        await day.all_calls_hang()
    finally:
        worker.kill()
        worker.wait()
    assert all(fault["hit"] for fault in day.server.faults())
    left = len(day.server.files())
    assert left >= in_flight, "the files of the killed calls are left, and those that were ready for the next ones"
    day.server.set_faults(*afternoon(day.tenants))
    await day.run(2)
    assert all(fault["hit"] for fault in day.server.faults())
    day.server.set_faults()
    await day.let_pauses_pass()
    await day.run(3)

    counts = day.server.counts()
    async with GigaChat.open(day.orders.access()) as api, PostgresBudget.open(day.orders.database_url) as budget:
        assert await api.delete_leftovers(now=datetime.now(UTC) + timedelta(hours=2)) == left
        await budget.sweep(now=datetime.now(UTC) + timedelta(seconds=HOLD_SECONDS))
        to_do = {
            tenant.name: await still_to_do(day.world, tenant.id, GigaChatVision(api, tenant.id, model=MODEL))
            for tenant in day.tenants
        }
    assert day.server.files() == []
    assert await day.world.database.pool.fetchval("SELECT count(*) FROM budget_holds WHERE NOT expired") == 0
    free, limited, unlucky = day.tenants
    for tenant in day.tenants:
        statuses, dead = await day.statuses(tenant), await day.dead_letters(tenant)
        assert len(statuses) + len(to_do[tenant.name]) == PICTURES, tenant.name
        assert not statuses.keys() & to_do[tenant.name], tenant.name
        assert dead == {sha256 for sha256, status in statuses.items() if status == "blacklist"}, tenant.name
        assert set(statuses.values()) <= {"ok", "blacklist"}, tenant.name

        books = await day.books(tenant)
        billed = sum(bill["usage"]["total_tokens"] for bill in counts["bills"] if bill["tenant"] == str(tenant.id))
        unanswered = counts["calls"][str(tenant.id)]["chat"].get("hang", 0)
        answered = await day.world.database.pool.fetchval(
            "SELECT sum(tokens_used) FROM vision_results WHERE tenant_id = $1", tenant.id
        )
        print(tenant.name, books, f"billed {billed}, answered {answered}, {unanswered} calls without an answer")
        assert unanswered >= CALLS_AT_ONCE + 2 * (tenant is free), tenant.name
        assert books.phantom_tokens == unanswered * ESTIMATE_TOKENS, tenant.name
        assert books.used_tokens - books.phantom_tokens == answered, tenant.name
        assert answered <= billed <= books.used_tokens, tenant.name
        assert (books.held_tokens, books.held_requests) == (0, 0), tenant.name
        assert books.used_requests == len(statuses) + unanswered, "a call without an answer is a request too"
    assert (to_do[free.name], to_do[unlucky.name]) == (set(), set())
    assert to_do[limited.name]
    assert (await day.books(limited)).used_requests == REQUESTS
    assert list((await day.statuses(unlucky)).values()).count("blacklist") == 1
