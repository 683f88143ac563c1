"""`qdrant_collection`: a tenant's posts, to be searched."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import dagster as dg

from vision_assets.core import text
from vision_assets.core.search import IndexReport, index_posts
from vision_assets.defs.failures import RETRY
from vision_assets.defs.metadata import counts_table
from vision_assets.defs.outcomes import Event, Made, Metadata, Outcome
from vision_assets.defs.partitions import RANGES, TENANTS
from vision_assets.defs.progress import InfoLog, ProgressLog
from vision_assets.defs.runbooks import runbooks
from vision_assets.defs.steps import Task, Work, run_stage
from vision_assets.resources import Ledgers, PostgresResource, QdrantResource

QDRANT_COLLECTION = dg.AssetKey("qdrant_collection")


@dg.asset(
    deps=["posts", "post_enrichment"],
    output_required=False,
    partitions_def=TENANTS,
    backfill_policy=RANGES["qdrant_collection"],
    pool="qdrant",
    retry_policy=RETRY,
    kinds={"qdrant"},
    group_name="search",
    metadata=runbooks("tenant-stuck"),
    owners=["team:vision"],
    tags={"stage": "index"},
    code_version=text.ENCODER_VERSION,
)
def qdrant_collection(
    context: dg.AssetExecutionContext, postgres: PostgresResource, qdrant: QdrantResource
) -> Iterator[Event]:
    """The collection behind `t{tenant_id}_posts`: one point a post that has words.

    Sparse vectors over the post's text, the text in its pictures, labels and barcodes, Russian and English.
    """
    yield from run_stage(context, postgres, IndexStage(qdrant=qdrant, log=context.log))


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStage:
    """Brings a tenant's collection up to date.

    Attributes:
        share: Posts of a tenant at most; None: everything.
    """

    qdrant: QdrantResource
    log: InfoLog
    share: int | None = None

    @asynccontextmanager
    async def open(self, ledgers: Ledgers) -> AsyncIterator[Work]:
        """See `steps.Stage`."""
        async with self.qdrant.open() as index:

            async def work(task: Task) -> Outcome[IndexReport]:
                tenant = task.tenant
                progress = ProgressLog(self.log, "qdrant_collection: posts")
                report = await index_posts(
                    tenant.id,
                    ledger=ledgers.index,
                    index=index,
                    on_progress=progress,
                    since=task.since,
                    limit=self.share,
                )

                async def show(report: IndexReport) -> Sequence[Made]:
                    metadata: Metadata = {
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
                    return [Made(QDRANT_COLLECTION, metadata)]

                return Outcome(tenant, report, show, done=report.upserted, has_more=report.has_more)

            yield work
