"""What is decided about turns, without a database."""

from datetime import timedelta

import pytest

from vision_assets.core.errors import ConfigurationError, StorageUnavailable
from vision_assets.core.turns import PATIENCE_SECONDS, Waiting, first_of, is_permanent, rest_after, text_of, wants_run

WAITS, HAS_COME = Waiting(7, PATIENCE_SECONDS), Waiting(7, PATIENCE_SECONDS - 1)


def test_rests_grow_up_to_an_hour() -> None:
    """From seconds on, and for any number of attempts."""
    rests = [rest_after(attempts) for attempts in range(1, 9)]
    assert rests[0] == timedelta(seconds=10)
    assert rests == sorted(rests)
    assert rests[-1] == rest_after(1_000_000) == timedelta(hours=1)


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


def test_one_permanent_error_decides() -> None:
    """In a group, however deep; each error is told once."""
    passing = StorageUnavailable("away")
    group = ExceptionGroup("", [passing, ExceptionGroup("", [passing, ConfigurationError("wrong")])])
    assert is_permanent(group)
    assert not is_permanent(ExceptionGroup("", [passing]))
    assert not is_permanent(ZeroDivisionError())
    assert text_of(group) == "StorageUnavailable: away; ConfigurationError: wrong"


def test_failures_are_told_by_the_first_few() -> None:
    """With their number."""
    assert first_of([]) is None
    assert first_of(["a"]) == "1 items failed and stay to do. First: a"
    assert first_of(list("abcd")) == "4 items failed and stay to do. First: a; b; c"
