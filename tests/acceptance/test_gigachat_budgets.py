"""Many pictures of many tenants go through the passes to GigaChat, and budgets end: the books equal the bills."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.drawn_media import DrawnMedia, draw_media
from tests.acceptance.to_do import still_to_do
from tests.chaos.figures import write_section
from tests.emulated_gigachat import EmulatedGigaChat, emulated_gigachat
from tests.world import World, open_world
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.limits import set_budget_limits
from vision_assets.clients.postgres.vision import PostgresVision
from vision_assets.core.analysis import VisionPass
from vision_assets.core.budget import EVERYONE, BudgetLimits
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.tenants import Tenant
from vision_assets.core.vision_report import VisionReport
from vision_assets.devstack.gigachat_options import LognormalLatency, Options
from vision_assets.settings import Settings

TENANTS = 8
MODEL = "GigaChat-2-Max"
ESTIMATE_TOKENS = 4096
"""More than is ever learned here, so that every call is held at the same."""

A_CALL_TOKENS = 340
"""About what one bills; only how hard the limits bite hangs on it."""

Limits = Mapping[str, tuple[int | None, int | None]]
"""(tokens, requests) by period."""


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant, its pictures, and what it may spend."""

    tenant: Tenant
    media: DrawnMedia
    limits: Limits

    @property
    def token_limit(self) -> int | None:
        """The tightest limit of tokens."""
        return min((tokens for tokens, _ in self.limits.values() if tokens is not None), default=None)

    @property
    def most_calls(self) -> int:
        """Calls when tokens do not end: one for each picture that looks like no other, if requests allow."""
        requests = [requests for _, requests in self.limits.values() if requests is not None]
        return min([len(self.media.originals), *requests])

    @property
    def at_once(self) -> int:
        """Calls at once: one after the other where tokens end, so that it is clear how many of them fit."""
        return 1 if self.limits else 2


def limits_of(number: int, originals: int) -> Limits:
    """Give each tenant other limits; of two nothing is limited, and of one more than enough is allowed."""
    return (
        {},
        {},
        {"day": (None, originals // 2)},
        {"month": (None, 1)},
        {"day": (ESTIMATE_TOKENS + A_CALL_TOKENS * originals // 3, None)},
        {"month": (ESTIMATE_TOKENS + A_CALL_TOKENS * originals // 2, None)},
        {"day": (ESTIMATE_TOKENS - 1, None)},
        {"day": (ESTIMATE_TOKENS * originals, 2 * originals), "month": (ESTIMATE_TOKENS * originals, None)},
    )[number]


@dataclass(slots=True)
class Crowd:
    """All tenants, and GigaChat to look at their pictures."""

    world: World
    api: GigaChat
    budget: PostgresBudget
    server: EmulatedGigaChat
    clock_starts_at: datetime
    started: float

    def now(self) -> datetime:
        """Tell the time from noon on, so that no run has two days."""
        return self.clock_starts_at + timedelta(seconds=time.monotonic() - self.started)

    def gate(self) -> BudgetGate:
        """The gate of one process."""
        return BudgetGate(self.budget, BudgetLimits(), estimate_floor_tokens=ESTIMATE_TOKENS, clock=self.now)

    def provider(self, customer: Customer) -> GigaChatVision:
        """GigaChat for one tenant."""
        return GigaChatVision(self.api, customer.tenant.id, model=MODEL)

    async def settle_in(self, number: int, media: DrawnMedia) -> Customer:
        """Make a tenant, with its limits and its posts."""
        customer = Customer(await self.world.tenant(f"Tenant {number}"), media, limits_of(number, len(media.originals)))
        await set_budget_limits(self.world.database, customer.tenant.id, customer.limits)
        await self.world.load(customer.tenant, media.folder)
        return customer

    async def analyse(self, customers: Sequence[Customer]) -> list[VisionReport]:
        """Run the passes of all tenants at once."""
        async with aclosing(self.gate()) as gate:
            return await asyncio.gather(
                *(
                    VisionPass(
                        tenant_id=customer.tenant.id,
                        provider=self.provider(customer),
                        store=self.world.bucket,
                        quota=self.world.quota(),
                        ledger=PostgresVision(self.world.database),
                        policy=VisionPolicy(reuse_audit_share=0),  # an audit is a call about a picture that needs none
                        gate=gate,
                        concurrency=customer.at_once,
                    ).analyse_media()
                    for customer in customers
                )
            )


@pytest.fixture
def gigachat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedGigaChat]:
    """An emulated GigaChat of the test's own, with as many streams as a business account has, that takes its time."""
    options = Options(latency=LognormalLatency(mean_seconds=0.05, sigma=0.8))
    with emulated_gigachat(tmp_path_factory.mktemp("gigachat"), options) as server:
        yield server


@pytest.fixture
async def crowd(parts: Settings, database: str, bucket: str, gigachat: EmulatedGigaChat) -> AsyncIterator[Crowd]:
    """A fresh database and bucket, and the emulated GigaChat."""
    noon = datetime.now(UTC).replace(hour=12, minute=0)
    access = gigachat.access(read_seconds=60, deadline_seconds=120)
    async with (
        open_world(database, bucket, parts) as world,
        PostgresBudget.open(database) as budget,
        GigaChat.open(access) as api,
    ):
        yield Crowd(world, api, budget, gigachat, noon, time.monotonic())


def assert_as_many_as_fit(customer: Customer, bills: Sequence[int]) -> None:
    """Hold the calls against what the limits allow, whatever the ledger says.

    Args:
        bills: Tokens of the tenant's calls, in order.
    """
    limit = customer.token_limit
    if limit is None:
        assert len(bills) == customer.most_calls
        return
    spent_before = [sum(bills[:call]) for call in range(len(bills) + 1)]
    fits = [spent + ESTIMATE_TOKENS <= limit for spent in spent_before]
    assert all(fits[:-1]), "a call was made for which there was no room"
    assert len(bills) == customer.most_calls or not fits[-1], "there was room for one more call"


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(3600)
async def test_budgets_end_where_they_should(crowd: Crowd, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each tenant pays once for each picture that looks like no other, as far as its budget goes, and not a token more.

    Copies and renderings of what was paid for are free; what the budget does not let through is still to do; and
    without a new budget a second run makes no call.
    """
    long = bool(request.config.getoption("--long"))
    media, seed = 10_000 if long else 400, random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    # Tenants have pictures in common, and each pays for its own.
    drawn = [
        draw_media(tmp_path / str(number), media // TENANTS, first_seed=number * media // TENANTS // 4, chance=chance)
        for number in range(TENANTS)
    ]
    began = time.monotonic()
    customers = [await crowd.settle_in(number, one) for number, one in enumerate(drawn)]
    stored = await asyncio.gather(*(crowd.world.store_media(customer.tenant) for customer in customers))
    assert [report.failures for report in stored] == [[]] * TENANTS
    stored_at = time.monotonic()
    reports = await crowd.analyse(customers)
    analysed_at = time.monotonic()

    counts = crowd.server.counts()
    bills: dict[str, list[tuple[int, tuple[str, ...]]]] = defaultdict(list)
    for bill in counts["bills"]:
        bills[bill["tenant"]].append((bill["usage"]["total_tokens"], tuple(bill["file_sha256s"])))
    gate = crowd.gate()
    for customer, report in zip(customers, reports, strict=True):
        name, own = customer.tenant.name, bills[str(customer.tenant.id)]
        tokens, paid = [tokens for tokens, _ in own], [sha256 for _, files in own for sha256 in files]
        assert_as_many_as_fit(customer, tokens)
        answered = counts["calls"].get(str(customer.tenant.id), {}).get("chat", {})
        assert answered == ({"200": len(own)} if own else {}), name
        assert len(set(paid)) == len(paid) == len(own), f"{name} pays for each picture once"
        assert set(paid) <= customer.media.originals, name

        for window in await gate.windows(customer.tenant.id):
            if window.key.scope == EVERYONE:
                assert window.used_tokens == sum(tokens for of_one in bills.values() for tokens, _ in of_one)
                continue
            assert (window.used_tokens, window.used_requests) == (sum(tokens), len(own)), name
            assert (window.held_tokens, window.held_requests) == (0, 0), name
            assert (window.overrun_tokens, window.phantom_tokens) == (0, 0), name
            assert window.limit.tokens is None or window.used_tokens <= window.limit.tokens, name
            assert window.limit.requests is None or window.used_requests <= window.limit.requests, name

        free = {sha256 for sha256, original in customer.media.alike.items() if original in paid}
        assert report.failures == []
        assert report.methods == +Counter(new=len(paid), near_duplicate=len(free)), name
        to_do = await still_to_do(crowd.world, customer.tenant.id, crowd.provider(customer))
        assert to_do == customer.media.distinct - set(paid) - free, name
        assert sum(report.deferred.values()) == len(to_do), name
    assert await crowd.world.database.pool.fetchval("SELECT count(*) FROM budget_holds") == 0
    assert counts["files"] == 0

    again = await crowd.analyse(customers)
    assert crowd.server.counts()["calls"] == counts["calls"]
    assert [(one.analyses, one.failures) for one in again] == [(0, [])] * TENANTS
    figures = {
        "tenants": TENANTS,
        "media": sum(one.files for one in drawn),
        "calls": len(counts["bills"]),
        "reused": sum(report.methods["near_duplicate"] for report in reports),
        "deferred": sum(report.deferred.total() for report in reports),
        "tokens": sum(bill["usage"]["total_tokens"] for bill in counts["bills"]),
        "most_calls_at_once": counts["streams"]["chat"]["max"],
        "store_media_a_second": round(media / (stored_at - began), 1),
        "calls_a_second": round(len(counts["bills"]) / (analysed_at - stored_at), 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(figures)
    if long:
        write_section("budgets_end_where_they_should", {"seed": seed, "passed": True, **figures})
