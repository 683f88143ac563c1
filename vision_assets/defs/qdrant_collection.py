"""`qdrant_collection`: a tenant's posts, to be searched."""

import dagster as dg

from vision_assets.core import text
from vision_assets.core.search import IndexReport, index_posts
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY
from vision_assets.defs.metadata import counts_table
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.progress import ProgressLog
from vision_assets.defs.steps import run_for_tenant
from vision_assets.resources import Ledgers, PostgresResource, QdrantResource


@dg.asset(
    deps=["posts", "post_enrichment"],
    partitions_def=TENANTS,
    retry_policy=RETRY,
    kinds={"qdrant"},
    group_name="search",
    owners=["team:vision"],
    tags={"stage": "index"},
    code_version=text.ENCODER_VERSION,
)
def qdrant_collection(
    context: dg.AssetExecutionContext, postgres: PostgresResource, qdrant: QdrantResource
) -> dg.MaterializeResult[None]:
    """The collection behind `t{tenant_id}_posts`: one point a post that has words.

    Sparse vectors over the post's text, the text in its pictures, labels and barcodes, Russian and English.
    """

    async def work(tenant: Tenant, ledgers: Ledgers) -> IndexReport:
        async with qdrant.open() as index:
            progress = ProgressLog(context.log, "qdrant_collection: posts")
            return await index_posts(tenant.id, ledger=ledgers.index, index=index, on_progress=progress)

    tenant, report = run_for_tenant(context, postgres, work)
    return dg.MaterializeResult(
        metadata={
            "tenant": tenant.name,
            "collection": report.collection,
            "upserted": report.upserted,
            "points": report.points,
            "posts": report.expected,
            "skipped": counts_table(report.skipped, name="reason"),
            "ready": report.ready,
            "healed": report.healed,
            "dagster/row_count": report.points,
        }
    )
