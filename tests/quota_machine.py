"""A state machine that drives the real guard through everything that can happen to an operation on an object.

After each step the ledger must be what the oracle says, to the byte and the slot. Sizes are fractions of the limit, so
that limits bite. Changes of S3 that no operation accounts for are a switch of the run: they would hide other faults.
What is not here: what is expected (`quota_oracle.py`), and the ledgers that it runs on (`test_quota_machine.py`).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid4

import structlog
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.ledgers import MemoryStore
from tests.quota_oracle import LIFE, UNCHECKED_LIMIT_BYTES, Flight, Oracle, Place, Process, Token, type_of
from vision_assets.core.errors import (
    DatabaseConflict,
    DatabaseUnavailable,
    QuotaExceeded,
    StorageBusy,
    StorageUnavailable,
)
from vision_assets.core.guarded_store import QuotaGuardedStore, TypedKey
from vision_assets.core.object_ledger import Begun, Committed, Entry, Have, Operation, OperationKind, Refused, Slot
from vision_assets.core.object_ledger import StorageLedger as Ledger
from vision_assets.core.quota import OwnLimits, StorageLimits, Usage
from vision_assets.core.storage import CONTENT_TYPES, ContentType, StoredObject
from vision_assets.core.tenants import TenantId

TENANTS = (TenantId(UUID(int=1)), TenantId(UUID(int=2)))
LIMITS = {"bucket": 1500, "tenant": 1000, "media": 1200, "vision": 600, "crawl": 500}
FIXED = {"0.1": 100, "0.45": 450}
"""Objects whose keys name their content: name → bytes."""

PLACES = [
    *((tenant, f"{folder}/{tenant}/a") for tenant in TENANTS for folder in ("vision", "album", "crawl")),
    *((tenant, f"media/{tenant}/{name}") for tenant in TENANTS for name in FIXED),
]

sizes = st.sampled_from([0.0, 0.01, 0.2, 0.3, 0.45, 0.5, 0.55, 1.0, 1.1]).map(lambda part: int(part * LIMITS["tenant"]))
places = st.sampled_from(PLACES)
small_sizes = st.sampled_from([0, 10, 100])
some_places = st.lists(places, min_size=1, max_size=4, unique=True)
modes = st.sampled_from(
    ["works"] * 4
    + ["refuses", "loses", "dies before", "dies after", "late", "dies late", "holds before", "holds after"]
)
fates = st.sampled_from(["ok"] * 6 + ["down", "lost", "conflict"])


class Died(BaseException):
    """The process is gone in the middle of a request."""


WORDS: dict[type[BaseException], str] = {
    StorageBusy: "busy",
    StorageUnavailable: "storage",
    DatabaseUnavailable: "database",
    DatabaseConflict: "conflict",
    Died: "died",
    asyncio.CancelledError: "died",
}
"""How a put ends, beside `sent`, `have` and a limit."""


@dataclass(slots=True)
class Held:
    """A request to S3 that takes its time."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class PlayedStore(MemoryStore):
    """S3 as one request finds it.

    Attributes:
        mode: What becomes of the next change: a word of `modes`.
        token: Whose change it is.
        late: Changes that S3 has taken in and not made yet, with what they write.
        held: The last request that was held.
    """

    oracle: Oracle = field(init=False)
    mode: str = "works"
    token: Token | None = None
    late: list[tuple[Token | None, Place, bytes | None]] = field(default_factory=list)
    held: Held | None = None
    holding: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, token: Token | None, place: Place, body: bytes | None) -> None:
        """Make a change."""
        self.oracle.written(place, token, grown=body is not None)
        if body is None:
            self.objects.pop(place[1], None)
        else:
            self.objects[place[1]] = body

    async def put(self, key: str, body: bytes, *, mime: str, encoding: str | None = None) -> None:
        """See the Protocol."""
        await self._change([(place_of(key), body)])

    async def delete(self, keys: Sequence[str]) -> None:
        """See the Protocol."""
        await self._change([(place_of(key), None) for key in keys])

    async def _change(self, changes: Sequence[tuple[Place, bytes | None]]) -> None:
        mode, token = self.mode, self.token
        if mode in ("dies before", "refuses"):
            raise Died if mode == "dies before" else StorageUnavailable(mode)
        if mode in ("late", "dies late"):
            self.late += [(token, *change) for change in changes]
            raise Died if mode == "dies late" else StorageUnavailable(mode)
        if mode == "holds before":
            await self._hold()
        for place, body in changes:
            self.write(token, place, body)
        if mode == "holds after":
            await self._hold()
        if mode in ("dies after", "loses"):
            raise Died if mode == "dies after" else StorageUnavailable(mode)

    async def _hold(self) -> None:
        held = self.held = Held()
        self.holding.set()
        await held.gate.wait()

    async def head(self, key: str) -> StoredObject | None:
        """See the Protocol."""
        if not self.oracle.heads_work:
            raise StorageUnavailable("head")
        return await MemoryStore.head(self, key)


@dataclass(slots=True)
class PlayedLedger:
    """A ledger that may fail before or after it has done what it was asked to.

    Attributes:
        fates: Of the next `begin` of anything, and of the next `commit` of a kind of operation: a word of `fates`.
    """

    real: Ledger
    fates: dict[str, str] = field(default_factory=dict)

    async def begin(
        self, operations: Sequence[Operation], *, limits: StorageLimits, now: datetime, until: datetime
    ) -> Sequence[Begun]:
        """See the Protocol."""
        fate = self.fates.pop("begin", "ok")
        _fail(fate, "down", "conflict")
        answers = await self.real.begin(operations, limits=limits, now=now, until=until)
        _fail(fate, "lost")
        return answers

    async def commit(self, outcomes: Sequence[Committed]) -> Sequence[bool]:
        """See the Protocol."""
        fate = self.fates.pop(outcomes[0].operation.kind, "ok") if outcomes else "ok"
        _fail(fate, "down", "conflict")
        booked = await self.real.commit(outcomes)
        _fail(fate, "lost")
        return booked

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def _fail(fate: str, *fates: str) -> None:
    if fate in fates:
        raise DatabaseConflict(fate) if fate == "conflict" else DatabaseUnavailable(fate)


@contextmanager
def unlogged() -> Iterator[None]:
    """Log nothing: thousands of tracebacks that nobody reads would take most of the time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def place_of(key: str) -> Place:
    """Tell whose key it is."""
    return TenantId(UUID(key.split("/")[1])), key


def slots_of(flights: Mapping[Place, Flight]) -> dict[Place, tuple[str, int | None, int, datetime]]:
    """Tell flights without their tokens."""
    return {place: (one.kind, one.size, one.held, one.until) for place, one in flights.items()}


class Books(Protocol):
    """The ledger under test, with a look inside."""

    @property
    def ledger(self) -> Ledger:
        """The ledger itself."""
        ...

    async def entries(self) -> Mapping[Place, Entry]:
        """Give all rows."""
        ...

    async def usage(self) -> tuple[Mapping[tuple[TenantId, ContentType], Usage], Mapping[ContentType, Usage]]:
        """Give the usage of the tenants and of all together, as kept."""
        ...

    async def set_own(self, tenant_id: TenantId, own: OwnLimits) -> None:
        """Give a tenant limits of its own."""
        ...

    async def unchecked(self) -> Counter[TenantId]:
        """Tell how many puts were counted as unchecked."""
        ...


@dataclass(slots=True, eq=False)
class Worker:
    """A process: a guard and what the oracle knows of it."""

    guard: QuotaGuardedStore
    process: Process = field(default_factory=Process)


@dataclass(slots=True)
class Pending:
    """A put in the middle of its request to S3."""

    task: "asyncio.Task[bool]"
    held: Held
    worker: Worker
    token: Token
    place: Place
    size: int
    checked: bool


class QuotaMachine(RuleBasedStateMachine):
    """The machine; subclasses give it a ledger."""

    loop: asyncio.AbstractEventLoop

    def books(self) -> Books:
        """Give an empty ledger with both tenants."""
        raise NotImplementedError

    def play(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        return self.loop.run_until_complete(coroutine)

    @initialize(drift=st.booleans())
    def begin(self, drift: bool) -> None:
        """Start with nothing stored."""
        self.drift = drift
        self.under_test = self.books()
        self.store = PlayedStore()
        self.sizes: dict[str, int] = {}
        self.oracle = Oracle(_Sizes(self.store.objects), datetime(2031, 12, 31, 23, 58, tzinfo=UTC), dict(LIMITS))
        self.store.oracle = self.oracle
        self.ledger = PlayedLedger(self.under_test.ledger)
        self.workers = [self._worker(), self._worker()]
        self.pending: list[Pending] = []

    def _worker(self) -> Worker:
        return Worker(
            QuotaGuardedStore(
                self.store,
                self.ledger,
                self._limits(),
                clock=lambda: self.oracle.now,
                slot_life=LIFE,
                patience_seconds=0,
                unchecked_limit_bytes=UNCHECKED_LIMIT_BYTES,
            )
        )

    def _limits(self) -> StorageLimits:
        limits = self.oracle.limits
        return StorageLimits(limits["bucket"], limits["tenant"], {name: limits[name] for name in CONTENT_TYPES})

    # ---- Operations

    @rule(
        number=st.integers(0, 1), place=places, size=sizes, mode=modes, begins=fates, commits=fates, heads=st.booleans()
    )
    def put(self, *, number: int, place: Place, size: int, mode: str, begins: str, commits: str, heads: bool) -> None:
        """Put an object, new or over another one."""
        worker, oracle, token = self.workers[number], self.oracle, Token()
        fixed = place[1].split("/")[-1] in FIXED
        if fixed:
            size = FIXED[place[1].split("/")[-1]]
        if place in oracle.flights or mode != "works":
            commits = "ok"  # else it would be another commit that fails
        oracle.heads_work = heads
        expected, checked = self._expect_begin(worker, token, place, size, fixed=fixed, begins=begins)
        self.store.mode, self.store.token = mode, token
        self.ledger.fates = {"begin": begins, "put": commits} if checked else {"begin": begins}
        put = worker.guard.put(
            place[0], place[1], bytes(size), content_type=type_of(place), mime="x/y", immutable=fixed
        )
        self.store.holding.clear()
        task = self.loop.create_task(put)
        outcome = self.play(self._outcome(task))
        if outcome == "held":
            assert self.store.held
            assert expected == "granted"
            self.pending.append(Pending(task, self.store.held, worker, token, place, size, checked))
            return
        if expected != "granted":
            assert outcome == expected
            return
        assert outcome == {"works": "sent", "refuses": "storage", "loses": "storage", "late": "storage"}.get(
            mode, "died"
        )
        self._finish(worker, token, place, size, outcome, checked=checked, commits=commits)

    @rule(
        place=places,
        size=sizes,
        mode=st.sampled_from(["dies before", "dies after", "dies late"]),
        seconds=st.integers(299, 301),
    )
    def die_and_stay_away(self, place: Place, size: int, mode: str, seconds: int) -> None:
        """A process dies in the middle of a put, and nobody misses it for about as long as its slot lives."""
        self.put(number=0, place=place, size=size, mode=mode, begins="ok", commits="ok", heads=True)
        self.oracle.now += timedelta(seconds=seconds)

    def _expect_begin(
        self, worker: Worker, token: Token, place: Place, size: int, *, fixed: bool, begins: str
    ) -> tuple[str, bool]:
        """Tell how a put's beginning ends, and whether it was checked."""
        if begins == "conflict":
            return "conflict", True
        if begins == "ok":
            return self.oracle.begin_put(worker.process, token, place, size, fixed=fixed), True
        if begins == "lost":
            self.oracle.answer(place, token, "put", size, fixed=fixed)
        if self._unchecked(worker) + size > UNCHECKED_LIMIT_BYTES:
            return "database", False
        worker.process.failed_checks[place[0]] += 1
        return "granted", False

    def _unchecked(self, worker: Worker) -> int:
        """Bytes that a process has put without a check, or puts now, and has not booked."""
        under_way = sum(one.size for one in self.pending if one.worker is worker and not one.checked)
        return worker.process.unchecked + under_way

    async def _outcome(self, task: "asyncio.Task[bool]") -> str:
        """Wait until a put has ended or is held."""
        holding = asyncio.create_task(self.store.holding.wait())
        await asyncio.wait([task, holding], return_when=asyncio.FIRST_COMPLETED)
        holding.cancel()
        if not task.done():
            return "held"
        try:
            return "sent" if task.result() else "have"
        except QuotaExceeded as error:
            return error.reason
        except tuple(WORDS) as error:
            return WORDS[type(error)]

    def _finish(
        self, worker: Worker, token: Token, place: Place, size: int, outcome: str, *, checked: bool, commits: str = "ok"
    ) -> None:
        """Follow a put from its request to S3 to its end."""
        oracle = self.oracle
        if not checked:
            worker.process.waiting.append((token, place, size))
        elif outcome == "sent":
            oracle.commit(worker.process, token, place, size, fate=commits)
        elif outcome == "storage" and oracle.flights[place].token is token:
            oracle.look(place)

    @rule(
        place=places,
        first=small_sizes,
        second=small_sizes,
        mode=modes,
        moment=st.sampled_from(["holds before", "holds after"]),
        puts=st.booleans(),
    )
    def be_overtaken(self, *, place: Place, first: int, second: int, mode: str, moment: str, puts: bool) -> None:
        """A put takes longer than its slot lives; another one takes its place, or somebody looks after it."""
        before = len(self.pending)
        self.put(number=0, place=place, size=first, mode=moment, begins="ok", commits="ok", heads=True)
        self.oracle.now += LIFE
        if puts:
            self.put(number=1, place=place, size=second, mode=mode, begins="ok", commits="ok", heads=True)
        else:
            self.sweep(number=1, tenant=place[0], heads=True)
        self.books_are_right()
        if len(self.pending) > before:
            self._go_on(before, dies=False, heads=True)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), dies=st.booleans(), heads=st.booleans())
    def go_on(self, data: st.DataObject, dies: bool, heads: bool) -> None:
        """Let a request go on that took its time, or let it be cancelled."""
        self._go_on(data.draw(st.integers(0, len(self.pending) - 1)), dies=dies, heads=heads)

    def _go_on(self, number: int, *, dies: bool, heads: bool) -> None:
        one = self.pending.pop(number)
        self.oracle.heads_work = heads
        self.ledger.fates = {}
        self.store.holding.clear()
        if dies:
            one.task.cancel()
        one.held.gate.set()
        outcome = self.play(self._outcome(one.task))
        assert outcome == ("died" if dies else "sent")
        self._finish(one.worker, one.token, one.place, one.size, outcome, checked=one.checked)

    @rule(
        number=st.integers(0, 1),
        chosen=some_places,
        tenant=st.sampled_from(TENANTS),
        mode=modes,
        commits=fates,
        heads=st.booleans(),
    )
    def delete(
        self, *, number: int, chosen: list[Place], tenant: TenantId, mode: str, commits: str, heads: bool
    ) -> None:
        """Delete objects, there or not."""
        chosen = [place for place in chosen if place[0] == tenant]
        if not chosen or mode.startswith("holds"):
            return
        worker, oracle, token = self.workers[number], self.oracle, Token()
        oracle.heads_work = heads
        commits = commits if mode == "works" else "ok"
        answers = {place: oracle.answer(place, token, "delete") for place in chosen}
        oracle.catch_up(worker.process)
        taken = [place for place, answer in answers.items() if answer != "busy"]
        freed = sum(oracle.booked.get(place, 0) for place in taken)
        self.store.mode, self.store.token = mode, token
        self.ledger.fates = {"delete": commits}
        try:
            deletion = self.play(worker.guard.delete(tenant, [(key, type_of((tenant, key))) for _, key in chosen]))
        except StorageUnavailable:
            assert taken
            for place in taken:
                oracle.look(place)
        except Died:
            assert taken
        else:
            assert mode == "works" or not taken
            assert (set(deletion.deleted), deletion.freed_bytes) == ({key for _, key in taken}, freed)
            assert set(deletion.busy) == {key for _, key in set(chosen) - set(taken)}
            for place in taken:
                oracle.commit(worker.process, token, place, None, fate=commits)

    @rule(number=st.integers(0, 1), place=places, size=st.none() | sizes, told=st.integers(1, 2))
    def put_without_the_guard(self, number: int, place: Place, size: int | None, told: int) -> None:
        """Somebody puts or deletes an object and tells the guard, once or twice."""
        worker, oracle = self.workers[number], self.oracle
        oracle.heads_work = True
        self.store.write(None, place, None if size is None else bytes(size))
        self.ledger.fates = {}
        for _ in range(told):
            token = Token()
            answer = oracle.answer(place, token, "verify")
            oracle.catch_up(worker.process)
            booked = self.play(worker.guard.update_tenant_usage(*place, type_of(place), size))
            assert booked == (answer != "busy")
            if answer == "busy":
                worker.process.waiting.append((token, place, 0))
            else:
                oracle.look(place)

    @rule(data=st.data(), commits=st.booleans())
    def batch(self, data: st.DataObject, commits: bool) -> None:
        """Begin operations of both tenants in one transaction; some are committed, in another order, and twice."""
        oracle, kinds = self.oracle, st.sampled_from(["put"] * 4 + ["delete", "verify"])
        chosen: list[tuple[Place, OperationKind, int]] = data.draw(
            st.lists(
                st.tuples(places.filter(lambda place: type_of(place) != "media"), kinds, sizes), min_size=2, max_size=5
            )
        )
        operations = [
            Operation(uuid4(), *place, type_of(place), kind, size if kind == "put" else 0)
            for place, kind, size in chosen
        ]
        tokens = [Token() for _ in operations]
        expected = [
            oracle.answer(place, token, kind, size) for (place, kind, size), token in zip(chosen, tokens, strict=True)
        ]
        real = self.under_test.ledger
        for _ in range(2):  # as after a lost acknowledgement
            answers = self.play(real.begin(operations, limits=self._limits(), now=oracle.now, until=oracle.now + LIFE))
            if "overdue" in expected or any(isinstance(answer, Have | Refused) for answer in answers):
                break
        assert [_word(answer) for answer in answers] == expected
        if not commits:
            return
        outcomes = []
        for operation, token, word in zip(operations, tokens, expected, strict=True):
            place = operation.tenant_id, operation.key
            if word == "granted" and operation.kind != "verify":
                self.store.write(token, place, bytes(operation.size_bytes) if operation.kind == "put" else None)
            if word in ("granted", "overdue"):
                outcomes.append((Committed(operation, self.oracle.s3.get(operation.key)), place))
        outcomes = data.draw(st.permutations(outcomes))
        assert all(self.play(real.commit([outcome for outcome, _ in outcomes])))
        assert not any(self.play(real.commit([outcome for outcome, _ in outcomes])))
        oracle.heads_work = True
        for _, place in outcomes:
            oracle.look(place)

    # ---- Those who look after them

    @rule(number=st.integers(0, 1), tenant=st.sampled_from(TENANTS), heads=st.booleans())
    def sweep(self, number: int, tenant: TenantId, heads: bool) -> None:
        """Look after operations of a tenant that never came back."""
        self.oracle.heads_work = heads
        late = {
            place for place, one in self.oracle.flights.items() if place[0] == tenant and one.until <= self.oracle.now
        }
        held = sum(self.oracle.flights[place].held for place in late)
        swept = self.play(self.workers[number].guard.sweep(tenant))
        self.oracle.sweep(tenant)
        assert {one.key for one in swept.verified} | set(swept.failed) == {key for _, key in late}
        assert all(one.overdue for one in swept.verified)
        if heads:
            assert sum(one.held_bytes for one in swept.verified) == held

    @rule(number=st.integers(0, 1), tenant=st.sampled_from(TENANTS), heads=st.booleans())
    def reconcile(self, number: int, tenant: TenantId, heads: bool) -> None:
        """Have looked at whatever the books and a listing differ in."""
        oracle, worker = self.oracle, self.workers[number]
        oracle.heads_work = heads
        suspects = [
            place for place in PLACES if place[0] == tenant and oracle.booked.get(place) != oracle.s3.get(place[1])
        ]
        answers = {place: oracle.answer(place, Token(), "verify") for place in suspects}
        oracle.catch_up(worker.process)
        before = dict(oracle.booked)
        objects: list[TypedKey] = [(place[1], type_of(place)) for place in suspects]
        seen = self.play(worker.guard.verify(tenant, objects))
        assert set(seen.busy) == {key for (_, key), answer in answers.items() if answer == "busy"}
        for place, answer in answers.items():
            if answer != "busy":
                oracle.look(place)
        for one in seen.verified:
            place = place_of(one.key)
            assert (one.before_bytes, one.after_bytes) == (before.get(place), oracle.s3.get(one.key))

    @rule(number=st.integers(0, 1))
    def start_again(self, number: int) -> None:
        """A process ends with what it has not booked; another one takes its place."""
        self.workers[number] = self._worker()

    # ---- The world around them

    @rule(jump=st.sampled_from([-600, 1, 299, 300, 300, 301, 86400]))
    def time_passes(self, jump: int) -> None:
        """The clock goes on, or somebody sets it."""
        self.oracle.now += timedelta(seconds=jump)

    @rule(scope=st.sampled_from(list(LIMITS)), part=st.sampled_from([0.1, 0.6, 1.0, 1.0]))
    def change_limit(self, scope: str, part: float) -> None:
        """Lower or raise a limit, whatever is under way."""
        self.oracle.limits[scope] = int(part * LIMITS[scope])
        for worker in self.workers:
            worker.guard.limits = self._limits()

    @rule(
        tenant=st.sampled_from(TENANTS),
        part=st.none() | st.sampled_from([0.3, 2.0]),
        type_part=st.none() | st.just(0.2),
    )
    def change_own_limit(self, tenant: TenantId, part: float | None, type_part: float | None) -> None:
        """Give a tenant limits of its own, or take them away."""
        own = OwnLimits(
            None if part is None else int(part * LIMITS["tenant"]),
            {} if type_part is None else {"vision": int(type_part * LIMITS["tenant"])},
        )
        self.play(self.under_test.set_own(tenant, own))
        for scope, limit in (("tenant", own.tenant_bytes), ("vision", own.type_bytes.get("vision"))):
            self.oracle.own.pop((tenant, scope), None)
            if limit is not None:
                self.oracle.own[tenant, scope] = limit

    @precondition(lambda self: self.store.late)
    @rule(data=st.data())
    def late_change(self, data: st.DataObject) -> None:
        """S3 makes a change whose request was given up."""
        token, place, body = self.store.late.pop(data.draw(st.integers(0, len(self.store.late) - 1)))
        self.store.write(token, place, body)

    @precondition(lambda self: self.drift)
    @rule(place=places, size=st.none() | sizes)
    def drift_happens(self, place: Place, size: int | None) -> None:
        """Somebody puts or deletes an object and tells nobody."""
        self.store.write(None, place, None if size is None else bytes(size))

    # ---- What must be true

    @invariant()
    def books_are_right(self) -> None:
        """The ledger is what the oracle says, usage is its sum, and it is the truth wherever nothing went astray."""
        oracle = self.oracle
        entries = self.play(self.under_test.entries())
        assert {place: one.bytes for place, one in entries.items() if one.bytes is not None} == oracle.booked
        slots = {place: one.slot for place, one in entries.items() if one.slot}
        assert {place: _slot(slot) for place, slot in slots.items()} == slots_of(oracle.flights)
        assert entries.keys() == oracle.booked.keys() | oracle.flights.keys()
        by_tenant, by_type = self.play(self.under_test.usage())
        for (tenant_id, content_type), usage in by_tenant.items():
            assert usage == self._sum(content_type, [tenant_id])
        for content_type, usage in by_type.items():
            assert usage == self._sum(content_type, TENANTS)
        for place in set(PLACES) - oracle.astray:
            booked, there = oracle.booked.get(place, 0), oracle.s3.get(place[1])
            flight = oracle.flights.get(place)
            if flight is None:
                assert oracle.booked.get(place) == there
            else:
                assert (there or 0) <= booked + flight.held
        for worker in self.workers:
            assert worker.guard.unbooked.unchecked_bytes == self._unchecked(worker) <= UNCHECKED_LIMIT_BYTES
            assert len(worker.guard.unbooked.operations) == len(worker.process.waiting)
        assert self.play(self.under_test.unchecked()) == oracle.unchecked_puts

    def _sum(self, content_type: ContentType, tenants: Sequence[TenantId]) -> Usage:
        oracle = self.oracle
        booked = [n for place, n in oracle.booked.items() if place[0] in tenants and type_of(place) == content_type]
        held = [f.held for place, f in oracle.flights.items() if place[0] in tenants and type_of(place) == content_type]
        return Usage(sum(booked), sum(held), len(booked))

    def teardown(self) -> None:
        """In the end everything is looked after: nothing is held, and the books are a fresh listing."""
        if not hasattr(self, "pending"):
            return
        while self.pending:
            one = self.pending.pop()
            one.held.gate.set()
            self.play(self._outcome(one.task))
        for token, place, body in self.store.late:
            self.store.write(token, place, body)
        oracle = self.oracle
        oracle.heads_work = True
        oracle.now = max([oracle.now, *(flight.until for flight in oracle.flights.values())]) + LIFE
        self.ledger.fates = {}
        guard = self.workers[0].guard
        for tenant in TENANTS:
            self.play(guard.sweep(tenant))
        entries = self.play(self.under_test.entries())
        assert not any(one.slot for one in entries.values())
        wrong = {
            place for place in PLACES if (entries[place].bytes if place in entries else None) != oracle.s3.get(place[1])
        }
        assert wrong <= oracle.astray
        for place in wrong:
            self.play(guard.verify(place[0], [(place[1], type_of(place))]))
        entries = self.play(self.under_test.entries())
        assert {place[1]: one.bytes for place, one in entries.items()} == dict(oracle.s3)
        _, by_type = self.play(self.under_test.usage())
        assert sum(usage.total_bytes for usage in by_type.values()) == sum(oracle.s3.values())
        assert not any(usage.reserved_bytes for usage in by_type.values())


class _Sizes(Mapping[str, int]):
    """The sizes of what lies in S3."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self._objects = objects

    def __getitem__(self, key: str) -> int:
        return len(self._objects[key])

    def __iter__(self) -> Any:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


def _word(answer: Begun) -> str:
    return answer.reason if isinstance(answer, Refused) else type(answer).__name__.lower()


def _slot(slot: Slot) -> tuple[str, int | None, int, datetime]:
    return slot.kind, slot.size_bytes, slot.held_bytes, slot.until
