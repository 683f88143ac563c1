"""A state machine that drives the real line through everything that can happen to it, against a list in memory.

Who is taken, and with what, must be what the list says: nothing is lost, nobody is taken twice, nobody is overtaken.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.waiting_tenants import POST, Waiters, open_waiters
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import LEASE, NO_POST, Taken, Turn

TENANTS, RUNS = 3, ("run-1", "run-2")
STEP_SECONDS = 50
"""Of time that passes; no lease and no rest is a multiple of it, so the test's own time does not matter."""

REST = timedelta(seconds=70)

tenants = st.integers(0, TENANTS - 1)
runs = st.sampled_from(RUNS)
Result = TypeVar("Result")


@dataclass(slots=True)
class Change:
    """A change as the list knows it; its place in line is that of its beginning."""

    tenant_id: TenantId
    place: int
    since: int
    is_committed: bool = True
    is_untold: bool = False


@dataclass(slots=True)
class Hand:
    """A turn that some run has, or believes to have."""

    turn: Turn
    seen: list[Change]
    is_its_own: bool = True


@dataclass(slots=True)
class State:
    """Of a tenant: until when nobody takes it, whose it is, which runs owe something of it, and if all was seen."""

    free_at: float = 0
    hand: Hand | None = None
    attempts: int = 0
    untold_by: frozenset[str] = frozenset()
    is_swept: bool = False


@dataclass(slots=True)
class Writer:
    """A transaction that has written a post and not ended."""

    connection: Any
    transaction: "asyncpg.transaction.Transaction"
    change: Change


@dataclass(slots=True)
class Books:
    """What must be true."""

    changes: list[Change] = field(default_factory=list)
    states: dict[TenantId, State] = field(default_factory=dict)
    now: float = 0
    places: int = 0

    def add(self, tenant_id: TenantId, *, since: int, is_committed: bool = True, is_untold: bool = False) -> Change:
        """Put a change at the end."""
        self.places += 1
        change = Change(tenant_id, self.places, since, is_committed, is_untold)
        self.changes.append(change)
        return change

    def of(self, tenant_id: TenantId) -> list[Change]:
        """The changes of a tenant that are to be seen, in their order."""
        own = [change for change in self.changes if change.tenant_id == tenant_id and change.is_committed]
        return sorted(own, key=lambda change: change.place)

    def next(self) -> TenantId | None:
        """Who is to be taken."""
        waiting = [
            (changes[0].place, tenant_id)
            for tenant_id, state in self.states.items()
            if state.free_at <= self.now and (changes := self.of(tenant_id))
        ]
        return min(waiting)[1] if waiting else None


class LineMachine(RuleBasedStateMachine):
    """Every example begins with an empty line."""

    database_url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.books = Books()
        self.hands: list[Hand] = []
        self.writers: list[Writer] = []
        self.messages = 10_000
        self.waiters, self.tenants = self.run(self.begin())
        self.books.states = {tenant: State() for tenant in self.tenants}

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run in the machine's own event loop."""
        return self.runner.run(coroutine)

    async def begin(self) -> tuple[Waiters, list[TenantId]]:
        """Open an empty database."""
        waiters = await self.stack.enter_async_context(open_waiters(self.database_url))
        await waiters.run("TRUNCATE tenants CASCADE")
        return waiters, await waiters.tenants(TENANTS)

    # ---- Writers ----

    @rule(number=tenants)
    def post(self, number: int) -> None:
        """Somebody writes a post."""
        post_id = self.run(self.waiters.post(self.tenants[number]))
        self.books.add(self.tenants[number], since=self.run(self.waiters.seq(post_id)))

    @precondition(lambda self: len(self.writers) < 3)
    @rule(number=tenants)
    def begin_post(self, number: int) -> None:
        """Somebody writes a post, and does not commit it yet."""
        self.messages += 1

        async def write() -> tuple[Any, Any, int]:
            connection = await self.waiters.database.pool.acquire()
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(POST, uuid4(), self.tenants[number], self.messages)
            return connection, transaction, await connection.fetchval("SELECT max(seq) FROM posts")

        connection, transaction, seq = self.run(write())
        change = self.books.add(self.tenants[number], since=seq, is_committed=False)
        self.writers.append(Writer(connection, transaction, change))

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), is_kept=st.booleans())
    def end_post(self, data: st.DataObject, is_kept: bool) -> None:
        """A transaction ends, well or not."""
        writer = self.writers.pop(data.draw(st.integers(0, len(self.writers) - 1)))

        async def end() -> None:
            await (writer.transaction.commit() if is_kept else writer.transaction.rollback())
            await self.waiters.database.pool.release(writer.connection)

        self.run(end())
        if is_kept:
            writer.change.is_committed = True
        else:
            self.books.changes.remove(writer.change)

    # ---- Runs ----

    @rule(run_id=runs)
    def claim(self, run_id: str) -> None:
        """A run asks for the next tenant."""
        expected = self.books.next()
        turn = self.run(self.waiters.line.claim(run_id, lease=LEASE))
        assert (turn and turn.tenant.id) == expected
        if turn is None or expected is None:
            return
        state, seen = self.books.states[expected], self.books.of(expected)
        if state.hand is not None:
            state.hand.is_its_own = False
        state.attempts += 1
        assert (turn.attempts, len(turn.change_ids)) == (state.attempts, len(seen))
        assert turn.is_untold is any(change.is_untold for change in seen)
        sweeps = turn.attempts > 1 or not state.is_swept
        assert turn.since == (0 if sweeps else min(change.since for change in seen))
        state.hand, state.free_at = Hand(turn, seen), self.books.now + LEASE.total_seconds()
        self.hands.append(state.hand)

    def _take_hand(self, data: st.DataObject) -> Hand:
        return self.hands.pop(data.draw(st.integers(0, len(self.hands) - 1)))

    def _end(self, hand: Hand, *, rest: float, attempts: int, is_told: bool) -> list[Change]:
        """Write down that a turn has ended, and give what it has seen and was still there."""
        run_id, before = hand.turn.run_id, self.books.states[hand.turn.tenant.id]
        untold_by = before.untold_by - {run_id} if is_told else before.untold_by | {run_id}
        self.books.states[hand.turn.tenant.id] = State(
            self.books.now + rest, None, attempts, untold_by, before.is_swept
        )
        seen = [change for change in self.books.changes if change in hand.seen]
        self.books.changes = [change for change in self.books.changes if change not in hand.seen]
        return seen

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), more_since=st.none() | st.integers(0, 9), is_told=st.booleans())
    def end(self, data: st.DataObject, more_since: int | None, is_told: bool) -> None:
        """A run has done what its turn has seen, or its share of it."""
        hand = self._take_hand(data)
        ended = self.run(self.waiters.line.end(hand.turn, more_since=more_since, is_told=is_told))
        assert ended is hand.is_its_own
        if not ended:
            return
        seen = self._end(hand, rest=0, attempts=0, is_told=is_told)
        if more_since is None:
            self.books.states[hand.turn.tenant.id].is_swept |= hand.turn.since == 0
        elif seen:
            self.books.add(hand.turn.tenant.id, since=more_since)

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), progressed=st.booleans(), is_told=st.booleans())
    def fail(self, data: st.DataObject, progressed: bool, is_told: bool) -> None:
        """A turn fails, having done something or nothing."""
        hand = self._take_hand(data)
        ended = self.run(
            self.waiters.line.end_failed(hand.turn, "down", rest=REST, progressed=progressed, is_told=is_told)
        )
        assert ended is hand.is_its_own
        if not ended:
            return
        attempts = 1 if progressed else self.books.states[hand.turn.tenant.id].attempts
        if seen := self._end(hand, rest=REST.total_seconds(), attempts=attempts, is_told=is_told):
            self.books.add(hand.turn.tenant.id, since=0, is_untold=any(change.is_untold for change in seen))

    @rule(run_id=runs, number=tenants)
    def tell(self, run_id: str, number: int) -> None:
        """A run has told of all that it did for a tenant."""
        self.run(self.waiters.line.told(run_id, [self.tenants[number]]))
        self.books.states[self.tenants[number]].untold_by -= {run_id}

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A turn is broken off."""
        hand = self._take_hand(data)
        self.run(self.waiters.line.give_back(hand.turn))
        if hand.is_its_own:
            before = self.books.states[hand.turn.tenant.id]
            before.free_at, before.hand = self.books.now, None

    @precondition(lambda self: self.hands)
    @rule()
    def prolong(self) -> None:
        """The first run gives a sign of life for all that it has, or believes to have."""
        own = [hand for hand in self.hands if hand.turn.run_id == RUNS[0]]
        self.run(self.waiters.line.prolong(RUNS[0], [hand.turn for hand in own], lease=LEASE))
        for hand in own:
            if hand.is_its_own:
                self.books.states[hand.turn.tenant.id].free_at = self.books.now + LEASE.total_seconds()

    @rule(run_id=runs)
    def find_dead(self, run_id: str) -> None:
        """A run is found to have ended; it may live all the same."""
        taken = [turn for turn in self.run(self.waiters.line.taken()) if turn.run_id == run_id]
        self.run(self.waiters.line.take_back(dict.fromkeys(taken, REST)))
        self.run(self.waiters.line.add_untold([run_id]))
        for tenant_id in sorted(self.tenants):
            state = self.books.states[tenant_id]
            if state.hand is not None and state.hand.turn.run_id == run_id:
                state.hand.is_its_own = False
                state.free_at, state.hand = self.books.now + REST.total_seconds(), None
            if run_id in state.untold_by:
                state.untold_by -= {run_id}
                self.books.add(tenant_id, since=NO_POST, is_untold=True)

    @rule()
    def wait(self) -> None:
        """Time passes."""
        self.run(self.waiters.let_pass(STEP_SECONDS))
        self.books.now += STEP_SECONDS

    # ---- What is always true ----

    @invariant()
    def the_line_is_as_written_down(self) -> None:
        """Changes and turns."""
        expected = {tenant: len(changes) for tenant in self.tenants if (changes := self.books.of(tenant))}
        assert self.run(self.waiters.changes()) == expected
        assert set(self.run(self.waiters.line.taken())) == {
            Taken(tenant_id, state.hand.turn.run_id, state.attempts)
            for tenant_id, state in self.books.states.items()
            if state.hand is not None
        }
        assert self.run(self.waiters.line.owing()) == set().union(*(s.untold_by for s in self.books.states.values()))

    def teardown(self) -> None:
        """Close the connections."""

        async def close() -> None:
            for writer in self.writers:
                await writer.transaction.rollback()
                await self.waiters.database.pool.release(writer.connection)
            await self.stack.aclose()

        self.run(close())
        self.runner.close()


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_the_line_is_what_the_list_says_whatever_happens(pytestconfig: pytest.Config, database: str) -> None:
    """After each step the real line has the same changes in the same order, and the same runs have the same turns."""
    examples, steps = (300, 60) if pytestconfig.getoption("--long") else (20, 40)
    machine = type("Machine", (LineMachine,), {"database_url": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
