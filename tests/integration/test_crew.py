"""Crews that take turns with the tenants in line, on the real Postgres.

What is not here: the line by itself (`test_line.py`), and the stages (`tests/defs/test_new_posts.py`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from tests.waiting_tenants import Waiters, open_waiters
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.core.crew import GIVE_UP_AFTER, Crew
from vision_assets.core.errors import ConfigurationError, DatabaseUnavailable, StorageUnavailable, TurnsFailed
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.core.turns import HOPELESS_REST, LEASE, STUCK_AFTER, Ended, Turn

REST = "SELECT error, round(extract(epoch FROM free_at - now())) AS rest FROM tenant_turns WHERE tenant_id = $1"


@dataclass
class Did:
    """What a turn of these tests tells."""

    progressed: bool = False
    has_more: bool = False
    since: int = 0
    failures: list[str] = field(default_factory=list)
    hopeless: bool = False


Work = Callable[[Tenant], Awaitable[Did]]


@pytest.fixture
async def waiters(database: str) -> AsyncIterator[Waiters]:
    """An empty line."""
    async with open_waiters(database) as opened:
        yield opened


def crew(
    waiters: Waiters, work: Work, *, at_once: int = 2, run_seconds: float = 60, idle_seconds: float = 0
) -> AbstractAsyncContextManager[Crew[Did]]:
    """A crew that ends as soon as nobody is in line."""

    def of_tenant(turn: Turn) -> Awaitable[Did]:
        return work(turn.tenant)

    return Crew.at_work(
        "run", waiters.line, of_tenant, at_once=at_once, run_seconds=run_seconds, idle_seconds=idle_seconds
    )


async def done(waiters: Waiters, work: Work, *, at_once: int = 2) -> list[Ended[Did]]:
    """Let a crew work to the end."""
    ended: list[Ended[Did]] = []
    async with crew(waiters, work, at_once=at_once) as at_work:
        while turns := await at_work.ended():
            ended += turns
    return ended


async def nothing(tenant: Tenant) -> Did:
    """Do nothing, and well."""
    return Did()


async def test_each_is_taken_once_and_so_many_at_once(waiters: Waiters) -> None:
    """Never more than there is room for, and never fewer while somebody waits."""
    tenants = await waiters.tenants(7)
    for tenant in tenants:
        await waiters.post(tenant)
    now, most, least = 0, 0, Counter[int]()

    async def work(tenant: Tenant) -> Did:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.05)
        least[now] += 1
        now -= 1
        return Did()

    ended = await done(waiters, work, at_once=3)
    assert sorted(turn.turn.tenant.id for turn in ended) == sorted(tenants)
    assert most == 3
    assert await waiters.changes() == {}
    assert await waiters.line.taken() == []


async def test_a_crew_waits_for_those_who_come_meanwhile(waiters: Waiters) -> None:
    """While it waits for somebody it takes whoever comes; when its time is over, nobody any more."""
    [tenant] = await waiters.tenants(1)

    async with crew(waiters, nothing, idle_seconds=60) as at_work:
        ending = asyncio.create_task(at_work.ended())
        await asyncio.sleep(0.1)
        await waiters.post(tenant)
        [ended] = await ending
        assert ended.turn.tenant.id == tenant
    await waiters.forget()
    await waiters.post(tenant)
    async with crew(waiters, nothing, run_seconds=0) as at_work:
        assert await at_work.ended() == []
    assert await waiters.changes() == {tenant: 1}


async def test_a_large_tenant_lets_the_others_go_between_its_turns(waiters: Waiters) -> None:
    """Whoever has more to do than its share is behind those who wait."""
    large, *others = await waiters.tenants(4)
    order: list[TenantId] = []
    for tenant in (large, *others):
        await waiters.post(tenant)

    async def work(tenant: Tenant) -> Did:
        order.append(tenant.id)
        return Did(has_more=order.count(large) < 3)

    async def only_large(tenant: Tenant) -> Did:
        did = await work(tenant)
        return did if tenant.id == large else Did()

    await done(waiters, only_large, at_once=1)
    assert order == [large, *others, large, large]


async def test_one_that_fails_stops_nobody(waiters: Waiters) -> None:
    """Neither an error of the project, nor a fault of the code, nor items that failed; each rests and stays to do."""
    broken, faulty, partial, well = await waiters.tenants(4)
    for tenant in (broken, faulty, partial, well):
        await waiters.post(tenant)

    async def work(tenant: Tenant) -> Did:
        if tenant.id == broken:
            raise ExceptionGroup("", [StorageUnavailable("S3 is away"), StorageUnavailable("S3 is away")])
        if tenant.id == faulty:
            raise ZeroDivisionError("a fault")
        return Did(failures=["a: gone", "b: gone", "c: gone", "d: gone"] if tenant.id == partial else [])

    ended = {one.turn.tenant.id: one for one in await done(waiters, work)}
    assert ended[well].error is None
    assert ended[broken].error == "StorageUnavailable: S3 is away"
    assert ended[faulty].error == "ZeroDivisionError: a fault"
    assert ended[partial].error == "4 items failed and stay to do. First: a: gone; b: gone; c: gone"
    assert await waiters.changes() == {broken: 1, faulty: 1, partial: 1}
    for tenant in (broken, faulty, partial):
        [(error, rest)] = await waiters.database.pool.fetch(REST, tenant)
        assert error == ended[tenant].error
        assert 0 < rest <= (HOPELESS_REST.total_seconds() if tenant == faulty else 10)
    assert [ended[tenant].is_hopeless for tenant in (broken, faulty, partial)] == [False, True, False]


@pytest.mark.parametrize("is_raised", [True, False])
async def test_what_will_not_pass_by_itself_rests_for_minutes(waiters: Waiters, is_raised: bool) -> None:
    """A wrong setting, or items that fail for one; no longer, as the tenant's other posts wait with them."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)

    async def work(tenant: Tenant) -> Did:
        if is_raised:
            raise ConfigurationError("policy: no such key")
        return Did(failures=["a: no money"], hopeless=True)

    await done(waiters, work)
    [(_, rest)] = await waiters.database.pool.fetch(REST, tenant)
    assert 240 < rest <= 300


async def test_a_tenant_that_fails_again_rests_longer(waiters: Waiters) -> None:
    """Each time, until it goes well."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    rests = []

    async def work(tenant: Tenant) -> Did:
        raise StorageUnavailable("S3 is away")

    for _ in range(3):
        await done(waiters, work)
        [(_, rest)] = await waiters.database.pool.fetch(REST, tenant)
        rests.append(rest)
        await waiters.let_pass(float(rest) + 1)
    assert rests == sorted(set(rests))


async def test_a_tenant_of_which_something_is_done_rests_shortest_and_is_not_stuck(waiters: Waiters) -> None:
    """One item that always fails keeps the others waiting for seconds; nothing done for many turns, and people hear."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)
    told: dict[bool, list[Ended[Did]]] = {}
    for progressed in (True, False):

        async def work(tenant: Tenant, *, progressed: bool = progressed) -> Did:
            return Did(progressed=progressed, failures=["a: gone"])

        told[progressed] = []
        for _ in range(STUCK_AFTER + 1):
            told[progressed] += await done(waiters, work)
            await waiters.let_pass(60)
    assert {ended.rest.total_seconds() for ended in told[True]} == {10}
    assert not any(ended.is_stuck for ended in told[True])
    assert [ended.turn.attempts for ended in told[False] if ended.is_stuck] == [STUCK_AFTER]


async def test_when_one_after_the_other_fails_the_crew_gives_up(waiters: Waiters) -> None:
    """The tenants behind them are not even tried, and do not rest."""
    tenants = await waiters.tenants(GIVE_UP_AFTER + 4)
    for tenant in tenants:
        await waiters.post(tenant)

    async def work(tenant: Tenant) -> Did:
        raise StorageUnavailable("S3 is away")

    with pytest.raises(TurnsFailed, match="S3 is away"):
        await done(waiters, work, at_once=1)
    turn = await waiters.line.claim("other", lease=LEASE)
    assert turn is not None
    assert turn.tenant.id == tenants[GIVE_UP_AFTER]


async def test_turns_under_way_end_when_the_crew_gives_up(waiters: Waiters) -> None:
    """Their calls may be paid for: they are told of before the error comes, and nobody else is taken."""
    slow, *others = await waiters.tenants(GIVE_UP_AFTER + 4)
    for tenant in (slow, *others):
        await waiters.post(tenant)
    failed, told = asyncio.Semaphore(0), list[TenantId]()

    async def work(tenant: Tenant) -> Did:
        if tenant.id == slow:
            for _ in range(GIVE_UP_AFTER):
                await failed.acquire()
            await asyncio.sleep(0.05)
            return Did(failures=["a: gone"])
        failed.release()
        raise StorageUnavailable("S3 is away")

    async def tell() -> None:
        async with crew(waiters, work) as at_work:
            while turns := await at_work.ended():
                told.extend(turn.turn.tenant.id for turn in turns)

    with pytest.raises(TurnsFailed):
        await tell()
    assert sorted(told) == sorted([slow, *others[:GIVE_UP_AFTER]])
    assert await waiters.line.taken() == []


@dataclass(frozen=True, slots=True)
class Faltering(PostgresLine):
    """A line that gives one tenant, and then cannot be reached by those who ask for another."""

    asked: list[str] = field(default_factory=list)

    async def claim(self, run_id: str, *, lease: timedelta) -> Turn | None:
        """Give one."""
        self.asked.append(run_id)
        if len(self.asked) > 1:
            raise DatabaseUnavailable("gone")
        return await PostgresLine.claim(self, run_id, lease=lease)


async def test_turns_under_way_end_when_the_line_fails(waiters: Waiters) -> None:
    """The turn is told of, and ends in the line if that can be reached again; then comes the error."""
    first, second = await waiters.tenants(2)
    for tenant in (first, second):
        await waiters.post(tenant)
    waiters.line = Faltering(waiters.database)
    told = list[TenantId]()

    async def work(tenant: Tenant) -> Did:
        await asyncio.sleep(0.05)
        return Did()

    async def tell() -> None:
        async with crew(waiters, work) as at_work:
            while turns := await at_work.ended():
                told.extend(turn.turn.tenant.id for turn in turns)

    with pytest.raises(DatabaseUnavailable):
        await tell()
    assert told == [first]
    assert set(await waiters.changes()) == {second}


async def test_tenants_of_which_something_is_done_are_no_reason_to_give_up(waiters: Waiters) -> None:
    """One bad item each, however many tenants: nothing is down."""
    tenants = await waiters.tenants(GIVE_UP_AFTER + 4)
    for tenant in tenants:
        await waiters.post(tenant)

    async def work(tenant: Tenant) -> Did:
        return Did(progressed=True, failures=["a: gone"])

    assert len(await done(waiters, work)) == len(tenants)


async def test_one_success_between_failures_keeps_the_crew_at_work(waiters: Waiters) -> None:
    """Only failures in succession count."""
    tenants = await waiters.tenants(2 * GIVE_UP_AFTER)
    for tenant in tenants:
        await waiters.post(tenant)
    well = tenants[GIVE_UP_AFTER - 1]

    async def work(tenant: Tenant) -> Did:
        if tenant.id != well:
            raise StorageUnavailable("S3 is away")
        return Did()

    with pytest.raises(TurnsFailed):
        await done(waiters, work, at_once=1)
    assert len(await waiters.database.pool.fetch("SELECT FROM tenant_turns")) == 2 * GIVE_UP_AFTER


async def test_turns_under_way_are_given_back_when_the_crew_is_broken_off(waiters: Waiters) -> None:
    """Clean-up of the work completes; the tenants may be taken at once."""
    tenants = await waiters.tenants(3)
    for tenant in tenants:
        await waiters.post(tenant)
    begun, cleaned = asyncio.Semaphore(0), list[TenantId]()

    async def work(tenant: Tenant) -> Did:
        try:
            begun.release()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(tenant.id)
        return Did()

    async with crew(waiters, work) as at_work:
        watching = asyncio.create_task(at_work.ended())  # as an interruption leaves it behind
        await begun.acquire()
        await begun.acquire()
    assert watching.cancelled()
    assert sorted(cleaned) == sorted(tenants[:2])
    assert await waiters.line.taken() == []
    turns = [await waiters.line.claim("other", lease=LEASE) for _ in range(3)]
    assert [turn.tenant.id for turn in turns if turn] == tenants


async def test_a_turn_ends_in_the_line_when_it_was_told_of(waiters: Waiters) -> None:
    """A crew that is broken off before leaves it to do, so that the next turn tells of it: it is a further attempt."""
    tenants = await waiters.tenants(3)
    for tenant in tenants:
        await waiters.post(tenant)
    async with crew(waiters, nothing, at_once=1) as at_work:
        for tenant in tenants[:2]:
            [ended] = await at_work.ended()
            assert ended.turn.tenant.id == tenant
    assert set(await waiters.changes()) == set(tenants[1:])
    again = await waiters.line.claim("other", lease=LEASE)
    assert again is not None
    assert (again.tenant.id, again.attempts) == (tenants[1], 2)


async def test_a_turn_whose_tenant_another_run_has_by_now_changes_nothing(waiters: Waiters) -> None:
    """It was held up beyond its lease; the crew goes on with the others."""
    tenants = await waiters.tenants(2)
    for tenant in tenants:
        await waiters.post(tenant)

    async def work(tenant: Tenant) -> Did:
        if tenant.id == tenants[0]:
            await waiters.let_pass(LEASE.total_seconds() + 1)
            assert await waiters.line.claim("other", lease=LEASE) is not None
        return Did()

    assert len(await done(waiters, work, at_once=1)) == 2
    assert [turn.run_id for turn in await waiters.line.taken()] == ["other"]
    assert set(await waiters.changes()) == {tenants[0]}


async def test_a_database_that_is_away_ends_the_crew(waiters: Waiters) -> None:
    """As a passing fault; nobody is thought to have been done."""
    [tenant] = await waiters.tenants(1)
    await waiters.post(tenant)

    async def work(tenant: Tenant) -> Did:
        await waiters.database.pool.close()
        return Did()

    with pytest.raises(DatabaseUnavailable):
        await done(waiters, work)
