"""Worker processes that drive one side at a time, all at once.

What is not here: the sides (`_budget_postgres.py`, `_budget_redis.py`) and what their figures mean (`ledger.py`).
"""

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection

from benchmarks._budget import Servers, Side
from benchmarks._budget_postgres import CheckThenAct, Coalesced, Single
from benchmarks._budget_redis import RedisCoalesced, RedisLua
from vision_assets.core.tenants import TenantId

SIDES: dict[str, Callable[[Servers], AbstractAsyncContextManager[Side]]] = {
    "coalesced": Coalesced.open,
    "single": Single.open,
    "check_then_act": CheckThenAct.open,
    "redis": RedisLua.open,
    "redis_coalesced": RedisCoalesced.open,
}
_LEAD_SECONDS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A stretch of work for every process.

    Attributes:
        starts_at: On the machine's monotonic clock, which all processes share.
        seconds: Then nothing more is begun; what is under way goes on to its end. None: until the budget is spent.
        call_seconds: How long the paid call takes that lies between reserve and settle.
    """

    side: str
    tenants: Sequence[TenantId]
    estimated_tokens: int
    actual_tokens: int
    day_limit_tokens: int
    coroutines: int
    starts_at: float = 0
    seconds: float | None = None
    call_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What one process did in a slice.

    Attributes:
        calls: That were let through: reserved and settled, both acknowledged.
        ended_at: When the last of them was settled, on the machine's monotonic clock.
        cpu_seconds: Of the process, user and system.
    """

    calls: int
    ended_at: float
    cpu_seconds: float


async def _work(side: Side, slice_: Slice, process: int) -> Done:
    side.limit(slice_.day_limit_tokens)
    calls = 0
    turn = count(process * 7)
    ends_at = float("inf") if slice_.seconds is None else slice_.starts_at + slice_.seconds

    async def coroutine() -> None:
        nonlocal calls
        while time.monotonic() < ends_at:
            tenant_id = slice_.tenants[next(turn) % len(slice_.tenants)]
            if not await side.pay(
                tenant_id, slice_.estimated_tokens, slice_.actual_tokens, call_seconds=slice_.call_seconds
            ):
                return
            calls += 1

    await asyncio.sleep(max(slice_.starts_at - time.monotonic(), 0))
    cpu_before = time.process_time()
    await asyncio.gather(*(coroutine() for _ in range(slice_.coroutines)))
    return Done(calls, time.monotonic(), time.process_time() - cpu_before)


async def _serve(pipe: Connection, servers: Servers, process: int) -> None:
    async with AsyncExitStack() as stack:
        opened = {name: await stack.enter_async_context(side(servers)) for name, side in SIDES.items()}
        pipe.send(None)
        while slice_ := await asyncio.to_thread(pipe.recv):
            pipe.send(await _work(opened[slice_.side], slice_, process))


def _be_worker(pipe: Connection, servers: Servers, process: int) -> None:
    asyncio.run(_serve(pipe, servers, process))


@dataclass(frozen=True, slots=True)
class Workers:
    """Processes that wait for slices."""

    pipes: Sequence[Connection]

    def run(self, slice_: Slice) -> list[Done]:
        """Have every process work at once, and gather what each did."""
        for pipe in self.pipes:
            pipe.send(slice_)
        return [pipe.recv() for pipe in self.pipes]


def soon() -> float:
    """Tell a moment for which every process is ready."""
    return time.monotonic() + _LEAD_SECONDS


@contextmanager
def workers(servers: Servers, *, processes: int) -> Iterator[Workers]:
    """Start processes with every side open in each; end them afterwards."""
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for number in range(processes):
        ours, theirs = context.Pipe()
        child = context.Process(target=_be_worker, args=(theirs, servers, number), daemon=True)
        child.start()
        theirs.close()  # so that a worker that dies is seen as the end of its pipe
        pipes.append(ours)
        children.append(child)
    try:
        for pipe in pipes:
            pipe.recv()
        yield Workers(pipes)
        for pipe in pipes:
            pipe.send(None)
    finally:
        for child in children:
            child.join(timeout=10)
            child.kill()
