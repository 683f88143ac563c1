"""What all coroutines of a worker share. What is not here: what they do (`spending.py`, `storing.py`, `looking.py`)."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.chaos.kill_points import KillPoints
from tests.chaos.tally import Tally


@dataclass(slots=True)
class Shift:
    """What every coroutine of a worker shares.

    Attributes:
        orders: As the crew gave them.
        stopping: Begin nothing new.
    """

    orders: dict[str, Any]
    chance: random.Random
    tally: Tally
    points: KillPoints
    stopping: asyncio.Event

    async def pause(self, seconds: float) -> None:
        """Wait, unless it is time to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def work(self, once: Callable[[], Awaitable[None]]) -> None:
        """Do something in as many coroutines and as often as ordered, or until it is time to stop."""

        async def repeat() -> None:
            for _ in range(self.orders["turns"]) if self.orders["turns"] else count():
                if self.stopping.is_set():
                    return
                await once()

        async with asyncio.TaskGroup() as group:
            for _ in range(self.orders["coroutines"]):
                group.create_task(repeat())

    async def work_with(
        self, once: Callable[[], Awaitable[None]], *, beside: Callable[[], Awaitable[None]], every_seconds: float
    ) -> None:
        """Work, and do something else now and then until that is done."""

        async def now_and_then() -> None:
            while not self.stopping.is_set():
                await self.pause(every_seconds * self.chance.uniform(0.5, 1.5))
                await beside()

        async with asyncio.TaskGroup() as group:
            group.create_task(now_and_then())
            await self.work(once)
            self.stopping.set()
