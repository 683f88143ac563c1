"""Who takes turns with the tenants in line: one turn each, several at once, the one that has waited longest first.

What is not here: what is decided about turns, and the line itself (`turns.py`); and the work.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic

import structlog

from vision_assets.core.errors import TurnsFailed, VisionAssetsError
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import LEASE, Ended, Line, Report, Turn, first_of, text_of, will_pass

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
"""Between two looks at the line, by a crew that has nobody to work on."""

GIVE_UP_AFTER = 8
"""Turns in succession that fail and in which nothing is done: something is down for all of them."""


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
    work: Callable[[Turn], Awaitable[Report]]
    at_once: int
    run_seconds: float
    idle_seconds: float
    _turns: dict[asyncio.Task[Ended[Report]], Turn] = field(init=False, default_factory=dict)
    _handed_over: list[Ended[Report]] = field(init=False, default_factory=list)
    _began: float = field(init=False, default_factory=time.monotonic)
    _busy: float = field(init=False, default_factory=time.monotonic)
    _watching: "asyncio.Task[Any] | None" = field(init=False, default=None)
    _failures: list[str] = field(init=False, default_factory=list)
    _fault: Exception | None = field(init=False, default=None)

    @classmethod
    @asynccontextmanager
    async def at_work(
        cls,
        run_id: str,
        line: Line,
        work: Callable[[Turn], Awaitable[Report]],
        *,
        at_once: int,
        run_seconds: float,
        idle_seconds: float,
    ) -> "AsyncIterator[Crew[Report]]":
        """Begin; in the end the turns under way are broken off, and those that were not told of are given back."""
        crew = cls(run_id, line, work, at_once=at_once, run_seconds=run_seconds, idle_seconds=idle_seconds)
        keeping = asyncio.create_task(crew._keep())
        try:
            yield crew
        finally:
            await crew._break_off(keeping)

    async def ended(self, *, untold: Collection[TenantId] = ()) -> list[Ended[Report]]:
        """Wait for turns to end, and take new ones meanwhile.

        Whoever comes back has told of what the last call gave, or owes it: these turns end in the line now, and not
        before. When the line fails, or all turns do, nobody is taken any more, and the error comes when those under way
        have ended.

        Args:
            untold: Tenants of whose turns the caller has yet to tell.

        Returns:
            At least one; none: the crew is done.

        Raises:
            DatabaseUnavailable, DatabaseConflict: Transient; the line could not be reached.
            TurnsFailed: One turn after the other fails, and nothing is done.
        """
        self._watching = asyncio.current_task()
        await self._end_handed_over(untold)
        while True:
            await self._fill()
            if not self._turns:
                self._raise_if_failed()
                if self._is_over() or time.monotonic() - self._busy >= self.idle_seconds:
                    return []
                await asyncio.sleep(POLL_SECONDS)
                continue
            done, _ = await asyncio.wait(self._turns, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            self._busy = time.monotonic()
            if done:
                for task in done:
                    del self._turns[task]
                ended = [task.result() for task in done]
                self._handed_over += ended
                return ended

    def _is_over(self) -> bool:
        return time.monotonic() - self._began >= self.run_seconds

    def _has_given_up(self) -> bool:
        return len(self._failures) >= GIVE_UP_AFTER

    def _raise_if_failed(self) -> None:
        if self._fault is not None:
            raise self._fault
        if self._has_given_up():
            raise TurnsFailed(f"{len(self._failures)} turns failed in succession; the last: {self._failures[-1]}")

    async def _fill(self) -> None:
        while len(self._turns) < self.at_once:
            if self._is_over() or self._has_given_up() or self._fault is not None:
                return
            try:
                turn = await self.line.claim(self.run_id, lease=LEASE)
            except Exception as fault:
                log.exception("line.failed", error_type=type(fault).__name__, outcome="nobody is taken any more")
                self._fault = self._fault or fault
                return
            if turn is None:
                return
            self._turns[asyncio.create_task(self._taken(turn))] = turn

    async def _keep(self) -> None:
        """Give a sign of life for all turns that have not ended in the line."""
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 4)
            try:
                await self.line.prolong(self.run_id, self._own(), lease=LEASE)
            except Exception as error:
                log.exception("turn.not_prolonged", error_type=type(error).__name__, outcome="tried before it ends")

    def _own(self) -> list[Turn]:
        return [*self._turns.values(), *(one.turn for one in self._handed_over)]

    async def _taken(self, turn: Turn) -> Ended[Report]:
        with structlog.contextvars.bound_contextvars(tenant_id=str(turn.tenant.id)):
            began = time.monotonic()
            report: Report | None = None
            try:
                report = await self.work(turn)
                error, is_hopeless = first_of(report.failures), report.hopeless
            except Exception as fault:
                # One tenant never stops the others.
                log.exception("turn.failed", error_type=type(fault).__name__, attempts=turn.attempts)
                error, is_hopeless = text_of(fault), not will_pass(fault)
            ended = Ended(turn, report, error, is_hopeless, time.monotonic() - began)
            if error is None or ended.progressed:
                self._failures.clear()
            else:
                self._failures.append(error)
            return ended

    async def _end_handed_over(self, untold: Collection[TenantId]) -> None:
        try:
            while self._handed_over:
                ended = self._handed_over[0]
                await self._end(ended, is_told=ended.turn.tenant.id not in untold)
                del self._handed_over[0]
        except Exception as fault:
            log.exception("line.failed", error_type=type(fault).__name__, outcome="nobody is taken any more")
            self._fault = self._fault or fault

    async def _end(self, ended: Ended[Report], *, is_told: bool) -> None:
        if ended.error is None:
            was_ours = await self.line.end(ended.turn, more_since=ended.more_since, is_told=is_told)
        else:
            was_ours = await self.line.end_failed(
                ended.turn, ended.error, rest=ended.rest, progressed=ended.progressed, is_told=is_told
            )
        if not was_ours:
            log.warning("turn.lost", tenant_id=str(ended.turn.tenant.id), outcome="another turn does it again")

    async def _break_off(self, keeping: "asyncio.Task[None]") -> None:
        tasks: set[asyncio.Task[Any]] = {keeping, *self._turns}
        # An interruption leaves the coroutine that was run behind, and it would go on to take tenants.
        if self._watching is not None:
            tasks.add(self._watching)
        under_way = [task for task in tasks - {asyncio.current_task()} if not task.done()]
        for task in under_way:
            task.cancel()
        for fault in await asyncio.gather(*under_way, return_exceptions=True):
            if isinstance(fault, Exception):
                log.warning("crew.broken_off_badly", error_type=type(fault).__name__, exc_info=fault)
        for turn in self._own():
            try:
                await self.line.give_back(turn)
            except VisionAssetsError as fault:
                log.warning("turn.not_given_back", error_type=type(fault).__name__, outcome="its lease expires")
