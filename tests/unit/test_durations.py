"""Buckets of durations."""

import pytest

from vision_assets.core.durations import Buckets

BUCKETS = Buckets((0.01, 0.5, 1.0))


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0, "0.01"), (0.01, "0.01"), (0.0101, "0.5"), (1, "1.0"), (1.5, "+Inf"), (1e9, "+Inf")]
)
def test_a_bound_belongs_to_its_bucket(seconds: float, bucket: str) -> None:
    """Prometheus counts what is less than or equal to the bound."""
    assert BUCKETS.of(seconds) == bucket


def test_labels_are_numbers_to_prometheus() -> None:
    """One for each bound and one for what is above, ascending."""
    assert [float(label) for label in BUCKETS.labels] == [0.01, 0.5, 1, float("inf")]
