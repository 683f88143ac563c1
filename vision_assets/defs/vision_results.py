"""`vision_results`: what is on each picture, for as little as possible."""

import dagster as dg

from vision_assets.core.analysis import VisionPass, VisionReport
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY, raise_if_any
from vision_assets.defs.metadata import contact_sheet, counts_table, megabytes
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.progress import ProgressLog
from vision_assets.defs.steps import run_for_tenant
from vision_assets.resources import (
    VISION_CODE_VERSION,
    Ledgers,
    PostgresResource,
    S3Resource,
    StorageQuotaResource,
    VisionProviderResource,
)


@dg.asset(
    deps=["phash_index"],
    partitions_def=TENANTS,
    retry_policy=RETRY,
    kinds={"s3", "postgres", "vision"},
    group_name="vision",
    owners=["team:vision"],
    tags={"stage": "analyse"},
    code_version=VISION_CODE_VERSION,
)
def vision_results(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    s3: S3Resource,
    storage_quota: StorageQuotaResource,
    vision_provider: VisionProviderResource,
) -> dg.MaterializeResult[None]:
    """One result a picture, in S3 under `vision/{tenant_id}/…` and in Postgres.

    Taken from the exact cache, else from a near-duplicate of the same tenant, else from the provider. Only pictures
    without a result of the present provider and fingerprint are looked at.
    """

    async def work(tenant: Tenant, ledgers: Ledgers) -> tuple[VisionReport, str]:
        store = s3.connect()
        async with vision_provider.open() as provider:
            one_pass = VisionPass(
                tenant_id=tenant.id,
                provider=provider,
                store=store,
                quota=storage_quota.guard(store, ledgers),
                ledger=ledgers.vision,
                concurrency=vision_provider.concurrency,
                on_progress=ProgressLog(
                    context.log,
                    "vision_results: pictures",
                    await ledgers.vision.count_unanalysed(tenant.id, provider=provider),
                ),
            )
            return await one_pass.analyse_media(), f"{provider.name} {provider.model} {provider.fingerprint}"

    tenant, (report, provider) = run_for_tenant(context, postgres, work)
    raise_if_any(report.failures)
    return dg.MaterializeResult(
        metadata={
            "tenant": tenant.name,
            "provider": provider,
            "analyses": report.analyses,
            "reused_from_near_duplicates": report.methods["near_duplicate"],
            "taken_from_cache": report.methods["cache_hit"],
            "kinds": counts_table(report.kinds, name="kind"),
            "statuses": counts_table(report.statuses, name="status"),
            "not_analysed_because": counts_table(report.reasons, name="reason"),
            "tokens": report.tokens,
            "puts": report.puts,
            "put_megabytes": megabytes(report.put_bytes),
            "pictures": contact_sheet(report.looked),
        }
    )
