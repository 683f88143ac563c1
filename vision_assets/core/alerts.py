"""When people are told that something is wrong, or is well again: pure functions over states and evaluations.

Each change is told once; what stays wrong is told again after a while; what changes all the time is told of once, and
then only when it has settled. What is not here: which changes share a message, and its text (`alert_messages.py`), what
becomes of it (`alert_delivery.py`), and where evaluations come from (`defs/alerts.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

from vision_assets.core.levels import Severity

Source = Literal["check", "run"]
Kind = Literal["opened", "escalated", "eased", "reminder", "resolved", "flapping", "settled"]


class AlertKey(NamedTuple):
    """What may be wrong.

    Attributes:
        source: A check that fails, or work that fails.
        subject: The asset, or the job; of a run that makes several assets at once, these joined by `+`.
        check: Name of the check; empty for a run.
        partition: The tenant's id; empty: it has none.
    """

    source: Source
    subject: str
    check: str
    partition: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How something is at a moment.

    Attributes:
        severity: None: all is well.
        message: For people: what is wrong, and what to do.
        at: Aware UTC.
        event_id: In Dagster's log; tells two of the same moment apart.
        run_id: Empty: it came without a run.
    """

    key: AlertKey
    severity: Severity | None
    message: str
    at: datetime
    event_id: int
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class AlertState:
    """What is known of one key.

    Attributes:
        failed_as: The severity, or the last one that it had; None: it never failed.
        evaluated_at: Of the newest evaluation that was taken in; older ones change nothing any more.
        opened_at: When it began to be wrong; None: all is well.
        told_at: When people last heard of what is open.
        changes: Moments at which the severity changed, within the window of flapping.
        is_flapping: People know that it changes all the time, and hear nothing until it has settled.
    """

    key: AlertKey
    severity: Severity | None
    failed_as: Severity | None
    message: str
    run_id: str
    evaluated_at: datetime
    event_id: int
    opened_at: datetime | None = None
    told_at: datetime | None = None
    changes: tuple[datetime, ...] = ()
    is_flapping: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """A change that people are told of.

    Attributes:
        event: What brought it; with the key it is known again, however often it is read.
        severity: None: all is well now.
        failed_as: The severity, or the last one that it had.
        opened_at: When it began to be wrong.
    """

    key: AlertKey
    kind: Kind
    event: str
    severity: Severity | None
    failed_as: Severity | None
    message: str
    run_id: str
    opened_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class AlertRules:
    """When to speak, and when not to.

    Attributes:
        remind_after: The last word about what is still wrong.
        flapping_changes: More of them within the window are flapping.
        flapping_window: Also how long there must be no change until it has settled.
        group_above: Partitions of one check that change alike within the pause; more of them share a message.
        group_pause: Between two such messages about the same.
    """

    remind_after: timedelta = timedelta(hours=24)
    flapping_changes: int = 4
    flapping_window: timedelta = timedelta(hours=24)
    group_above: int = 5
    group_pause: timedelta = timedelta(minutes=10)


class AlertBook(Protocol):
    """States and transitions, in one transaction: `clients/postgres/alerts.py`."""

    async def take_in(self, evaluations: Sequence[Evaluation], *, rules: AlertRules, now: datetime) -> "TakenIn":
        """Take evaluations in, let times lapse, and write what people are to be told; all of it or nothing.

        What was taken in before changes nothing, whoever reads it again, and however many at once.
        """
        ...

    async def open_runs(self) -> Sequence[AlertState]:
        """List work that failed and is not known to be well again."""
        ...


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What came of evaluations.

    Attributes:
        transitions: In their order.
        messages: Written to be delivered.
    """

    transitions: Sequence[Transition]
    messages: int


GONE = "The tenant is not active any more, so nobody looks at it."
BY_HAND = "Closed by hand. Should it be wrong the next time somebody looks, you hear of it again."


def step(
    states: Mapping[AlertKey, AlertState],
    evaluations: Iterable[Evaluation],
    *,
    gone: frozenset[AlertKey] = frozenset(),
    rules: AlertRules,
    now: datetime,
) -> tuple[dict[AlertKey, AlertState], list[Transition]]:
    """Take evaluations in, in the order of their moments, then let times lapse.

    Args:
        states: Of all keys that are evaluated, that are open, or that flap.
        gone: Keys of tenants that are not active any more: they are closed.
        now: Aware UTC.

    Returns:
        The states that changed, and what people are to be told.
    """
    found = dict(states)
    transitions = []
    for evaluation in sorted(evaluations, key=lambda one: (one.at, one.event_id)):
        if evaluation.key not in gone:
            state, transition = evaluate(found.get(evaluation.key), evaluation, rules=rules, now=now)
            found[evaluation.key] = state
            transitions += [transition] if transition else []
    for key, state in found.items():
        lapsed, transition = close(state, GONE, now=now) if key in gone else lapse(state, rules=rules, now=now)
        found[key] = lapsed
        transitions += [transition] if transition else []
    return {key: state for key, state in found.items() if state != states.get(key)}, transitions


def evaluate(
    state: AlertState | None, evaluation: Evaluation, *, rules: AlertRules, now: datetime
) -> tuple[AlertState, Transition | None]:
    """Take one evaluation in: a change of severity is told, unless it is one of too many."""
    if state and (evaluation.at, evaluation.event_id) <= (state.evaluated_at, state.event_id):
        return state, None
    before = state.severity if state else None
    opened_at = None if evaluation.severity is None else (state.opened_at if state else None) or evaluation.at
    after = AlertState(
        key=evaluation.key,
        severity=evaluation.severity,
        failed_as=evaluation.severity or (state.failed_as if state else None),
        message=evaluation.message,
        run_id=evaluation.run_id,
        evaluated_at=evaluation.at,
        event_id=evaluation.event_id,
        opened_at=opened_at,
        told_at=state.told_at if state else None,
        changes=state.changes if state else (),
        is_flapping=state.is_flapping if state else False,
    )
    if before == evaluation.severity:
        return after, None
    since = evaluation.at - rules.flapping_window
    # One more than may be is enough to know; what changes all the time must not make its row grow.
    recent = [change for change in after.changes if change > since][-rules.flapping_changes :]
    after = replace(after, changes=(*recent, evaluation.at))
    if after.is_flapping:
        return after, None
    kind = _kind(before, evaluation.severity)
    if len(after.changes) > rules.flapping_changes:
        kind, after = "flapping", replace(after, is_flapping=True)
    told = replace(after, told_at=now)
    began = opened_at or (state.opened_at if state else None) or evaluation.at
    return told, _transition(told, kind, f"{evaluation.at.isoformat()} {evaluation.event_id}", began, evaluation.at)


def lapse(state: AlertState, *, rules: AlertRules, now: datetime) -> tuple[AlertState, Transition | None]:
    """Tell again what is still wrong, and how it is with what has settled."""
    if state.is_flapping:
        last = state.changes[-1]
        if now - last < rules.flapping_window:
            return state, None
        settled = replace(state, is_flapping=False, changes=(), told_at=now)
        return settled, _transition(settled, "settled", f"settled {last.isoformat()}", state.opened_at or last, now)
    if state.severity and state.opened_at and state.told_at and now - state.told_at >= rules.remind_after:
        told = replace(state, told_at=now)
        return told, _transition(told, "reminder", f"told {state.told_at.isoformat()}", state.opened_at, now)
    return state, None


def close(state: AlertState, why: str, *, now: datetime) -> tuple[AlertState, Transition | None]:
    """End what is open; people are told, if they know of it."""
    if state.severity is None and not state.is_flapping:
        return state, None
    closed = replace(
        state,
        severity=None,
        message=why,
        opened_at=None,
        changes=(),
        is_flapping=False,
        told_at=now,
        evaluated_at=max(now, state.evaluated_at),  # what was evaluated before opens it no more
    )
    began = state.opened_at or state.evaluated_at
    return closed, _transition(closed, "resolved", f"closed {state.evaluated_at.isoformat()}", began, now)


def _kind(before: Severity | None, after: Severity | None) -> Kind:
    if before is None:
        return "opened"
    if after is None:
        return "resolved"
    return "escalated" if after == "error" else "eased"


def _transition(state: AlertState, kind: Kind, event: str, opened_at: datetime, at: datetime) -> Transition:
    return Transition(
        key=state.key,
        kind=kind,
        event=event,
        severity=state.severity,
        failed_as=state.failed_as,
        message=state.message,
        run_id=state.run_id,
        opened_at=opened_at,
        at=at,
    )
