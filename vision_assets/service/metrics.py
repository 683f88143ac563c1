"""Figures become samples. Pure: what is read is handed in, and goes onto a sheet.

What is not here: reading (`exporter.py`), and which tenants have series of their own (`tenants.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from vision_assets.clients.postgres.dagster_events import Materialized
from vision_assets.clients.postgres.metrics import Books, Count, Labels, Queue, Queues, Waiting
from vision_assets.core.budget import BudgetLimits
from vision_assets.core.dead_letters import ALL_STAGES
from vision_assets.core.durations import CALLS, QUOTA_CHECKS
from vision_assets.core.levels import ERROR_FROM, WARN_FROM
from vision_assets.core.quota import StorageLimits
from vision_assets.core.reconcile import DRIFT_CLASSES
from vision_assets.core.storage import CONTENT_TYPES
from vision_assets.core.tenants import TenantId
from vision_assets.service.catalogue import CATALOGUE
from vision_assets.service.sheet import Sheet
from vision_assets.service.tenants import OTHER, Bounded, Resource, limit_in_force

GB = 2**30

BY_TENANT = tuple(one.name for one in CATALOGUE if one.kind == "counter" and "tenant_id" in one.labels)
"""Counters that are shown for each tenant."""

_REFUSALS = ("bucket_full", "tenant_limit", "type_limit")
_CACHES = {"cache_hit": "s3", "near_duplicate": "phash"}
_DERIVED = {"vision_cache_hits_total", "vision_tokens_used_total"}
"""Counters that are not counted under their own names."""

_KNOWN_LABELS: dict[str, tuple[str, ...]] = {
    "storage_drift_objects_total": DRIFT_CLASSES,
    "vision_reuse_audits_total": ("agrees", "differs"),
}
"""Shown from the beginning: of a counter that appears with its first event, nobody sees it rise."""

_QUEUES: tuple[Queue, ...] = ("media", "vision", "deferred")


@dataclass(frozen=True, slots=True)
class Reading:
    """How the reading of a source went.

    Attributes:
        at: Aware UTC, when it began.
    """

    source: str
    at: datetime
    seconds: float
    success: bool


def show_tenants(sheet: Sheet, tenants: Sequence[Bounded], own: set[TenantId]) -> None:
    """Show what tenants have stored and spent: of those in `own` each by itself, of the others the sums."""
    others = [one for one in tenants if one.figures.id not in own]
    for one in tenants:
        if one.figures.id in own:
            label = str(one.figures.id)
            _show_levels(sheet, [one], label)
            _show_limits(sheet, one, label)
    if others:
        _show_levels(sheet, others, OTHER)


def _show_levels(sheet: Sheet, tenants: Sequence[Bounded], label: str) -> None:
    figures = [one.figures for one in tenants]
    for content_type in CONTENT_TYPES:
        stored = sum(one.stored_bytes[content_type] for one in figures)
        sheet.add("tenant_storage_usage_gb", stored / GB, tenant_id=label, content_type=content_type)
    sheet.add("tenant_storage_reserved_gb", sum(one.reserved_bytes for one in figures) / GB, tenant_id=label)
    reconciled = [one.reconciled_at for one in figures if one.reconciled_at is not None]
    if reconciled:
        at = min(reconciled).timestamp()
        sheet.add("tenant_storage_reconciled_timestamp_seconds", at, tenant_id=label)
    for period in figures[0].budget:
        used = sum(one.budget[period].used_tokens for one in figures)
        held = sum(one.budget[period].held_tokens for one in figures)
        sheet.add("vision_budget_usage_tokens", used, tenant_id=label, period=period)
        sheet.add("vision_budget_held_tokens", held, tenant_id=label, period=period)


def _show_limits(sheet: Sheet, tenant: Bounded, label: str) -> None:
    sheet.add("tenant_storage_limit_gb", tenant.limit_bytes / GB, tenant_id=label)
    for content_type, limit in tenant.type_limit_bytes.items():
        sheet.add("tenant_storage_type_limit_gb", limit / GB, tenant_id=label, content_type=content_type)
    for period, tokens in tenant.limit_tokens.items():
        if tokens is not None:
            sheet.add("vision_budget_limit_tokens", tokens, tenant_id=label, period=period)


def show_near_limits(sheet: Sheet, shares: Mapping[TenantId, Mapping[Resource, float]]) -> None:
    """Count the tenants that are near a limit: of those without series of their own, too."""
    resources: tuple[Resource, ...] = ("storage", "budget_day", "budget_month")
    for resource in resources:
        for level, threshold in (("warn", WARN_FROM), ("error", ERROR_FROM)):
            near = sum(one[resource] >= threshold for one in shares.values())
            sheet.add("tenants_near_limit", near, resource=resource, level=level)


def show_totals(sheet: Sheet, books: Books, storage: StorageLimits, budget: BudgetLimits) -> None:
    """Show what all tenants have together, and the bounds of that."""
    sheet.add("tenants_active", len(books.tenants))
    sheet.add("storage_bucket_limit_gb", storage.bucket_bytes / GB)
    for content_type in CONTENT_TYPES:
        usage, reserved = books.total_bytes[content_type], books.reserved_bytes[content_type]
        sheet.add("storage_bucket_usage_gb", usage / GB, content_type=content_type)
        sheet.add("storage_bucket_reserved_gb", reserved / GB, content_type=content_type)
        sheet.add("storage_type_limit_gb", storage.type_bytes[content_type] / GB, content_type=content_type)
    if books.tenants:
        oldest = min(one.reconciled_at or one.created_at for one in books.tenants)
        sheet.add("storage_oldest_reconciliation_timestamp_seconds", oldest.timestamp())
    for period, spent in books.budget.items():
        sheet.add("vision_budget_global_usage_tokens", spent.used_tokens, period=period)
        sheet.add("vision_budget_global_held_tokens", spent.held_tokens, period=period)
        limit = limit_in_force(spent, budget.everyone.get(period))
        if limit is not None:
            sheet.add("vision_budget_global_limit_tokens", limit, period=period)
    sheet.add("vision_tokens_used_total", books.settled_tokens)


def show_counters(sheet: Sheet, counts: Sequence[Count]) -> None:
    """Show the counters of all tenants together."""
    known: defaultdict[str, Counter[Labels]] = defaultdict(Counter)
    for one in counts:
        known[one.name][one.labels] += one.value
    for described in CATALOGUE:
        if described.kind != "counter" or described.name in BY_TENANT or described.name in _DERIVED:
            continue
        values: Counter[tuple[str, ...]] = Counter() if described.labels else Counter({(): 0})
        values.update(dict.fromkeys(((text,) for text in _KNOWN_LABELS.get(described.name, ())), 0))
        for labels, value in known[described.name].items():
            values[tuple(dict(labels).get(label, "") for label in described.labels)] += value
        for texts, value in values.items():
            sheet.add(described.name, value, **dict(zip(described.labels, texts, strict=True)))
    for reason, cache_type in _CACHES.items():
        hits = sum(n for labels, n in known["vision_media_total"].items() if dict(labels).get("reason") == reason)
        sheet.add("vision_cache_hits_total", hits, cache_type=cache_type)
    sheet.add("storage_cleanup_freed_gb", sum(known["storage_cleanup_freed_bytes_total"].values()) / GB)
    checks_took = sum(known["storage_quota_check_duration_microseconds_total"].values()) / 1e6
    calls_took = sum(known["vision_analysis_duration_milliseconds_total"].values()) / 1e3
    for name, buckets, took_seconds in (
        ("storage_quota_check_duration_seconds", QUOTA_CHECKS, checks_took),
        ("vision_analysis_duration_seconds", CALLS, calls_took),
    ):
        by_bucket = {dict(labels)["le"]: value for labels, value in known[name].items()}
        sheet.add_histogram(name, by_bucket, buckets=buckets, sum_seconds=took_seconds)


def show_tenant_counters(
    sheet: Sheet,
    counts: Mapping[TenantId | None, Sequence[Count]],
    rest: Mapping[tuple[str, Labels], int],
    own: set[TenantId],
) -> None:
    """Show counters of tenants with series of their own, and `rest` for the others. Refusals are there before any."""
    none_refused: dict[tuple[str, Labels], int] = {
        ("storage_quota_violations_total", (("reason", reason),)): 0 for reason in _REFUSALS
    }
    shown: dict[str, Mapping[tuple[str, Labels], int]] = {OTHER: rest}
    for tenant_id in own:
        shown[str(tenant_id)] = {(one.name, one.labels): one.value for one in counts.get(tenant_id, ())}
    for label, values in shown.items():
        for (name, labels), value in {**none_refused, **values}.items():
            sheet.add(name, value, tenant_id=label, **dict(labels))


def show_queues(sheet: Sheet, queues: Queues, own: set[TenantId]) -> None:
    """Show what is to do; a tenant with series of its own and a stage for which there is nothing have zeros."""
    waiting: dict[tuple[str, Queue], list[Waiting]] = {
        (str(tenant_id), queue): [] for tenant_id in own for queue in _QUEUES
    }
    for one in queues.waiting:
        label = str(one.tenant_id) if one.tenant_id in own else OTHER
        waiting.setdefault((label, one.queue), []).append(one)
    for (label, queue), found in waiting.items():
        sheet.add("tenant_queue_items", sum(one.items for one in found), tenant_id=label, queue=queue)
        if found:
            oldest = min(one.oldest_at for one in found).timestamp()
            sheet.add("tenant_queue_oldest_timestamp_seconds", oldest, tenant_id=label, queue=queue)
    for stage, letters in {**dict.fromkeys(ALL_STAGES, 0), **queues.dead_letters}.items():
        sheet.add("dead_letters_open", letters, stage=stage)


def show_successes(sheet: Sheet, materialized: Sequence[Materialized]) -> None:
    """Show when assets were last materialized: for each partition that is named, and for any."""
    for one in materialized:
        at = one.at.timestamp()
        if one.partition is None:
            sheet.add("asset_newest_success_timestamp_seconds", at, asset=one.asset)
        else:
            sheet.add("asset_last_success_timestamp_seconds", at, asset=one.asset, tenant_id=one.partition)


def show_reading(sheet: Sheet, reading: Reading) -> None:
    """Show how the reading of a source went."""
    sheet.add("vision_assets_read_success", reading.success, source=reading.source)
    sheet.add("vision_assets_read_duration_seconds", reading.seconds, source=reading.source)
    sheet.add("vision_assets_read_timestamp_seconds", reading.at.timestamp(), source=reading.source)
