"""`post_enrichment`: what the pictures of a post tell, albums as a whole."""

import dagster as dg

from vision_assets.core.enrichment import AGGREGATION_VERSION, EnrichmentPass, EnrichmentReport
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY, raise_if_any
from vision_assets.defs.metadata import counts_table, megabytes
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.steps import run_for_tenant
from vision_assets.resources import (
    Ledgers,
    PostgresResource,
    S3Resource,
    StorageQuotaResource,
    VisionPolicyResource,
    VisionProviderResource,
)


@dg.asset(
    deps=["vision_results"],
    partitions_def=TENANTS,
    retry_policy=RETRY,
    kinds={"postgres", "s3"},
    group_name="posts",
    owners=["team:vision"],
    tags={"stage": "enrich"},
    code_version=AGGREGATION_VERSION,
)
def post_enrichment(
    context: dg.AssetExecutionContext,
    *,
    postgres: PostgresResource,
    s3: S3Resource,
    storage_quota: StorageQuotaResource,
    vision_policy: VisionPolicyResource,
    vision_provider: VisionProviderResource,
) -> dg.MaterializeResult[None]:
    """One row a post with pictures (`kind='vision'`): labels, texts and keys of all its pictures.

    An album has a summary in S3 under `album/{tenant_id}/…` as well. A picture without a result holds nobody up.
    """

    async def work(tenant: Tenant, ledgers: Ledgers) -> EnrichmentReport:
        provider, model = vision_provider.identity(vision_policy.policy(tenant))
        one_pass = EnrichmentPass(
            tenant_id=tenant.id,
            provider=provider,
            model=model,
            quota=storage_quota.guard(s3.connect(), ledgers),
            ledger=ledgers.enrichment,
        )
        return await one_pass.enrich_posts()

    tenant, report = run_for_tenant(context, postgres, work)
    raise_if_any(report.failures)
    return dg.MaterializeResult(
        metadata={
            "tenant": tenant.name,
            "posts_enriched": report.statuses.total(),
            "statuses": counts_table(report.statuses, name="status"),
            "album_summaries": report.albums,
            "puts": report.puts,
            "put_megabytes": megabytes(report.put_bytes),
        }
    )
