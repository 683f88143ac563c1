"""Where a worker kills itself: before, within or after one step. What is not here: who starts it again (`crew.py`)."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, cast

from tests.chaos.tally import Tally

Side = Literal["before", "within", "after"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Death:
    """A worker's appointed end.

    Attributes:
        step: Name of the step; None: whenever `seconds` are over, wherever it is then.
        nth: Of the worker's calls of that step.
        seconds: For `within`, from the step's beginning; for no step, from the worker's start.
    """

    step: str | None
    side: Side = "before"
    nth: int = 1
    seconds: float = 0

    def to_json(self) -> dict[str, Any]:
        """Give it to a worker."""
        return asdict(self)


class KillPoints:
    """Counts a worker's steps, and ends it when its time has come."""

    def __init__(self, tally: Tally, death: Death | None) -> None:
        self._tally = tally
        self._death = death
        self._met = 0
        self._within_seconds = death.seconds if death else 0
        if death and death.step is None:
            asyncio.get_running_loop().call_later(death.seconds, self._die)

    def _die(self) -> None:
        assert self._death
        self._tally.add(f"kill {self._death.side} {self._death.step}" if self._death.step else "kill at any moment")
        os.kill(os.getpid(), signal.SIGKILL)

    async def step(self, name: str, action: Callable[[], Awaitable[T]]) -> T:
        """Take a step, unless the worker dies of it."""
        self._tally.add(f"step {name}")
        death = self._death
        if not death or death.step != name:
            return await action()
        self._met += 1
        due = self._met >= death.nth
        if due and death.side == "before":
            self._die()
        if due and death.side == "within":
            return await self._die_within(action)
        result = await action()
        if due and death.side == "after":
            self._die()
        return result

    async def _die_within(self, action: Callable[[], Awaitable[T]]) -> T:
        timer = asyncio.get_running_loop().call_later(self._within_seconds, self._die)
        try:
            return await action()
        finally:  # it was faster: the next one gets half the time
            timer.cancel()
            self._within_seconds /= 2

    def around(self, target: T, steps: Collection[str], *, prefix: str) -> T:
        """Put kill points around some methods of an object; all else goes through.

        Args:
            steps: Names of methods that are coroutines.
            prefix: Of the steps' names: `prefix.method`.
        """

        def watched(name: str) -> Callable[..., Awaitable[Any]]:
            method = getattr(target, name)
            return lambda *args, **options: self.step(f"{prefix}.{name}", lambda: method(*args, **options))

        return instead(target, **{name: watched(name) for name in steps})


def instead(target: T, **methods: Callable[..., Awaitable[Any]]) -> T:
    """Stand before an object: some methods are others, all else goes through."""
    return cast("T", _Stand(target, methods))


class _Stand:
    def __init__(self, target: object, methods: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
        self._target = target
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
