"""All stages for one tenant, one after the other, as a turn of `new_posts` takes them.

What is not here: the stages (each asset's module), and which tenants (`new_posts.py`).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import structlog

from vision_assets.core.errors import DatabaseUnavailable
from vision_assets.core.turns import Turn, text_of, will_pass
from vision_assets.defs.outcomes import Outcome
from vision_assets.defs.steps import Task, Work

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """A stage that is open, and the assets that it makes."""

    assets: Sequence[dg.AssetKey]
    work: Work


@dataclass(slots=True)
class Chained:
    """What a turn did, stage by stage; a `core.turns.Done`.

    Attributes:
        outcomes: Of the stages that came to one, by the first asset of each.
        since: Seq of the first post that may have changed, or that a stage was concerned with.
        failures: Of items, and of stages as a whole.
        failed: Assets that were not made, or in parts only.
        broken: Those that will not be made before somebody does something about it.
    """

    since: int = 0
    outcomes: dict[dg.AssetKey, Outcome[Any]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    failed: list[dg.AssetKey] = field(default_factory=list)
    broken: list[dg.AssetKey] = field(default_factory=list)

    @property
    def progressed(self) -> bool:
        """Whether a stage has done something."""
        return any(outcome.done for outcome in self.outcomes.values())

    @property
    def has_more(self) -> bool:
        """Whether a stage used its share up."""
        return any(outcome.has_more for outcome in self.outcomes.values())

    @property
    def hopeless(self) -> bool:
        """Whether something will not pass by itself."""
        return bool(self.broken)

    def add(self, link: Link, outcome: Outcome[Any]) -> None:
        """Take in what a stage did."""
        self.outcomes[link.assets[0]] = outcome
        self.since = min(self.since, outcome.since)
        self.failures += outcome.failures
        self.failed += link.assets if outcome.failures else ()
        self.broken += link.assets if outcome.hopeless else ()

    def add_failure(self, link: Link, error: Exception) -> None:
        """Take in that a stage came to nothing."""
        text = text_of(error)
        self.failures += [] if text in self.failures else [text]
        self.failed += link.assets
        self.broken += () if will_pass(error) else link.assets


def chained(links: Sequence[Link]) -> Callable[[Turn], Awaitable[Chained]]:
    """Put stages together: each does what it can, whatever became of the one before.

    A post is to be found by its words although the pictures of the tenant cannot be looked at.
    """

    async def work(turn: Turn) -> Chained:
        done = Chained(turn.since)
        for link in links:
            try:
                done.add(link, await link.work(Task(turn.tenant, done.since)))
            except DatabaseUnavailable:
                raise
            except Exception as error:
                log.warning("turn.stage_failed", error_type=type(error).__name__, exc_info=error)
                done.add_failure(link, error)
        return done

    return work
