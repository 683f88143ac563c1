"""Many callers become few batches, and no caller is forgotten."""

import asyncio
import signal
from collections.abc import Sequence

import pytest

from vision_assets.core.coalescing import Coalescer


class Doubling:
    """A batch that doubles its items, when it is let.

    Attributes:
        batches: Those that began.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        """Do one batch."""
        self.batches.append(list(items))
        await self.gate.wait()
        if 13 in items:
            raise ValueError("thirteen")
        return [item * 2 for item in items]


async def turn() -> None:
    """Let everything that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_meanwhile_is_in_the_next_batch() -> None:
    """One batch is in flight at a time; the next takes all who came, in order, and everyone gets his own answer."""
    doubling = Doubling()
    coalescer = Coalescer(doubling)
    first = coalescer.submit(1)
    await turn()
    others = [coalescer.submit(item) for item in (2, 3, 4)]
    await turn()
    assert doubling.batches == [[1]]
    doubling.gate.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert doubling.batches == [[1], [2, 3, 4]]


async def test_a_batch_is_bounded() -> None:
    """More callers than fit into a batch make several."""
    doubling = Doubling()
    doubling.gate.set()
    coalescer = Coalescer(doubling, max_items=2)
    assert await asyncio.gather(*map(coalescer.submit, range(5))) == [0, 2, 4, 6, 8]
    assert doubling.batches == [[0, 1], [2, 3], [4]]


async def test_an_error_is_every_callers_and_the_next_batch_goes_on() -> None:
    """What a batch raises, each of its callers gets; those who come later are served."""
    doubling = Doubling()
    doubling.gate.set()
    coalescer = Coalescer(doubling)
    failed = await asyncio.gather(coalescer.submit(1), coalescer.submit(13), return_exceptions=True)
    assert [type(error) for error in failed] == [ValueError, ValueError]
    assert await coalescer.submit(4) == 8


async def test_answers_must_be_as_many_as_items() -> None:
    """A batch that answers too little is an error for its callers; nobody waits for ever."""

    async def forgetful(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    with pytest.raises(ValueError, match="shorter"):
        await asyncio.wait_for(Coalescer(forgetful).submit(1), 1)


async def test_without_abandonment_every_item_is_done() -> None:
    """Who is cancelled while he waits has his item done all the same."""
    doubling = Doubling()
    coalescer = Coalescer(doubling)
    first, second = coalescer.submit(1), coalescer.submit(2)
    second.cancel()
    await turn()
    first.cancel()
    doubling.gate.set()
    await coalescer.drain()
    assert doubling.batches == [[1, 2]]


async def test_abandoned_items_are_left_out_or_handed_back() -> None:
    """Cancelled before its batch, an item is left out; cancelled during it, its answer is told to the owner."""
    doubling = Doubling()
    abandoned: list[tuple[int, int]] = []
    coalescer = Coalescer(doubling, on_abandoned=lambda item, answer: abandoned.append((item, answer)))
    during, served = coalescer.submit(1), coalescer.submit(2)
    await turn()
    before = coalescer.submit(3)
    during.cancel()
    before.cancel()
    doubling.gate.set()
    assert await served == 4
    await coalescer.drain()
    assert doubling.batches == [[1, 2]]
    assert abandoned == [(1, 2)]


def workers() -> list[asyncio.Task[None]]:
    """The tasks that do batches."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_the_end_of_the_loop_ends_every_wait() -> None:
    """When the worker is cancelled, callers of its batch and those of the next are cancelled too."""
    coalescer = Coalescer(Doubling(), on_abandoned=lambda _, __: None)
    first = coalescer.submit(1)
    await turn()
    second = coalescer.submit(2)
    (worker,) = workers()
    worker.cancel()
    results = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), 1)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    await asyncio.wait_for(coalescer.drain(), 1)


@pytest.mark.parametrize("turns", [0, 5])
async def test_the_end_of_the_loop_loses_no_item(turns: int) -> None:
    """Where every item must be done, a worker that is cancelled, begun or not, leaves nothing undone."""
    doubling = Doubling()
    coalescer = Coalescer(doubling)
    first = coalescer.submit(1)
    for _ in range(turns):
        await asyncio.sleep(0)
    second = coalescer.submit(2)
    (worker,) = workers()
    worker.cancel()
    draining = asyncio.create_task(coalescer.drain())
    await turn()
    doubling.gate.set()
    await asyncio.wait_for(draining, 1)
    assert [await first, await second] == [2, 4]


def test_an_interrupt_ends_a_run_and_loses_no_item() -> None:
    """An exception that breaks off the whole loop, as a signal's handler raises it, leaves nothing undone either."""

    class Interrupt(BaseException):
        """As an orchestrator raises it."""

    done: list[int] = []

    async def slow(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0.05)
        done.extend(items)
        return items

    def interrupt(*_: object) -> None:
        raise Interrupt

    async def main() -> None:
        coalescer = Coalescer(slow)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            await asyncio.gather(coalescer.submit(1), asyncio.sleep(3600))
        finally:
            await coalescer.drain()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupt), asyncio.Runner() as runner:
            runner.run(main())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert done == [1]


async def test_an_interrupt_in_a_batch_reaches_its_callers() -> None:
    """Whatever ends a batch, nobody waits for ever."""

    async def interrupted(_: Sequence[int]) -> Sequence[int]:
        raise BaseException("interrupt")

    with pytest.raises(BaseException, match="interrupt"):
        await asyncio.wait_for(Coalescer(interrupted).submit(1), 1)
