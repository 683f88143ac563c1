"""How full things are, and what the checks say of it."""

from collections.abc import Mapping
from datetime import date
from typing import Any
from uuid import UUID

import pytest

from vision_assets.core.budget import EPOCH, EVERYONE, Allowance, Window, WindowKey
from vision_assets.core.findings import below_limits, matches_storage, without_stale_holds
from vision_assets.core.levels import Gauge, Severity, budget_gauges, storage_gauges
from vision_assets.core.quota import OwnLimits, StorageLimits, TenantUsage, Usage
from vision_assets.core.reconcile import DRIFT_CLASSES, Drift, DriftClass, OffSum, ReconciliationReport
from vision_assets.core.tenants import TenantId

LIMITS = StorageLimits(bucket_bytes=1000, tenant_bytes=400, type_bytes={"media": 700, "vision": 100, "crawl": 100})
NOTHING: dict[Any, Usage] = {"media": Usage(), "vision": Usage(), "crawl": Usage()}


def gauge(taken: int, limit: int | None = 1000) -> Gauge:
    """A level."""
    return Gauge("the tank", "bytes", taken, limit, "a larger one raises it")


@pytest.mark.parametrize(
    ("taken", "limit", "severity"),
    [
        (0, 1000, None),
        (849, 1000, None),
        (850, 1000, "warn"),
        (929, 1000, "warn"),
        (930, 1000, "error"),
        (2000, 1000, "error"),
        (10**9, None, None),
        (0, 0, None),
        (1, 0, "error"),
    ],
)
def test_thresholds(taken: int, limit: int | None, severity: Severity | None) -> None:
    """A word from 85 %, an error from 93 %; without a limit nothing is ever full."""
    assert gauge(taken, limit).severity == severity
    assert below_limits([gauge(0), gauge(taken, limit)]).severity == severity


def test_the_worst_level_decides_and_all_full_ones_are_named() -> None:
    """Fullest first, each with what to do; those with room are not mentioned."""
    finding = below_limits([gauge(860), gauge(10), Gauge("the pot", "tokens", 99, 100, "patience helps")])
    assert finding.severity == "error"
    assert finding.message.index("the pot has taken 99.0% of 100 tokens: patience helps") < finding.message.index(
        "the tank has taken 86.0% of 1,000 bytes"
    )
    assert "1.0%" not in finding.message


def test_what_is_well_is_said_too() -> None:
    """Below the thresholds the fullest level is told; without limits that there are none."""
    assert "the tank has taken 50.0%" in below_limits([gauge(500), gauge(1)]).message
    assert "none" in below_limits([gauge(500, None)]).message


@pytest.mark.parametrize(
    ("types", "everyone", "own", "full"),
    [
        ({"media": Usage(300, 50)}, {}, OwnLimits(), "the tenant"),
        ({"media": Usage(300)}, {}, OwnLimits(type_bytes={"media": 310}), "the tenant's media"),
        ({"media": Usage(10)}, {}, OwnLimits(tenant_bytes=10), "the tenant"),
        ({}, {"vision": Usage(60, 39)}, OwnLimits(), "all tenants' vision"),
        ({}, {"media": Usage(600), "vision": Usage(80), "crawl": Usage(80, 150)}, OwnLimits(), "the bucket"),
    ],
)
def test_each_storage_limit_has_its_gauge(
    types: Mapping[Any, Usage], everyone: Mapping[Any, Usage], own: OwnLimits, full: str
) -> None:
    """Whatever may refuse a put is watched: stored and reserved together, the tenant's own limits first."""
    usage = TenantUsage({**NOTHING, **types}, {**NOTHING, **everyone}, own)
    found = {one.what for one in storage_gauges(usage, LIMITS, tenant_name="T") if one.severity}
    assert full in found


def window(period: Any, scope: TenantId, limit: Allowance, **figures: int) -> Window:
    """A window of the budget."""
    provider, starts_on = ("local", EPOCH) if period == "calls" else ("", date(2026, 3, 1))
    return Window(WindowKey(scope, period, provider, starts_on), limit=limit, **figures)


def test_budget_gauges() -> None:
    """Days and months, the tenant's and all tenants', tokens and requests; calls at once are left out."""
    tenant = TenantId(UUID(int=1))
    gauges = budget_gauges(
        [
            window("calls", tenant, Allowance(requests=3), held_requests=3),
            window("day", tenant, Allowance(tokens=100), used_tokens=80, held_tokens=6),
            window("month", EVERYONE, Allowance(requests=10), used_requests=9, held_requests=1),
        ],
        tenant_name="T",
    )
    assert [(one.what, one.unit, one.taken, one.limit) for one in gauges] == [
        ("the tenant today", "tokens", 86, 100),
        ("the tenant today", "requests", 0, None),
        ("all tenants this month", "tokens", 0, None),
        ("all tenants this month", "requests", 10, 10),
    ]
    finding = below_limits(gauges)
    assert finding.severity == "error"
    assert "--everyone" in finding.message
    assert '--tenant "T"' in finding.message


def report(drift: Mapping[DriftClass, Drift] | None = None, off_sums: tuple[OffSum, ...] = ()) -> ReconciliationReport:
    """A reconciliation that found this."""
    return ReconciliationReport(
        usage=TenantUsage(NOTHING, NOTHING),
        listed_objects=7,
        listed_bytes=70,
        nominated=0,
        drift={**dict.fromkeys(DRIFT_CLASSES, Drift()), **(drift or {})},
        busy=0,
        off_sums=off_sums,
        duration_seconds=0.1,
    )


@pytest.mark.parametrize(
    ("drift", "severity", "words"),
    [
        ({}, None, "7 objects"),
        ({"missing": Drift(2, -3000, ("media/x",))}, "error", "2 objects (-3,000 bytes) gone from S3"),
        ({"untracked": Drift(1, 5, ("crawl/y",))}, "warn", "crawl/y"),
        ({"wrong_size": Drift(1, 0, ("crawl/z",))}, "warn", "crawl/z"),
        ({"stale_hold": Drift(9, 9, ("crawl/s",))}, None, "agreed"),
    ],
)
def test_drift(drift: Mapping[DriftClass, Drift], severity: Severity | None, words: str) -> None:
    """Objects that are gone are an error, other drift a warning; stale holds have a check of their own."""
    finding = matches_storage(report(drift))
    assert finding.severity == severity
    assert words in finding.message


def test_figures_that_were_no_sums() -> None:
    """Somebody who writes to the table is told of, even where S3 agrees."""
    finding = matches_storage(report(off_sums=(OffSum("media", 0, -5000, 0),)))
    assert finding.severity == "warn"
    assert "media was -5,000 bytes" in finding.message


def test_stale_holds() -> None:
    """Operations and calls that never came back are a warning each."""
    assert without_stale_holds(report(), lost_calls=0, lost_tokens=0).severity is None
    stale = without_stale_holds(report({"stale_hold": Drift(2, 1500, ("media/x",))}), lost_calls=3, lost_tokens=5376)
    assert stale.severity == "warn"
    for words in ("2 operations", "1,500 bytes", "media/x", "3 calls", "5,376 tokens"):
        assert words in stale.message
    assert "operations" not in without_stale_holds(report(), lost_calls=1, lost_tokens=9).message
