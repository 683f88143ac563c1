"""When people are told of what is wrong, and when not: every transition, what is read again, and what lapses."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_assets.core.alerts import GONE, AlertKey, AlertRules, AlertState, Evaluation, Transition, step
from vision_assets.core.levels import Severity

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = AlertKey("check", "tenant_storage_usage", "quota_below_limit", "a")
RULES = AlertRules()
WARN: Severity = "warn"
NOT_FLAPPING = AlertRules(flapping_changes=1000)


def outcomes(
    *severities: Severity | None, key: AlertKey = KEY, every: timedelta = timedelta(minutes=10)
) -> list[Evaluation]:
    """Evaluations one after the other, from noon on."""
    return [
        Evaluation(key, severity, f"it is {severity}", NOON + number * every, number + 1, f"run {number}")
        for number, severity in enumerate(severities)
    ]


class Watch:
    """Keeps the states of several steps, and what was told."""

    def __init__(self, rules: AlertRules = RULES) -> None:
        self.rules = rules
        self.states: dict[AlertKey, AlertState] = {}
        self.told: list[Transition] = []

    def see(
        self, *evaluations: Evaluation, now: datetime | None = None, gone: frozenset[AlertKey] = frozenset()
    ) -> list[str]:
        """Take evaluations in, and give the kinds of what is told."""
        now = now or max([NOON, *(evaluation.at for evaluation in evaluations)])
        changed, told = step(self.states, evaluations, rules=self.rules, now=now, gone=gone)
        self.states |= changed
        self.told += told
        return [one.kind for one in told]


@pytest.mark.parametrize(
    ("severities", "told"),
    [
        ([None, None], []),
        (["warn"], ["opened"]),
        (["error", "error"], ["opened"]),
        ([None, "warn", "warn", "error", "error", "warn", None, None], ["opened", "escalated", "eased", "resolved"]),
        (["warn", None, "error"], ["opened", "resolved", "opened"]),
    ],
)
def test_each_change_is_told_once(severities: Sequence[Severity | None], told: list[str]) -> None:
    """One by one as they come, all at once, or in any order: what is told is the same."""
    watch = Watch()
    assert [kind for one in outcomes(*severities) for kind in watch.see(one)] == told
    at_once = Watch()
    assert at_once.see(*reversed(outcomes(*severities))) == told
    assert [one.event for one in at_once.told] == [one.event for one in watch.told]


def test_what_is_told_says_since_when_and_by_which_run() -> None:
    """Severity, text and run are those of the change; the beginning stays that of the first failure."""
    watch = Watch()
    watch.see(*outcomes(None, "warn", "error", None))
    opened, escalated, resolved = watch.told
    began = NOON + timedelta(minutes=10)
    assert {one.opened_at for one in watch.told} == {began}
    assert (opened.severity, opened.message, opened.run_id, opened.at) == ("warn", "it is warn", "run 1", began)
    assert (escalated.severity, escalated.run_id) == ("error", "run 2")
    assert (resolved.severity, resolved.message) == (None, "it is None")
    assert watch.states[KEY].opened_at is None


@given(
    severities=st.lists(st.sampled_from([None, "warn", "error"]), max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=8),
)
def test_what_is_read_again_changes_nothing(severities: list[Severity | None], cuts: list[int]) -> None:
    """However often parts are read again, and however they are cut, what is told is the same, in the same order."""
    everything = outcomes(*severities)
    once = Watch(NOT_FLAPPING)
    once.see(*everything, now=NOON)
    again = Watch(NOT_FLAPPING)
    for cut in sorted(cuts):
        again.see(*everything[:cut], now=NOON)
        again.see(*everything[:cut], now=NOON)
    again.see(*everything, now=NOON)
    again.see(*everything, now=NOON)
    assert [(one.kind, one.event) for one in again.told] == [(one.kind, one.event) for one in once.told]
    assert len({one.event for one in again.told}) == len(again.told)


def test_an_evaluation_that_comes_late_changes_nothing_that_is_newer() -> None:
    """What another transaction wrote earlier and committed later does not undo what is known since."""
    watch = Watch()
    first, second = outcomes("warn", None)
    assert watch.see(second) == []
    assert watch.see(first) == []
    assert watch.states[KEY].severity is None


def test_of_the_same_moment_the_later_event_counts() -> None:
    """Two evaluations with one time stamp are told apart by their ids."""
    one = Evaluation(KEY, "warn", "", NOON, 7)
    other = Evaluation(KEY, None, "", NOON, 8)
    watch = Watch()
    assert watch.see(other, one) == ["opened", "resolved"]


def test_what_is_still_wrong_is_told_again() -> None:
    """A day after the last word, whatever was evaluated meanwhile, and once each day."""
    watch = Watch()
    watch.see(*outcomes("warn"))
    almost = NOON + timedelta(hours=23, minutes=59)
    assert watch.see(Evaluation(KEY, "warn", "still", almost, 9), now=almost) == []
    day = NOON + timedelta(hours=24)
    assert watch.see(now=day) == ["reminder"]
    assert watch.told[-1].message == "still"
    assert watch.see(now=day) == []
    assert watch.see(now=day + timedelta(hours=24)) == ["reminder"]
    assert watch.told[-1].opened_at == NOON
    assert watch.told[-1].event != watch.told[-2].event


def test_an_escalation_puts_the_reminder_off() -> None:
    """People have just heard of it."""
    watch = Watch()
    watch.see(*outcomes("warn"))
    later = NOON + timedelta(hours=20)
    assert watch.see(Evaluation(KEY, "error", "", later, 9)) == ["escalated"]
    assert watch.see(now=NOON + timedelta(hours=25)) == []
    assert watch.see(now=later + timedelta(hours=24)) == ["reminder"]


def test_flapping_is_told_once_and_then_what_it_settled_to() -> None:
    """The fifth change within the window is told as flapping, later ones not at all, until a window without any."""
    watch = Watch()
    assert watch.see(*outcomes("warn", None, "warn", None, "warn")) == [
        *("opened", "resolved", "opened", "resolved"),
        "flapping",
    ]
    more = outcomes(*[WARN, None] * 5, "error")
    assert watch.see(*more[5:]) == []
    last = more[-1].at
    steady = last + timedelta(hours=23)
    assert watch.see(Evaluation(KEY, "error", "bad", steady, 99), now=steady) == []
    settled = last + timedelta(hours=24)
    assert watch.see(now=settled) == ["settled"]
    assert (watch.told[-1].severity, watch.told[-1].message) == ("error", "bad")
    assert watch.see(now=settled + timedelta(hours=24)) == ["reminder"]
    assert watch.see(Evaluation(KEY, None, "", settled + timedelta(hours=25), 100)) == ["resolved"]


def test_flapping_that_settles_well_is_told_as_well() -> None:
    """People heard that it flaps, so they hear that it ended."""
    watch = Watch()
    watch.see(*outcomes("warn", None, "warn", None, "warn", None))
    assert watch.see(now=NOON + timedelta(hours=25)) == ["settled"]
    assert watch.told[-1].severity is None
    assert watch.see(now=NOON + timedelta(days=9)) == []


def test_what_changes_seldom_does_not_flap() -> None:
    """Changes that are older than the window do not count."""
    watch = Watch()
    kinds = watch.see(*outcomes(*[WARN, None] * 4, every=timedelta(hours=7)), now=NOON)
    assert kinds == ["opened", "resolved"] * 4


def test_how_many_changes_are_kept_is_bounded() -> None:
    """Whatever changes all the time does not make its row grow."""
    watch = Watch()
    watch.see(*outcomes(*[WARN, None] * 100))
    assert len(watch.states[KEY].changes) == RULES.flapping_changes + 1


def test_partitions_are_apart() -> None:
    """What one tenant's check does tells nothing of another's."""
    other = KEY._replace(partition="b")
    watch = Watch()
    assert watch.see(*outcomes("warn"), *outcomes(None, "error", key=other)) == ["opened", "opened"]
    assert {one.key.partition: one.severity for one in watch.told} == {"a": "warn", "b": "error"}


@pytest.mark.parametrize("flapping", [False, True])
def test_what_nobody_looks_at_any_more_is_closed(flapping: bool) -> None:
    """An open alert of a tenant who left is closed once, and what is still read of it opens nothing."""
    watch = Watch()
    watch.see(*outcomes(*[WARN, None] * (3 if flapping else 0), "warn"))
    late = Evaluation(KEY, "error", "", NOON + timedelta(hours=1), 99)
    assert watch.see(late, gone=frozenset({KEY}), now=NOON + timedelta(hours=2)) == ["resolved"]
    assert watch.told[-1].message == GONE
    assert watch.see(late, gone=frozenset({KEY}), now=NOON + timedelta(days=9)) == []


def test_a_tenant_who_left_and_was_well_is_not_told_of() -> None:
    """There is nothing to close."""
    watch = Watch()
    watch.see(*outcomes(None))
    assert watch.see(gone=frozenset({KEY}), now=NOON + timedelta(days=1)) == []
