"""Durations counted in buckets, so that processes on any number of machines can add theirs up in one place.

What is not here: what is timed, and where the counts are kept.
"""

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Buckets:
    """Where durations are sorted into.

    Attributes:
        bounds_seconds: Upper bounds, ascending, each of its bucket's own; above the last one lies one more bucket.
    """

    bounds_seconds: tuple[float, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The buckets' names: their upper bounds, as Prometheus writes them."""
        return (*map(str, self.bounds_seconds), "+Inf")

    def of(self, seconds: float) -> str:
        """Name the bucket of a duration."""
        return self.labels[bisect_left(self.bounds_seconds, seconds)]


QUOTA_CHECKS = Buckets((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0))
"""Of what a put waits for the ledger before it is given room."""

CALLS = Buckets((0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0))
"""Of calls to a vision provider."""
