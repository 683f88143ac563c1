"""What goes in a clean-up, in which order, and when it is enough; pure."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_assets.core.cleanup import (
    UNSETTLED,
    Candidate,
    CleanupReport,
    Count,
    Removed,
    chosen,
    counts,
    emergency_plan,
    is_emergency,
    owner,
    summed,
    ttl_plan,
)
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.storage import ContentType, media_key
from vision_assets.core.tenants import TenantId

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TENANT, OTHER = TenantId(UUID(int=1)), TenantId(UUID(int=2))
EMERGENCY = emergency_plan(threshold_bytes=1_000, target_bytes=600)


def candidate(key: str, size_bytes: int, content_type: ContentType = "crawl") -> Candidate:
    """An object that may go."""
    return Candidate(TENANT, key, content_type, size_bytes, (NOW, TENANT, key))


@given(sizes=st.lists(st.integers(0, 50)), needed_bytes=st.integers(0, 400))
def test_no_more_than_needed(sizes: list[int], needed_bytes: int) -> None:
    """Objects are taken from the beginning, and without the last one it would not be enough."""
    candidates = [candidate(str(place), size) for place, size in enumerate(sizes)]
    taken = chosen(candidates, needed_bytes=needed_bytes)
    assert taken == candidates[: len(taken)]
    assert sum(one.bytes for one in taken[:-1]) < needed_bytes or not taken
    if len(taken) < len(candidates):
        assert sum(one.bytes for one in taken) >= needed_bytes


def test_without_a_need_all_go() -> None:
    """What has outlived its time goes, however much it is."""
    candidates = [candidate("a", 1), candidate("b", 2)]
    assert chosen(candidates, needed_bytes=None) == candidates


def test_order_and_ages_of_an_emergency() -> None:
    """Crawled pages of 3 days, results of 7, then unused pictures; nothing that work under way may still need."""
    crawl, vision, media = EMERGENCY.steps(NOW)
    assert [step.content_type for step in (crawl, vision, media)] == ["crawl", "vision", "media"]
    assert NOW - crawl.before == timedelta(days=3)
    assert NOW - vision.before == timedelta(days=7)
    assert NOW - media.before == UNSETTLED
    assert {NOW - step.settled_before for step in (crawl, vision, media)} == {UNSETTLED}


def test_order_and_ages_of_every_day() -> None:
    """The same order with the ages that the settings give."""
    steps = ttl_plan(crawl_days=7, vision_days=14, media_days=30).steps(NOW)
    assert [(step.content_type, (NOW - step.before).days) for step in steps] == [
        ("crawl", 7),
        ("vision", 14),
        ("media", 30),
    ]
    assert {(NOW - step.vision_before).days for step in steps} == {14}


def test_emergency_begins_at_the_threshold() -> None:
    """At the threshold, not below; the daily clean-up is never one."""
    assert [is_emergency(taken, EMERGENCY) for taken in (999, 1_000, 1_001)] == [False, True, True]
    assert not is_emergency(2_000, ttl_plan(crawl_days=7, vision_days=14, media_days=30))


def test_target_above_the_threshold_is_refused() -> None:
    """Settings that make no sense are told, with their names."""
    with pytest.raises(ConfigurationError, match="STORAGE_EMERGENCY_TARGET_BYTES"):
        emergency_plan(threshold_bytes=600, target_bytes=601)


def test_owner() -> None:
    """The tenant stands in the key; other keys are nobody's."""
    assert owner(media_key(TENANT, "a" * 64, extension="jpg")) == TENANT
    assert [owner(key) for key in ("media", "media/tenant/x", "")] == [None, None, None]


def test_counts() -> None:
    """Bytes and objects by class and occasion, evicted pictures, and one emergency a tenant."""
    removed = summed([candidate("a", 5), candidate("b", 6), candidate("c", 7, "media")])
    labels = {"occasion": "emergency"}
    assert counts(removed, occasion="emergency", first=True) == [
        Count("storage_cleanup_freed_bytes_total", {"content_type": "crawl", **labels}, 11),
        Count("storage_cleanup_objects_total", {"content_type": "crawl", **labels}, 2),
        Count("storage_cleanup_freed_bytes_total", {"content_type": "media", **labels}, 7),
        Count("storage_cleanup_objects_total", {"content_type": "media", **labels}, 1),
        Count("storage_lru_evictions_total", {}, 1),
        Count("storage_emergency_cleanups_total", {}, 1),
    ]
    emergencies = "storage_emergency_cleanups_total"
    assert emergencies not in {one.name for one in counts(removed, occasion="emergency", first=False)}
    assert emergencies not in {one.name for one in counts(removed, occasion="ttl", first=True)}


def test_report_by_class() -> None:
    """Every class is there, in the order of the clean-up, with its tenants; uploads of nobody count as no tenant."""
    report = CleanupReport(EMERGENCY, dry_run=False)
    report.removed["crawl", TENANT] += Removed(1, 10)
    report.removed["crawl", OTHER] += Removed(2, 20)
    report.removed["multipart", None] += Removed(1, 5)
    assert [(t.name, t.tenants, t.objects, t.bytes) for t in report.totals()] == [
        ("crawl", 2, 3, 30),
        ("vision", 0, 0, 0),
        ("media", 0, 0, 0),
        ("multipart", 0, 1, 5),
    ]


@pytest.mark.parametrize(
    ("taken_bytes", "needed", "reached"), [(600, True, True), (601, True, False), (900, False, True)]
)
def test_reached(taken_bytes: int, needed: bool, reached: bool) -> None:
    """The target is reached when no more is taken; without an emergency there is nothing to reach."""
    report = CleanupReport(EMERGENCY, dry_run=False, taken_after_bytes=taken_bytes, needed=needed)
    assert report.reached is reached
