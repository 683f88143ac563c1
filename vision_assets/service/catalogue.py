"""Every metric that `/metrics` shows: its name, kind, labels and meaning. The reference documents exactly these.

Names and labels without a prefix of their own are those that other parts of the product read. What is not here: where
the figures come from (`clients/postgres/metrics.py`) and how they become samples (`metrics.py`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Described:
    """One metric.

    Attributes:
        labels: In the order in which they are shown.
        meaning: For people, with the unit.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    meaning: str


def _gauge(name: str, meaning: str, *labels: str) -> Described:
    return Described(name, "gauge", labels, meaning)


def _counter(name: str, meaning: str, *labels: str) -> Described:
    return Described(name, "counter", labels, meaning)


def _histogram(name: str, meaning: str) -> Described:
    return Described(name, "histogram", (), meaning)


STORAGE = (
    _gauge("tenant_storage_usage_gb", "Stored, in units of 2^30 bytes", "tenant_id", "content_type"),
    _gauge("tenant_storage_reserved_gb", "Held for puts that are under way, all types", "tenant_id"),
    _gauge("tenant_storage_limit_gb", "Bound of what is stored and reserved, all types; not of `other`", "tenant_id"),
    _gauge(
        "tenant_storage_type_limit_gb",
        "The tenant's own bound of one type, where it has one; not of `other`",
        "tenant_id",
        "content_type",
    ),
    _gauge(
        "tenant_storage_reconciled_timestamp_seconds",
        "When the tenant's books were last held against S3; absent: never. Of `other` the longest ago",
        "tenant_id",
    ),
    _gauge("storage_bucket_usage_gb", "Stored by all tenants, those that are not active among them", "content_type"),
    _gauge("storage_bucket_reserved_gb", "Held for all tenants' puts that are under way", "content_type"),
    _gauge("storage_bucket_limit_gb", "Bound of what all tenants have stored and reserved"),
    _gauge("storage_type_limit_gb", "The same of one type", "content_type"),
    _gauge(
        "storage_oldest_reconciliation_timestamp_seconds",
        "Of the active tenant whose books were held against S3 longest ago; of one never reconciled, since it is there",
    ),
    _counter(
        "storage_quota_violations_total",
        "Puts that a limit refused: `bucket_full`, `tenant_limit`, `type_limit`",
        "tenant_id",
        "reason",
    ),
    _counter("storage_quota_check_failures_total", "Puts let through because the ledger could not be reached"),
    _histogram(
        "storage_quota_check_duration_seconds",
        "Of puts that were given room: from the start of the transaction, waits for locks among it",
    ),
    _counter("storage_puts_total", "Objects put and booked", "content_type"),
    _counter("storage_drift_objects_total", "Objects of which a reconciliation put the books right", "drift"),
    _counter(
        "storage_emergency_cleanups_total",
        "Emergency clean-ups, each once for every tenant that lost something by it",
    ),
    _counter("storage_lru_evictions_total", "Pictures that no post refers to and that a clean-up removed"),
    _gauge("storage_cleanup_freed_gb", "Removed by clean-ups since the beginning; it only grows"),
    _counter(
        "storage_cleanup_freed_bytes_total", "The same in bytes, by type and occasion", "content_type", "occasion"
    ),
    _counter("storage_cleanup_objects_total", "Objects removed by clean-ups", "content_type", "occasion"),
)

VISION = (
    _gauge("vision_budget_usage_tokens", "Spent in this UTC `day` or `month`", "tenant_id", "period"),
    _gauge("vision_budget_held_tokens", "Held for calls that are under way", "tenant_id", "period"),
    _gauge("vision_budget_limit_tokens", "Bound of both; absent: none. Not of `other`", "tenant_id", "period"),
    _gauge("vision_budget_global_usage_tokens", "Spent by all tenants together", "period"),
    _gauge("vision_budget_global_held_tokens", "Held for all tenants together", "period"),
    _gauge("vision_budget_global_limit_tokens", "Bound of both; absent: none", "period"),
    _counter(
        "vision_budget_gate_blocks_total",
        "Pictures whose call was not made, or in vain, and waits",
        "tenant_id",
        "reason",
    ),
    _counter("vision_tokens_used_total", "Tokens of all calls that came back, as billed"),
    _counter(
        "vision_cache_hits_total",
        "Results that cost nothing: `s3` lay there already, `phash` is a near-duplicate's",
        "cache_type",
    ),
    _counter(
        "vision_media_total",
        "Pictures done: `result` is the result's status, `reason` how it came, or why there is none",
        "result",
        "reason",
    ),
    _counter("vision_policy_decisions_total", "Decisions of the vision policy", "decision", "reason"),
    _histogram("vision_analysis_duration_seconds", "Of calls to a vision provider that brought a result"),
    _counter("vision_analyses_total", "Calls to a vision provider that brought a result", "provider", "model"),
    _counter(
        "vision_analysis_duration_milliseconds_total",
        "What these calls took together",
        "provider",
        "model",
    ),
    _counter("vision_reuse_decisions_total", "Candidates for a reuse, taken or refused", "verdict", "reason"),
    _counter("vision_reuse_audits_total", "Reuses that were audited by the provider", "outcome"),
)

OPERATIONS = (
    _gauge("tenants_active", "Active tenants"),
    _gauge(
        "tenants_near_limit",
        "Active tenants, `other` among them, from 85 % (`warn`) and from 93 % (`error`) of a limit on; `resource` is "
        "`storage`, `budget_day` or `budget_month`",
        "resource",
        "level",
    ),
    _gauge(
        "tenant_queue_items",
        "To do: references to read (`media`), pictures never looked at (`vision`), calls that wait (`deferred`)",
        "tenant_id",
        "queue",
    ),
    _gauge(
        "tenant_queue_oldest_timestamp_seconds",
        "Of the oldest: when its post was written (`media`), when it was stored (`vision`); when the first is due "
        "(`deferred`)",
        "tenant_id",
        "queue",
    ),
    _gauge("dead_letters_open", "What could not be done and is not done since", "stage"),
    _gauge(
        "asset_last_success_timestamp_seconds",
        "When Dagster last recorded a materialization; not of `other`",
        "asset",
        "tenant_id",
    ),
    _gauge(
        "asset_newest_success_timestamp_seconds",
        "When Dagster last recorded a materialization for any tenant",
        "asset",
    ),
    _counter("media_references_total", "References done, by what became of them", "state", "reason"),
    _counter("posts_enriched_total", "Posts enriched", "status"),
    _counter("search_upserts_total", "Posts written into the search index"),
    _gauge("vision_assets_read_success", "1: the last reading of a source went well; else it shows nothing", "source"),
    _gauge("vision_assets_read_duration_seconds", "What that reading took", "source"),
    _gauge("vision_assets_read_timestamp_seconds", "When it was", "source"),
)

CATALOGUE = (*STORAGE, *VISION, *OPERATIONS)
