"""`tenant_storage_usage`: the recount of what a tenant has in S3."""

import dagster as dg

from vision_assets.core.reconcile import Drift, UsageReport, recount_usage
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY
from vision_assets.defs.metadata import megabytes
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.steps import run_for_tenant
from vision_assets.resources import Ledgers, PostgresResource, S3Resource


@dg.asset(
    deps=["media_objects", "vision_results", "post_enrichment"],
    partitions_def=TENANTS,
    retry_policy=RETRY,
    kinds={"s3", "postgres"},
    group_name="storage",
    owners=["team:vision"],
    tags={"stage": "account"},
    code_version="1",
)
def tenant_storage_usage(
    context: dg.AssetExecutionContext, postgres: PostgresResource, s3: S3Resource
) -> dg.MaterializeResult[None]:
    """Bytes and objects a tenant has in S3, by content type, recounted from a full listing.

    The ledger is corrected by it; a listing that fails or breaks off changes nothing.
    """

    async def work(tenant: Tenant, ledgers: Ledgers) -> UsageReport:
        return await recount_usage(tenant.id, store=s3.connect(), ledger=ledgers.listing)

    tenant, report = run_for_tenant(context, postgres, work)
    return dg.MaterializeResult(
        metadata={
            "tenant": tenant.name,
            "objects": report.listed_objects,
            "megabytes": megabytes(sum(usage.total_bytes for usage in report.usage)),
            **{f"{usage.content_type}_megabytes": megabytes(usage.total_bytes) for usage in report.usage},
            **{f"{usage.content_type}_objects": usage.objects_count for usage in report.usage},
            "drift": _drift_table(report),
        }
    )


def _drift_table(report: UsageReport) -> dg.MetadataValue:
    classes: dict[str, Drift] = {
        "in the ledger, not in S3": report.missing,
        "in S3, not in the ledger": report.untracked,
        "another size": report.wrong_size,
    }
    rows = [f"| {name} | {d.objects} | {d.bytes} | {' '.join(d.examples)} |" for name, d in classes.items()]
    return dg.MetadataValue.md(
        "\n".join(["| drift, corrected | objects | bytes | examples |", "| --- | ---: | ---: | --- |", *rows])
    )
