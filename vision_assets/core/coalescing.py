"""Many callers, one batch in flight: who comes while a batch is under way is in the next one.

The batch grows with the load, and without load nobody waits for company. What is not here: what a batch does.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """Collects items of one event loop into batches."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        on_abandoned: Callable[[Item, Answer], None] | None = None,
        max_items: int = 512,
    ) -> None:
        """Say what a batch does.

        Args:
            run: Answers a batch, one answer an item in order; an error of it is every caller's error.
            on_abandoned: Told of an answer whose caller was cancelled while the batch was under way; an item whose
                caller was cancelled before is left out. None: every item is done, whoever still waits for it and even
                if the loop is about to end; then a batch that was broken off is run again, so it must bear that.
            max_items: Of one batch.
        """
        self._run = run
        self._on_abandoned = on_abandoned
        self._max_items = max_items
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> "asyncio.Future[Answer]":
        """Put an item into the next batch; who cancels the future cancels no batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._work_on()
        return future

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        while self._waiting or (self._worker is not None and not self._worker.done()):
            await asyncio.wait([self._work_on()])

    def _work_on(self) -> "asyncio.Task[None]":
        """Have a worker; one that the end of the loop has cancelled before it began gets a successor."""
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return self._worker

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._answer(batch)
        except asyncio.CancelledError:  # the loop ends: nobody may wait for ever
            for _, future in self._waiting:
                future.cancel()
            self._waiting.clear()
            raise

    async def _answer(self, batch: "list[tuple[Item, asyncio.Future[Answer]]]") -> None:
        try:
            answers = await self._done([item for item, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - it is every caller's own, also an interrupt that hit this task
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (item, future), answer in answered:
            if not future.done():
                future.set_result(answer)
            elif self._on_abandoned is not None:
                self._on_abandoned(item, answer)

    async def _done(self, items: Sequence[Item]) -> Sequence[Answer]:
        try:
            return await self._run(items)
        except asyncio.CancelledError:
            if self._on_abandoned is not None:
                raise
            return await self._run(items)

    def _next(self) -> "list[tuple[Item, asyncio.Future[Answer]]]":
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting.popleft()
            if self._on_abandoned is None or not future.done():
                batch.append((item, future))
        return batch
