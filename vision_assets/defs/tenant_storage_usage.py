"""`tenant_storage_usage`: a tenant's books held against S3, with the checks of its storage and its token budget.

What is not here: what is found and put right (`core/reconcile.py`), and what is said of it (`core/findings.py`).
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from vision_assets.core.budget import Swept
from vision_assets.core.findings import below_limits, matches_storage, without_stale_holds
from vision_assets.core.levels import Gauge, budget_gauges, storage_gauges
from vision_assets.core.orphans import ORPHAN_AGE, Orphans, StrayFolder, stray_folders
from vision_assets.core.reconcile import Reconciliation, ReconciliationReport
from vision_assets.core.storage import CONTENT_TYPES
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY
from vision_assets.defs.metadata import megabytes, table
from vision_assets.defs.outcomes import Checked, Made, Metadata, Outcome
from vision_assets.defs.partitions import RANGES, TENANTS
from vision_assets.defs.progress import InfoLog, ProgressLog
from vision_assets.defs.runbooks import runbooks
from vision_assets.defs.steps import Task, Work, run_for_tenants
from vision_assets.resources import Ledgers, PostgresResource, S3Resource, StorageQuotaResource, TokenBudgetResource

TENANT_STORAGE_USAGE = dg.AssetKey("tenant_storage_usage")
LOST_CALLS_WITHIN = timedelta(hours=6)
"""As often as the schedule comes by: each lost call is told of once or twice, and then the check passes again."""

CHECKS = {
    "quota_below_limit": "Stored and reserved bytes against the limits of the tenant, the types and the bucket: a "
    "warning from 85 %, an error from 93 %.",
    "budget_below_limit": "Tokens and requests, spent and held, of this UTC day and month against the limits: a "
    "warning from 85 %, an error from 93 %.",
    "usage_matches_storage": "The books agreed with a full listing of S3. Objects gone from S3 are an error, other "
    "differences a warning; all are put right.",
    "no_stale_holds": "No operation on an object was overdue, and every paid call of the last six hours came back.",
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found out about one tenant."""

    report: ReconciliationReport
    orphans: Sequence[Orphans]
    storage: Sequence[Gauge]
    budget: Sequence[Gauge]
    lost_calls: Swept

    def checks(self, tenant: Tenant) -> list[Checked]:
        """Decide each check, and show its figures."""
        drift, name = drift_table(self.report), dg.MetadataValue.text(tenant.name)
        held = without_stale_holds(self.report, lost_calls=self.lost_calls.holds, lost_tokens=self.lost_calls.tokens)
        return [
            Checked(
                "quota_below_limit",
                below_limits(self.storage),
                {"tenant": name, "levels": levels_table(self.storage)},
            ),
            Checked(
                "budget_below_limit",
                below_limits(self.budget),
                {"tenant": name, "levels": levels_table(self.budget)},
            ),
            Checked("usage_matches_storage", matches_storage(self.report), {"tenant": name, "drift": drift}),
            Checked("no_stale_holds", held, {"tenant": name, "drift": drift}),
        ]


@dg.multi_asset(
    name="tenant_storage_usage",
    can_subset=True,  # a check whose tenant failed has no outcome; otherwise Dagster would miss it
    partitions_def=TENANTS,
    backfill_policy=RANGES["tenant_storage_usage"],
    pool="s3",
    retry_policy=RETRY,
    specs=[
        dg.AssetSpec(
            TENANT_STORAGE_USAGE,
            deps=["media_objects", "vision_results", "post_enrichment"],
            description=(
                "Bytes and objects that a tenant has in S3, by content type, held against a full listing every six "
                "hours while uploads go on. Where the two differ, the object is looked at and booked; a listing that "
                "fails or breaks off changes nothing. Orphans are shown and left alone."
            ),
            kinds={"s3", "postgres"},
            group_name="storage",
            owners=["team:vision"],
            tags={"stage": "account"},
            code_version="2",
            metadata=runbooks("quota-raised", "budgets-and-quotas"),
        )
    ],
    check_specs=[
        dg.AssetCheckSpec(name, asset=TENANT_STORAGE_USAGE, description=description, partitions_def=TENANTS)
        for name, description in CHECKS.items()
    ],
)
def tenant_storage_usage(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    s3: S3Resource,
    storage_quota: StorageQuotaResource,
    token_budget: TokenBudgetResource,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Reconcile the tenants of the run, each by itself, and check their levels."""
    stage = StorageUsageStage(s3=s3, storage_quota=storage_quota, token_budget=token_budget, log=context.log)
    is_selected = TENANT_STORAGE_USAGE in context.selected_asset_keys
    for shown in run_for_tenants(context, postgres, stage):
        yield from (event for event in shown.events() if is_selected or isinstance(event, dg.AssetCheckEvaluation))


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUsageStage:
    """Holds a tenant's books against S3."""

    s3: S3Resource
    storage_quota: StorageQuotaResource
    token_budget: TokenBudgetResource
    log: InfoLog

    @asynccontextmanager
    async def open(self, ledgers: Ledgers) -> AsyncIterator[Work]:
        """See `steps.Stage`."""
        store = self.s3.connect()
        guard = self.storage_quota.guard(store, ledgers)
        gate = self.token_budget.gate(ledgers)
        strays: list[StrayFolder] | None = None  # of the bucket, so they are looked for once

        async def work(task: Task) -> Outcome[_Seen]:
            tenant = task.tenant
            nonlocal strays
            report = await Reconciliation(
                tenant_id=tenant.id,
                store=store,
                guard=guard,
                ledger=ledgers.reconciliation,
                on_listed=ProgressLog(self.log, f"tenant_storage_usage: objects of {tenant.name}"),
            ).run()
            if strays is None:
                strays = await stray_folders(store, ledgers.orphans)
            lost_calls = await gate.lost(tenant.id, within=LOST_CALLS_WITHIN)
            seen = _Seen(
                report,
                await ledgers.orphans.orphans(tenant.id, before=datetime.now(UTC) - ORPHAN_AGE),
                storage_gauges(report.usage, guard.limits, tenant_name=tenant.name),
                budget_gauges(await gate.windows(tenant.id), tenant_name=tenant.name),
                lost_calls,
            )
            found = strays

            async def show(seen: _Seen) -> Sequence[Made]:
                return [Made(TENANT_STORAGE_USAGE, _metadata(tenant, seen, found), seen.checks(tenant))]

            return Outcome(tenant, seen, show, done=report.listed_objects)

        yield work


def _metadata(tenant: Tenant, seen: _Seen, strays: Sequence[StrayFolder]) -> Metadata:
    report, usage = seen.report, seen.report.usage
    return {
        "tenant": tenant.name,
        "stored": table(
            ["type", "bytes", "objects", "reserved bytes"],
            [
                [name, usage.types[name].total_bytes, usage.types[name].objects_count, usage.types[name].reserved_bytes]
                for name in CONTENT_TYPES
            ],
        ),
        "limits": levels_table(seen.storage),
        "budget": levels_table(seen.budget),
        "drift": drift_table(report),
        "orphans": table(
            ["folder", "objects", "bytes", "examples"],
            [[f"{one.folder}/", one.objects, one.bytes, _keys(one.examples)] for one in seen.orphans],
        ),
        "folders_of_no_tenant": table(["folder"], [[f"`{stray.prefix}`"] for stray in strays[:20]]),
        "objects": report.listed_objects,
        "megabytes": megabytes(sum(usage.types[name].total_bytes for name in CONTENT_TYPES)),
        **{f"{name}_megabytes": megabytes(usage.types[name].total_bytes) for name in CONTENT_TYPES},
        **{f"{name}_objects": usage.types[name].objects_count for name in CONTENT_TYPES},
        "percent_of_limit": round(100 * (seen.storage[0].share or 0), 1),
        "orphaned_objects": sum(one.objects for one in seen.orphans),
        "stray_folders": len(strays),
        "duration_seconds": round(report.duration_seconds, 2),
        "dagster/row_count": report.listed_objects,
    }


def levels_table(gauges: Sequence[Gauge]) -> dg.MetadataValue:
    """Show levels against limits."""
    return table(
        ["what", "taken", "limit", "of the limit"],
        [
            [
                f"{gauge.what}, {gauge.unit}",
                gauge.taken,
                "none" if gauge.limit is None else f"{gauge.limit:,}",
                "" if gauge.share is None else f"{gauge.share:.1%}",
            ]
            for gauge in gauges
        ],
    )


def drift_table(report: ReconciliationReport) -> dg.MetadataValue:
    """Show how far the books were from S3; all of it is put right."""
    titles = {
        "missing": "in the books, not in S3",
        "untracked": "in S3, not in the books",
        "wrong_size": "another size in S3",
        "stale_hold": "operations that never came back (bytes they held)",
    }
    rows: list[list[object]] = [
        [titles[name], drift.objects, drift.bytes, _keys(drift.examples)] for name, drift in report.drift.items()
    ]
    rows += [[f"{off.content_type}: figure off the books' sum", off.objects, off.bytes, ""] for off in report.off_sums]
    return table(["put right", "objects", "bytes, S3 less books", "examples"], rows)


def _keys(keys: Sequence[str]) -> str:
    return " ".join(f"`{key}`" for key in keys)
