"""Worker processes, from outside: started, killed, started again, stopped.

What is not here: their work (`worker.py`).
"""

import asyncio
import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.chaos.kill_points import Death, Side
from tests.chaos.tally import total
from tests.chaos.worker import Work, follow

PROCESSES = 8
COROUTINES = 64
# Forked from a server that has loaded everything once and does nothing else: a successor starts in no time.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "tests.chaos.spending", "tests.chaos.storing", "tests.chaos.looking"])

_POLL_SECONDS = 0.02
_STOP_SECONDS = 90
_SIDES: tuple[Side, ...] = ("before", "within", "after")


def deaths(
    chance: random.Random, steps: Mapping[str, int], *, any_moment: float, patience_seconds: float
) -> Iterator[Death]:
    """Appoint ends without end: every side of every step in turn, in an order of chance, and any moment in between.

    Args:
        steps: Step → a worker dies of one of so many first calls of it.
        any_moment: Share of deaths that are of no step.
        patience_seconds: A death of no step comes within so many.
    """
    while True:
        appointed = [Death(step, side, chance.randint(1, nth)) for step, nth in steps.items() for side in _SIDES]
        chance.shuffle(appointed)
        for death in appointed:
            while chance.random() < any_moment:
                yield Death(None, seconds=chance.uniform(0, patience_seconds))
            yield Death(death.step, death.side, death.nth, seconds=chance.uniform(0.0005, 0.01))


@dataclass(slots=True)
class _Worker:
    process: ForkServerProcess
    leash: Connection
    log: Path
    started: float
    mortal: bool


@dataclass(slots=True)
class Crew:
    """The workers of one test.

    Attributes:
        work: What they do.
        orders: What they are told, alike for all.
        folder: For tallies and output.
        seed: Each worker, also each successor, derives one of its own from it.
        deaths: Ends appointed to workers as they start; None or used up: they live.
        patience_seconds: A worker whose death does not come within so many is killed from outside.
        kills: Workers killed so far, by themselves or from outside.
    """

    work: Work
    orders: Mapping[str, Any]
    folder: Path
    seed: int
    deaths: Iterator[Death] | None = None
    patience_seconds: float = 15
    kills: int = 0
    outside_kills: int = 0
    _workers: list[_Worker] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def _start(self) -> _Worker:
        number = next(self._numbers)
        death = next(self.deaths, None) if self.deaths else None
        orders = {
            **self.orders,
            "seed": f"{self.seed}/{number}",
            "tally": str(self.folder / f"{number}.tally"),
            "death": death.to_json() if death else None,
        }
        log = self.folder / f"{number}.log"
        leash, held = _processes.Pipe()
        process = _processes.Process(target=follow, args=(self.work, orders, held, log), daemon=True)
        process.start()
        held.close()  # so that the leash breaks when this process ends, however it ends
        return _Worker(process, leash, log, time.monotonic(), mortal=death is not None)

    def start(self, size: int = PROCESSES) -> None:
        """Start the workers."""
        self._workers += [self._start() for _ in range(size)]

    def look(self) -> None:
        """Start successors of the dead, and kill those whose death does not come.

        Raises:
            AssertionError: A worker ended by itself with an error.
        """
        for place, worker in enumerate(self._workers):
            if worker.process.exitcode is None and worker.mortal:
                if time.monotonic() - worker.started < self.patience_seconds:
                    continue
                worker.process.kill()
                worker.process.join()
                self.outside_kills += 1
            if worker.process.exitcode:
                self._bury(worker)
                self._workers[place] = self._start()

    def _bury(self, worker: _Worker) -> None:
        """Let go of a worker that has ended; an end that was not appointed is an error with its output."""
        worker.leash.close()
        self.kills += worker.process.exitcode == -signal.SIGKILL
        if worker.process.exitcode not in (0, -signal.SIGKILL):
            said = worker.log.read_text(errors="replace")[-5000:]
            raise AssertionError(f"seed {self.seed}: a worker ended with {worker.process.exitcode}:\n{said}")

    @property
    def living(self) -> int:
        """Workers that have not ended."""
        return sum(worker.process.exitcode is None for worker in self._workers)

    async def finish(self, *, seconds: float) -> None:
        """Wait until all workers have done what they had to do; the dead get successors meanwhile."""
        deadline = time.monotonic() + seconds
        while self.living or any(worker.process.exitcode for worker in self._workers):
            assert time.monotonic() < deadline, f"seed {self.seed}: the workers are not done after {seconds} s"
            self.look()
            await asyncio.sleep(_POLL_SECONDS)

    async def run(self, *, seconds: float, kills: int | None = None) -> None:
        """Let the workers work.

        Args:
            seconds: At most so long.
            kills: Only until so many are dead.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (kills is None or self.kills < kills):
            self.look()
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Let no more die, tell the workers to stop, and wait for them; whoever hangs is killed and is an error."""
        self.deaths = None
        for worker in self._workers:
            worker.leash.close()
        hanging = self.living
        for _ in range(int(_STOP_SECONDS / _POLL_SECONDS)):
            if not (hanging := self.living):
                break
            await asyncio.sleep(_POLL_SECONDS)
        self.end()
        assert not hanging, f"seed {self.seed}: {hanging} workers did not stop within {_STOP_SECONDS} s"
        for worker in self._workers:
            self._bury(worker)

    def end(self) -> None:
        """Leave no worker behind."""
        for worker in self._workers:
            if worker.process.exitcode is None:
                worker.process.kill()
            worker.process.join()
            worker.leash.close()

    @property
    def counts(self) -> Counter[str]:
        """What all workers have counted, the dead included."""
        return total(self.folder.glob("*.tally"))

    def kills_by_step(self) -> dict[str, int]:
        """Kills by side and step."""
        found = {name.removeprefix("kill "): n for name, n in self.counts.items() if name.startswith("kill ")}
        return dict(sorted({**found, "from outside": self.outside_kills}.items()))


@contextmanager
def crew(
    work: Work, orders: Mapping[str, Any], folder: Path, seed: int, *, deaths: Iterator[Death] | None = None
) -> Iterator[Crew]:
    """Have a crew that leaves no process behind."""
    folder.mkdir(parents=True)
    workers = Crew(work, orders, folder, seed, deaths)
    try:
        yield workers
    finally:
        workers.end()


def missed(kills: Mapping[str, int], steps: Sequence[str]) -> list[str]:
    """Name the sides of steps of which nobody died."""
    return [f"{side} {step}" for step in steps for side in _SIDES if not kills.get(f"{side} {step}")]
