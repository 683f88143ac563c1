"""The reference of the metrics, and the names that other parts of the product read."""

import re
from pathlib import Path

import pytest

from vision_assets.service.catalogue import CATALOGUE, Described

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"

CONTRACT = {
    "tenant_storage_usage_gb": ("tenant_id", "content_type"),
    "storage_bucket_usage_gb": ("content_type",),
    "storage_quota_violations_total": ("tenant_id", "reason"),
    "storage_quota_check_duration_seconds": (),
    "storage_emergency_cleanups_total": (),
    "storage_lru_evictions_total": (),
    "storage_cleanup_freed_gb": (),
    "vision_budget_usage_tokens": ("tenant_id", "period"),
    "vision_budget_gate_blocks_total": ("tenant_id", "reason"),
    "vision_tokens_used_total": (),
    "vision_cache_hits_total": ("cache_type",),
    "vision_media_total": ("result", "reason"),
    "vision_policy_decisions_total": ("decision", "reason"),
    "vision_analysis_duration_seconds": (),
}


def test_names_and_labels_that_others_read() -> None:
    """They stay as they are."""
    labels = {one.name: one.labels for one in CATALOGUE}
    assert {name: labels.get(name) for name in CONTRACT} == CONTRACT


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_documented(metric: Described) -> None:
    """Every metric stands in the reference with its kind, labels and meaning."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |" in DOCS.read_text()


def test_nothing_else_is_documented() -> None:
    """A metric that is gone from the exporter goes from the reference."""
    documented = re.findall(r"^\| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert documented == [metric.name for metric in CATALOGUE]
