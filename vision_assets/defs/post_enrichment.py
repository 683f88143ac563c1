"""`post_enrichment`: what the pictures of a post tell, albums as a whole."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import dagster as dg

from vision_assets.core.enrichment import AGGREGATION_VERSION, EnrichmentPass, EnrichmentReport
from vision_assets.core.storage import ObjectStore
from vision_assets.defs.failures import RETRY
from vision_assets.defs.metadata import counts_table, folder, megabytes
from vision_assets.defs.outcomes import Event, Made, Metadata, Outcome
from vision_assets.defs.partitions import RANGES, TENANTS
from vision_assets.defs.runbooks import runbooks
from vision_assets.defs.steps import Task, Work, run_stage
from vision_assets.resources import (
    Ledgers,
    PostgresResource,
    S3Resource,
    StorageQuotaResource,
    VisionPolicyResource,
    VisionProviderResource,
)

POST_ENRICHMENT = dg.AssetKey("post_enrichment")


@dg.asset(
    deps=["vision_results"],
    output_required=False,
    partitions_def=TENANTS,
    backfill_policy=RANGES["post_enrichment"],
    pool="postgres",
    retry_policy=RETRY,
    kinds={"postgres", "s3"},
    group_name="posts",
    metadata=runbooks("tenant-stuck", "prompt-change"),
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
) -> Iterator[Event]:
    """One row a post with pictures (`kind='vision'`): labels, texts and keys of all its pictures.

    An album has a summary in S3 under `album/{tenant_id}/…` as well. A picture without a result holds nobody up.
    """
    stage = EnrichmentStage(
        store=s3.connect(),
        bucket=s3.bucket,
        storage_quota=storage_quota,
        vision_policy=vision_policy,
        vision_provider=vision_provider,
    )
    yield from run_stage(context, postgres, stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichmentStage:
    """Sums up the results of a tenant's posts.

    Attributes:
        share: Posts of a tenant at most; None: everything.
    """

    store: ObjectStore
    bucket: str
    storage_quota: StorageQuotaResource
    vision_policy: VisionPolicyResource
    vision_provider: VisionProviderResource
    share: int | None = None

    @asynccontextmanager
    async def open(self, ledgers: Ledgers) -> AsyncIterator[Work]:
        """See `steps.Stage`."""
        quota = self.storage_quota.guard(self.store, ledgers)

        async def work(task: Task) -> Outcome[EnrichmentReport]:
            tenant = task.tenant
            provider, model = self.vision_provider.identity(self.vision_policy.policy(tenant))
            one_pass = EnrichmentPass(
                tenant_id=tenant.id,
                provider=provider,
                model=model,
                quota=quota,
                ledger=ledgers.enrichment,
                since=task.since,
                limit=self.share,
            )
            report = await one_pass.enrich_posts()

            async def show(report: EnrichmentReport) -> Sequence[Made]:
                metadata: Metadata = {
                    "tenant": tenant.name,
                    "posts_enriched": report.statuses.total(),
                    "statuses": counts_table(report.statuses, name="status"),
                    "album_summaries": report.albums,
                    "puts": report.puts,
                    "put_megabytes": megabytes(report.put_bytes),
                    **folder(self.bucket, "album", tenant.id),
                }
                return [Made(POST_ENRICHMENT, metadata)]

            return Outcome(
                tenant,
                report,
                show,
                done=report.statuses.total(),
                failures=report.failures,
                has_more=report.has_more,
            )

        yield work
