"""`billing_usage`: what each tenant used, by UTC day, as a table, files and events.

What is not here: what a day comes to, and when it is billed anew (`core/billing.py`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import dagster as dg

from vision_assets.core.billing import Billed, BillingPass, BillingReport, StorageUse, TokenUse
from vision_assets.core.billing_files import FORMATS
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY
from vision_assets.defs.jobs import BILLING
from vision_assets.defs.metadata import table
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.steps import run_for_tenants
from vision_assets.resources import Ledgers, PostgresResource, S3Resource, TokenBudgetResource

BILLING_USAGE = dg.AssetKey("billing_usage")
MAX_TENANTS_PER_RUN = 100
LINES_SHOWN = 50


@dg.asset(
    key=BILLING_USAGE,
    deps=["tenant_storage_usage", "vision_results"],
    partitions_def=TENANTS,
    output_required=False,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=MAX_TENANTS_PER_RUN),
    retry_policy=RETRY,
    description=(
        "GB-hours by content type, tokens, calls and cost by model, of every UTC day that is over. A day that a "
        "reconciliation or a late settle corrects gets a further revision; earlier ones stay. Written to "
        "`billing_usage` and, by month, to S3 under `billing/{tenant_id}/{YYYY-MM}/` as Parquet, CSV and CloudEvents. "
        "Docs: docs/howto/billing.md."
    ),
    kinds={"postgres", "s3", "parquet"},
    group_name=BILLING,
    owners=["team:vision"],
    tags={"stage": "account"},
    code_version="1",
)
def billing_usage(
    context: dg.AssetExecutionContext, postgres: PostgresResource, s3: S3Resource, token_budget: TokenBudgetResource
) -> Iterator[dg.AssetMaterialization]:
    """Bill the tenants of the run, each by itself."""
    store = s3.connect()

    async def work(tenant: Tenant, ledgers: Ledgers) -> BillingReport:
        return await BillingPass(
            tenant_id=tenant.id,
            ledger=ledgers.billing,
            store=store,
            price=token_budget.price(),
            formats=FORMATS,
        ).run(now=datetime.now(UTC))

    for tenant, report in run_for_tenants(context, postgres, work):
        yield dg.AssetMaterialization(
            BILLING_USAGE, partition=str(tenant.id), metadata=_metadata(tenant, report, bucket=s3.bucket)
        )


def _metadata(tenant: Tenant, report: BillingReport, *, bucket: str) -> dict[str, dg.MetadataValue | str | int | float]:
    last_day = [one.use for one in report.billed if one.line.day == report.through]
    stored = [use.gb_hours for use in last_day if isinstance(use, StorageUse)]
    asked = [use for use in last_day if isinstance(use, TokenUse)]
    return {
        "tenant": tenant.name,
        "billed_through": str(report.through),
        "lines_billed": len(report.billed),
        "lines_restated": len(report.restated),
        "billed": _lines(report.billed),
        "restated": _lines(report.restated),
        "files": dg.MetadataValue.md("\n".join(f"- `s3://{bucket}/{key}`" for key in report.files) or "none written"),
        # Of the last day, to be drawn over time; a run that bills nothing new has no figures to draw.
        **({"gb_hours_of_last_day": float(sum(stored, Decimal(0)))} if stored else {}),
        **({"tokens_of_last_day": sum(use.tokens for use in asked)} if asked else {}),
    }


def _lines(billed: tuple[Billed, ...]) -> dg.MetadataValue:
    return table(
        ["day", "what", "GB-hours", "tokens", "calls", "revision"],
        [
            [
                one.line.day,
                one.line.content_type or f"{one.line.provider} {one.line.model}",
                one.use.gb_hours if isinstance(one.use, StorageUse) else "",
                f"{one.use.tokens:,}" if isinstance(one.use, TokenUse) else "",
                f"{one.use.calls:,}" if isinstance(one.use, TokenUse) else "",
                one.revision,
            ]
            for one in billed[-LINES_SHOWN:]
        ],
    )
