"""Progress of long steps, as lines in the run's log. What is not here: who counts (`core/`'s passes)."""

import time
from dataclasses import dataclass, field
from typing import Protocol

INTERVAL_SECONDS = 3
"""Between two lines; each is a row in Dagster's event log."""


class InfoLog(Protocol):
    """Dagster's logger, as far as it is needed."""

    def info(self, msg: object, /) -> None:
        """Write a line."""


@dataclass(slots=True)
class ProgressLog:
    """Counts what is done and says so now and then, with the rate and what is left.

    Attributes:
        what: The asset and what is counted, for example `vision_results: pictures`.
        total: None where it is not known.
    """

    log: InfoLog
    what: str
    total: int | None = None
    _done: int = 0
    _started: float = field(default_factory=time.monotonic)
    _told: float = field(default_factory=time.monotonic)

    def __call__(self, count: int) -> None:
        """Add what was done since the last call."""
        self._done += count
        now = time.monotonic()
        if now - self._told < INTERVAL_SECONDS:
            return
        self._told = now
        rate = self._done / (now - self._started)
        left = "" if self.total is None else f" of {self.total}, about {(self.total - self._done) / rate:.0f} s left"
        self.log.info(f"{self.what}: {self._done}{left}, {rate:.1f} a second")
