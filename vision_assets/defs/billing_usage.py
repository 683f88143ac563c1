"""`billing_usage`: what each tenant used, by UTC day, as a table, files and events.

What is not here: what a day comes to, and when it is billed anew (`core/billing.py`).
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import dagster as dg

from vision_assets.core.billing import Billed, BillingPass, BillingReport, StorageUse, TokenUse
from vision_assets.core.billing_files import FORMATS
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY
from vision_assets.defs.jobs import BILLING
from vision_assets.defs.metadata import table
from vision_assets.defs.outcomes import Event, Made, Metadata, Outcome
from vision_assets.defs.partitions import RANGES, TENANTS
from vision_assets.defs.runbooks import runbooks
from vision_assets.defs.steps import Task, Work, run_stage
from vision_assets.resources import Ledgers, PostgresResource, S3Resource, TokenBudgetResource

BILLING_USAGE = dg.AssetKey("billing_usage")
LINES_SHOWN = 50


@dg.asset(
    key=BILLING_USAGE,
    deps=["tenant_storage_usage", "vision_results"],
    partitions_def=TENANTS,
    output_required=False,
    backfill_policy=RANGES["billing_usage"],
    pool="postgres",
    retry_policy=RETRY,
    description=(
        "GB-hours by content type, tokens, calls and cost by model, of every UTC day that is over. A day that a "
        "reconciliation or a late settle corrects gets a further revision; earlier ones stay. Written to "
        "`billing_usage` and, by month, to S3 under `billing/{tenant_id}/{YYYY-MM}/` as Parquet, CSV and CloudEvents. "
        "Docs: docs/howto/billing.md."
    ),
    kinds={"postgres", "s3", "parquet"},
    group_name=BILLING,
    metadata=runbooks("billing"),
    owners=["team:vision"],
    tags={"stage": "account"},
    code_version="1",
)
def billing_usage(
    context: dg.AssetExecutionContext, postgres: PostgresResource, s3: S3Resource, token_budget: TokenBudgetResource
) -> Iterator[Event]:
    """Bill the tenants of the run, each by itself."""
    yield from run_stage(context, postgres, BillingStage(s3=s3, token_budget=token_budget))


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingStage:
    """Bills a tenant for the days that are over."""

    s3: S3Resource
    token_budget: TokenBudgetResource

    @asynccontextmanager
    async def open(self, ledgers: Ledgers) -> AsyncIterator[Work]:
        """See `steps.Stage`."""
        store, prices = self.s3.connect(), self.token_budget.prices()

        async def work(task: Task) -> Outcome[BillingReport]:
            tenant = task.tenant
            one_pass = BillingPass(
                tenant_id=tenant.id, ledger=ledgers.billing, store=store, prices=prices, formats=FORMATS
            )
            report = await one_pass.run(now=datetime.now(UTC))

            async def show(report: BillingReport) -> Sequence[Made]:
                return [Made(BILLING_USAGE, _metadata(tenant, report, bucket=self.s3.bucket))]

            return Outcome(tenant, report, show, done=len(report.billed))

        yield work


def _metadata(tenant: Tenant, report: BillingReport, *, bucket: str) -> Metadata:
    stored = [one.use.gb_hours for one in report.last_day if isinstance(one.use, StorageUse)]
    asked = [one.use.tokens for one in report.last_day if isinstance(one.use, TokenUse)]
    return {
        "tenant": tenant.name,
        "billed_through": str(report.through),
        "lines_billed": len(report.billed),
        "lines_restated": len(report.restated),
        "billed": _lines(report.billed),
        "restated": _lines(report.restated),
        "files": dg.MetadataValue.md("\n".join(f"- `s3://{bucket}/{key}`" for key in report.files) or "none written"),
        # Of the last day, to be drawn over time, also when an earlier try of the run had billed it.
        **({"gb_hours_of_last_day": float(sum(stored, Decimal(0)))} if stored else {}),
        **({"tokens_of_last_day": sum(asked)} if asked else {}),
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
