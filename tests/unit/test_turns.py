"""What is decided about turns, without a database."""

from datetime import timedelta

import pytest

from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.turns import PATIENCE_SECONDS, Waiting, first_of, rest_after, text_of, wants_run, will_pass

WAITS, HAS_COME = Waiting(7, PATIENCE_SECONDS), Waiting(7, PATIENCE_SECONDS - 1)


@pytest.mark.parametrize("longest", [timedelta(minutes=1), timedelta(hours=1)])
def test_rests_grow_up_to_the_longest(longest: timedelta) -> None:
    """From seconds on, and for any number of attempts."""
    rests = [rest_after(attempts, longest=longest) for attempts in range(1, 9)]
    assert rests[0] == timedelta(seconds=10)
    assert rests == sorted(rests)
    assert rests[-1] == rest_after(1_000_000, longest=longest) == longest


def test_a_fault_that_passes_rests_a_tenant_for_a_minute_at_most() -> None:
    """An outage is over for all tenants soon after it is over."""
    assert rest_after(1_000_000) == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("first", "runs", "wanted"),
    [
        (None, 0, False),
        (HAS_COME, 0, True),
        (HAS_COME, 1, False),
        (WAITS, 1, True),
        (WAITS, 2, False),
        (WAITS, 3, False),
    ],
)
def test_a_further_run_is_wanted_when_somebody_waits_in_vain(first: Waiting | None, runs: int, wanted: bool) -> None:
    """The first one at once, the next ones when those under way do not come to the first in line, up to the limit."""
    assert wants_run(first, runs=runs, most_runs=2) is wanted


def test_one_error_that_will_not_pass_decides() -> None:
    """In a group, however deep; each error is told once."""
    passing = StorageUnavailable("away")
    group = ExceptionGroup("", [passing, ExceptionGroup("", [passing, ConfigurationError("wrong")])])
    assert not will_pass(group)
    assert will_pass(ExceptionGroup("", [passing]))
    assert not will_pass(ZeroDivisionError())
    assert text_of(group) == "StorageUnavailable: away; ConfigurationError: wrong"


def test_failures_are_told_by_the_first_few() -> None:
    """With their number."""
    assert first_of([]) is None
    assert first_of(["a"]) == "1 items failed and stay to do. First: a"
    assert first_of(list("abcd")) == "4 items failed and stay to do. First: a; b; c"
