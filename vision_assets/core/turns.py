"""Tenants in line and who works on them: one turn each, several at once, the one that has waited longest first.

A turn takes a tenant through the whole chain as far as its share goes. What a turn that breaks off has done stays done,
and what it has seen stays to do. What is not here: the work itself, and the line (`clients/postgres/turns.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

import structlog

from vision_assets.core.errors import PermanentError, TransientError, TurnsFailed
from vision_assets.core.tenants import Tenant, TenantId

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=2)
"""For which a turn is a run's own without a sign of life from it."""

POLL_SECONDS = 0.5
"""Between two looks at the line, by a crew that has nobody to work on."""

GIVE_UP_AFTER = 8
"""Turns in succession that fail: something is down for all of them."""

PATIENCE_SECONDS = 5.0
"""A tenant that waits so long although a run is under way: that one is busy, or about to end."""

EXAMPLES = 3

_FIRST_REST = timedelta(seconds=10)
_LONGEST_REST = timedelta(hours=1)


def rest_after(attempts: int) -> timedelta:
    """Tell how long a tenant rests after so many turns in succession that did not end well."""
    return min(_FIRST_REST * 4.0 ** (min(attempts, 10) - 1), _LONGEST_REST)


@dataclass(frozen=True, slots=True)
class Turn:
    """A tenant that is a run's own for a while.

    Attributes:
        run_id: Whose it is.
        began_at: Aware UTC, by the line's clock; tells this turn from an earlier one of the same run.
        attempts: Turns in succession that did not end well, with this one.
        change_ids: What it has seen of the line.
    """

    tenant: Tenant
    run_id: str
    began_at: datetime
    attempts: int
    change_ids: Sequence[int] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Taken:
    """A turn as the line knows it.

    Attributes:
        attempts: Turns in succession that did not end well, with this one.
    """

    tenant_id: TenantId
    run_id: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The first in line.

    Attributes:
        change_id: Of its oldest change.
        seconds: Since then.
    """

    change_id: int
    seconds: float


class Line(Protocol):
    """Tenants that have something to do."""

    async def claim(self, run_id: str, *, lease: timedelta) -> Turn | None:
        """Take the tenant that has waited longest; None: nobody waits."""
        ...

    async def prolong(self, run_id: str, turns: Sequence[Turn], *, lease: timedelta) -> None:
        """Keep turns of a run, as far as it still has them."""
        ...

    async def end(self, turn: Turn, *, has_more: bool = False) -> bool:
        """End a turn that went well; with more to do, the tenant goes to the end of the line.

        Returns:
            False: The turn was somebody else's by now, and stays so.
        """
        ...

    async def end_failed(self, turn: Turn, error: str, *, rest: timedelta) -> bool:
        """End a turn that did not end well; the tenant goes to the end of the line, and rests.

        Returns:
            False: The turn was somebody else's by now, and stays so.
        """
        ...

    async def give_back(self, turn: Turn) -> None:
        """Undo the claim of a turn that was broken off."""
        ...


class Done(Protocol):
    """What a turn did.

    Attributes:
        has_more: Its share was used up.
        failures: Faults that are nobody's own; what they concern stays to do.
        hopeless: One of them will not pass by itself.
    """

    @property
    def has_more(self) -> bool: ...

    @property
    def failures(self) -> Sequence[str]: ...

    @property
    def hopeless(self) -> bool: ...


Report = TypeVar("Report", bound=Done)


@dataclass(frozen=True, slots=True)
class Ended(Generic[Report]):
    """A turn that is over.

    Attributes:
        report: What was done; None: an error came before.
        error: Why something stays to do; None: it went well.
        seconds: That it took.
    """

    turn: Turn
    report: Report | None
    error: str | None
    seconds: float


@dataclass(slots=True)
class Crew(Generic[Report]):
    """Takes tenants out of the line, some at once, until its time is over or nobody has come for a while.

    Attributes:
        run_id: Under which it has its turns.
        work: Does everything for a tenant, as far as its share goes.
        at_once: Tenants at once.
        run_seconds: Afterwards it takes nobody any more, and ends with the turns that it has.
        idle_seconds: Without anybody in line it ends.
    """

    run_id: str
    line: Line
    work: Callable[[Tenant], Awaitable[Report]]
    at_once: int
    run_seconds: float
    idle_seconds: float
    _turns: dict[asyncio.Task[Ended[Report]], Turn] = field(init=False, default_factory=dict)
    _began: float = field(init=False, default_factory=time.monotonic)
    _busy: float = field(init=False, default_factory=time.monotonic)
    _watching: "asyncio.Task[Any] | None" = field(init=False, default=None)
    _failures: list[str] = field(init=False, default_factory=list)

    @classmethod
    @asynccontextmanager
    async def at_work(
        cls,
        run_id: str,
        line: Line,
        work: Callable[[Tenant], Awaitable[Report]],
        *,
        at_once: int,
        run_seconds: float,
        idle_seconds: float,
    ) -> "AsyncIterator[Crew[Report]]":
        """Begin; in the end the turns under way are broken off and given back."""
        crew = cls(run_id, line, work, at_once=at_once, run_seconds=run_seconds, idle_seconds=idle_seconds)
        keeping = asyncio.create_task(crew._keep())
        try:
            yield crew
        finally:
            await crew._break_off(keeping)

    async def _break_off(self, *others: "asyncio.Task[None]") -> None:
        tasks: set[asyncio.Task[Any]] = {*others, *self._turns}
        # An interruption leaves the coroutine that was run behind, and it would go on to take tenants.
        if self._watching is not None:
            tasks.add(self._watching)
        for task in tasks - {asyncio.current_task()}:
            task.cancel()
        for fault in await asyncio.gather(*(tasks - {asyncio.current_task()}), return_exceptions=True):
            if isinstance(fault, Exception):
                log.warning("turn.not_given_back", error_type=type(fault).__name__, outcome="its lease expires")

    async def ended(self) -> list[Ended[Report]]:
        """Wait for turns to end, and take new ones meanwhile.

        Returns:
            At least one; none: the crew is done.

        Raises:
            DatabaseUnavailable, DatabaseConflict: Transient; the line could not be reached.
            TurnsFailed: One turn after the other fails.
        """
        self._watching = asyncio.current_task()
        while True:
            await self._fill()
            if not self._turns:
                if self._is_over() or time.monotonic() - self._busy >= self.idle_seconds:
                    return []
                await asyncio.sleep(POLL_SECONDS)
                continue
            done, _ = await asyncio.wait(self._turns, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            self._busy = time.monotonic()
            for task in done:
                del self._turns[task]
            for fault in [task.exception() for task in done]:
                if fault is not None:
                    raise fault
            if done:
                return [task.result() for task in done]

    def _is_over(self) -> bool:
        return time.monotonic() - self._began >= self.run_seconds

    async def _fill(self) -> None:
        if len(self._failures) >= GIVE_UP_AFTER:
            raise TurnsFailed(f"{len(self._failures)} turns failed in succession; the last: {self._failures[-1]}")
        while len(self._turns) < self.at_once and not self._is_over():
            turn = await self.line.claim(self.run_id, lease=LEASE)
            if turn is None:
                return
            self._turns[asyncio.create_task(self._take(turn))] = turn

    async def _keep(self) -> None:
        """Give a sign of life for the turns under way."""
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 4)
            try:
                await self.line.prolong(self.run_id, list(self._turns.values()), lease=LEASE)
            except TransientError as error:
                log.warning("turn.not_prolonged", error_type=type(error).__name__, outcome="tried again before it ends")

    async def _take(self, turn: Turn) -> Ended[Report]:
        with structlog.contextvars.bound_contextvars(tenant_id=str(turn.tenant.id)):
            try:
                return await self._taken(turn)
            except asyncio.CancelledError:
                await self.line.give_back(turn)
                raise

    async def _taken(self, turn: Turn) -> Ended[Report]:
        began = time.monotonic()
        report: Report | None = None
        try:
            report = await self.work(turn.tenant)
            error, is_hopeless = first_of(report.failures), report.hopeless
        except Exception as fault:
            # One tenant never stops the others.
            log.exception("turn.failed", error_type=type(fault).__name__, attempts=turn.attempts)
            error, is_hopeless = text_of(fault), is_permanent(fault)
        if error is None:
            self._failures.clear()
            await self.line.end(turn, has_more=report is not None and report.has_more)
        else:
            self._failures.append(error)
            rest = _LONGEST_REST if is_hopeless else rest_after(turn.attempts)
            await self.line.end_failed(turn, error, rest=rest)
        return Ended(turn, report, error, time.monotonic() - began)


def first_of(failures: Sequence[str]) -> str | None:
    """Tell of failures by their number and the first few; None: there are none."""
    if not failures:
        return None
    return f"{len(failures)} items failed and stay to do. First: {'; '.join(failures[:EXAMPLES])}"


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def text_of(error: Exception) -> str:
    """Tell what failed, with the class of each error."""
    return "; ".join(dict.fromkeys(f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(error)))


def is_permanent(error: Exception) -> bool:
    """Tell whether a retry will not help."""
    return any(isinstance(leaf, PermanentError) for leaf in _leaves(error))


def wants_run(first: Waiting | None, *, runs: int, most_runs: int) -> bool:
    """Tell whether a further run is wanted.

    Args:
        first: In line; None: nobody waits.
        runs: That have not ended.
        most_runs: At once.
    """
    if first is None or runs >= most_runs:
        return False
    return runs == 0 or first.seconds >= PATIENCE_SECONDS
