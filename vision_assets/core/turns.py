"""Tenants in line: whose turn it is, how long one rests that failed, and when a further run is wanted.

A turn takes a tenant through the whole chain as far as its share goes. What a turn that breaks off has done stays done,
and what it has seen stays to do. What is not here: who takes the turns (`crew.py`), the work itself, and the line
(`clients/postgres/turns.py`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from vision_assets.core.errors import EXAMPLES, TransientError, leaves
from vision_assets.core.tenants import Tenant, TenantId

NO_POST = 2**63 - 1
"""Behind the seq of any post."""

LEASE = timedelta(minutes=2)
"""For which a turn is a run's own without a sign of life from it."""

PATIENCE_SECONDS = 5.0
"""A tenant that waits so long although a run is under way: that one is busy, or about to end."""

STUCK_AFTER = 8
"""Turns in succession in which nothing is done: people hear of the tenant, and again after as many more."""

LONGEST_REST = timedelta(minutes=1)
HOPELESS_REST = timedelta(minutes=5)
"""Where something will not pass by itself: the tenant's other posts need not wait for it much longer."""

LONGEST_REST_OF_LOST = timedelta(minutes=10)
"""After runs that ended in the middle of a turn, which the tenant may have been the reason of."""

_FIRST_REST = timedelta(seconds=10)


def rest_after(attempts: int, *, longest: timedelta = LONGEST_REST) -> timedelta:
    """Tell how long a tenant rests after so many turns in succession that did not end well."""
    return min(_FIRST_REST * 4.0 ** (min(attempts, 10) - 1), longest)


@dataclass(frozen=True, slots=True)
class Turn:
    """A tenant that is a run's own for a while.

    Attributes:
        run_id: Whose it is.
        began_at: Aware UTC, by the line's clock; tells this turn from an earlier one of the same run.
        attempts: Turns in succession, with this one, since one ended well, or did something before it failed.
        change_ids: What it has seen of the line.
        since: Seq of the first post that is concerned; 0: all are, as once a day, lest anything is overlooked for ever.
        is_untold: A run before has ended without telling of all that it did.
    """

    tenant: Tenant
    run_id: str
    began_at: datetime
    attempts: int
    change_ids: Sequence[int] = field(repr=False)
    since: int = 0
    is_untold: bool = False


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
        seconds: Since then, or since its last turn or rest was over.
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

    async def end(self, turn: Turn, *, more_since: int | None = None, is_told: bool = True) -> bool:
        """End a turn that went well; with more to do, the tenant goes to the end of the line.

        Args:
            more_since: Seq of the first post of which something may be left to do; None: nothing is.
            is_told: The run has told of all that it did for the tenant; otherwise it owes that.

        Returns:
            False: The turn was somebody else's by now, and stays so.
        """
        ...

    async def end_failed(
        self, turn: Turn, error: str, *, rest: timedelta, progressed: bool = False, is_told: bool = True
    ) -> bool:
        """End a turn that did not end well; the tenant goes to the end of the line, and rests.

        Args:
            progressed: Something was done all the same, so attempts count anew.
            is_told: As for `end`.

        Returns:
            False: The turn was somebody else's by now, and stays so.
        """
        ...

    async def told(self, run_id: str, tenant_ids: Collection[TenantId]) -> None:
        """Take in that a run owes nothing of these tenants any more."""
        ...

    async def give_back(self, turn: Turn) -> None:
        """Let go of a turn that was broken off; what it did may not have been told, so it counts as an attempt."""
        ...


class Done(Protocol):
    """What a turn did.

    Attributes:
        progressed: Something was done.
        has_more: Its share was used up.
        since: Seq of the first post that it was concerned with.
        failures: Faults that are nobody's own; what they concern stays to do.
        hopeless: One of them will not pass by itself.
    """

    @property
    def progressed(self) -> bool: ...

    @property
    def since(self) -> int: ...

    @property
    def has_more(self) -> bool: ...

    @property
    def failures(self) -> Sequence[str]: ...

    @property
    def hopeless(self) -> bool: ...


Report = TypeVar("Report", bound=Done)


@dataclass(frozen=True, slots=True)
class Ended(Generic[Report]):
    """A turn whose work is over.

    Attributes:
        report: What was done; None: an error came before.
        error: Why something stays to do; None: it went well.
        is_hopeless: That will not pass by itself.
        seconds: That it took.
    """

    turn: Turn
    report: Report | None
    error: str | None
    is_hopeless: bool
    seconds: float

    @property
    def progressed(self) -> bool:
        """Whether something was done."""
        return self.report is not None and self.report.progressed

    @property
    def has_more(self) -> bool:
        """Whether its share was used up."""
        return self.report is not None and self.report.has_more

    @property
    def more_since(self) -> int | None:
        """Seq of the first post of which something may be left to do; None: nothing is."""
        return self.report.since if self.report is not None and self.report.has_more else None

    @property
    def is_stuck(self) -> bool:
        """Whether this is one of so many in succession in which nothing was done that people are to hear of it."""
        return self.error is not None and not self.progressed and self.turn.attempts % STUCK_AFTER == 0

    @property
    def rest(self) -> timedelta:
        """How long the tenant is left alone, after a failure."""
        return HOPELESS_REST if self.is_hopeless else rest_after(1 if self.progressed else self.turn.attempts)


def first_of(failures: Sequence[str]) -> str | None:
    """Tell of failures by their number and the first few; None: there are none."""
    if not failures:
        return None
    return f"{len(failures)} items failed and stay to do. First: {'; '.join(failures[:EXAMPLES])}"


def text_of(error: Exception) -> str:
    """Tell what failed, with the class of each error."""
    return "; ".join(dict.fromkeys(f"{type(leaf).__name__}: {leaf}" for leaf in leaves(error)))


def will_pass(error: Exception) -> bool:
    """Tell whether a retry may help; for a fault of the code it will not."""
    return all(isinstance(leaf, TransientError) for leaf in leaves(error))


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
