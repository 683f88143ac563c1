"""`media_objects` and `phash_index`: one pass over each picture's bytes serves both."""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import dagster as dg

from vision_assets.core.clusters import ClusterLedger, find_duplicates
from vision_assets.core.media import HashReport, MediaPass, MediaReport, MediaSlots
from vision_assets.core.phash import ALGORITHM
from vision_assets.core.storage import ObjectStore
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import RETRY
from vision_assets.defs.metadata import cluster_sheet, counts_table, folder, megabytes
from vision_assets.defs.outcomes import Event, Made, Metadata, Outcome
from vision_assets.defs.partitions import RANGES, TENANTS
from vision_assets.defs.progress import InfoLog, ProgressLog
from vision_assets.defs.runbooks import runbooks
from vision_assets.defs.steps import Task, Work, run_stage
from vision_assets.resources import Ledgers, MediaSourceResource, PostgresResource, S3Resource, StorageQuotaResource

MEDIA_OBJECTS = dg.AssetKey("media_objects")
PHASH_INDEX = dg.AssetKey("phash_index")

CLUSTERED_HASHES = 100_000
COMPARED_PAIRS = 20_000
"""Up to here, finding a tenant's clusters takes seconds at most; each run that hashes a picture does it anew."""
CLUSTERS_IN_METADATA = 8


@dg.multi_asset(
    name="media",
    can_subset=True,
    partitions_def=TENANTS,
    backfill_policy=RANGES["media"],
    pool="s3",
    retry_policy=RETRY,
    specs=[
        dg.AssetSpec(
            MEDIA_OBJECTS,
            deps=["posts"],
            description=(
                "Every picture that a tenant's posts refer to, once a tenant, in S3 under "
                "`media/{tenant_id}/{sha256[:2]}/{sha256}.{ext}`, with a row in `media_objects`. Files that are "
                "missing, damaged or too large stand in `post_media` with a state and a reason."
            ),
            kinds={"s3", "postgres"},
            group_name="media",
            owners=["team:vision"],
            tags={"stage": "ingest"},
            code_version="1",
            metadata=runbooks("tenant-stuck", "quota-raised"),
        ),
        dg.AssetSpec(
            PHASH_INDEX,
            deps=[MEDIA_OBJECTS],
            description=(
                "Perceptual hashes (64 and 256 bits) and a 64×64 luma thumbnail of every stored picture, to find "
                "near-duplicates of the same tenant. Blank, symmetric, animated and damaged ones are never matched."
            ),
            kinds={"postgres", "numpy"},
            group_name="media",
            owners=["team:vision"],
            tags={"stage": "ingest"},
            code_version=ALGORITHM,
            metadata=runbooks("near-duplicates", "duplicates", "dead-letters"),
        ),
    ],
)
def media(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    s3: S3Resource,
    storage_quota: StorageQuotaResource,
    media_source: MediaSourceResource,
) -> Iterator[Event]:
    """Store and hash tenants' pictures."""
    stage = MediaStage(
        store=s3.connect(),
        bucket=s3.bucket,
        storage_quota=storage_quota,
        media_source=media_source,
        log=context.log,
        selected=context.selected_asset_keys,
    )
    yield from run_stage(context, postgres, stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaStage:
    """Stores and hashes a tenant's pictures; of the two assets, those that are selected.

    Attributes:
        share: Pictures of a tenant at most, new ones; then nothing is told of all its pictures together. None:
            everything.
    """

    store: ObjectStore
    bucket: str
    storage_quota: StorageQuotaResource
    media_source: MediaSourceResource
    log: InfoLog
    selected: Collection[dg.AssetKey] = (MEDIA_OBJECTS, PHASH_INDEX)
    share: int | None = None

    @asynccontextmanager
    async def open(self, ledgers: Ledgers) -> AsyncIterator[Work]:
        """See `steps.Stage`."""
        quota = self.storage_quota.guard(self.store, ledgers)
        source = self.media_source.connect()
        slots = MediaSlots.of(
            concurrency=self.media_source.concurrency, decode_threads=self.media_source.decode_threads
        )

        async def work(task: Task) -> Outcome[MediaReport]:
            tenant = task.tenant
            one_pass = MediaPass(
                tenant_id=tenant.id,
                source=source,
                store=self.store,
                quota=quota,
                ledger=ledgers.media,
                slots=slots,
                limit=self.share,
                on_progress=ProgressLog(
                    self.log,
                    "media_objects: pictures",
                    None if self.share else await ledgers.media.count_unfinished(tenant.id),
                ),
            )
            stored = await one_pass.store_media() if MEDIA_OBJECTS in self.selected else MediaReport()
            # What the pass above stored is hashed already; this finds what an older algorithm left behind.
            with_old = PHASH_INDEX in self.selected and self.share is None
            hashed = await one_pass.hash_stored_media() if with_old else HashReport()

            async def show(stored: MediaReport) -> Sequence[Made]:
                clusters: Metadata = {}
                if with_old:
                    is_changed = bool(stored.states["stored"] or hashed.hashed)
                    clusters = await _clusters(tenant, ledgers.clusters, is_changed=is_changed)
                where = folder(self.bucket, "media", tenant.id)
                made = [_media_objects(tenant, stored, where), _phash_index(tenant, stored, hashed, clusters)]
                return [one for one in made if one.asset in self.selected]

            return Outcome(
                tenant,
                stored,
                show,
                done=stored.states.total() + hashed.hashed + hashed.reasons.total(),
                since=stored.since,
                failures=stored.failures + hashed.failures,
                has_more=stored.has_more,
            )

        yield work


def _media_objects(tenant: Tenant, stored: MediaReport, where: Metadata) -> Made:
    return Made(
        MEDIA_OBJECTS,
        {
            "tenant": tenant.name,
            "references": counts_table(stored.states, name="state"),
            "not_stored_because": counts_table(stored.reasons, name="reason"),
            "references_stored": stored.states["stored"],
            "puts": stored.puts,
            "put_megabytes": megabytes(stored.put_bytes),
            **where,
        },
    )


def _phash_index(tenant: Tenant, stored: MediaReport, hashed: HashReport, clusters: Metadata) -> Made:
    return Made(
        PHASH_INDEX,
        {
            "tenant": tenant.name,
            "algorithm": ALGORITHM,
            "hashed_with_the_upload": stored.states["stored"],
            "hashed_from_s3": hashed.hashed,
            "not_hashed_because": counts_table(hashed.reasons, name="reason"),
            **clusters,
        },
    )


async def _clusters(tenant: Tenant, ledger: ClusterLedger, *, is_changed: bool) -> Metadata:
    """Tell of near-duplicates, where it costs little: clusters change only with the hashes."""
    if not is_changed:
        return {"near_duplicates": "as before: nothing was hashed in this run"}
    if await ledger.has_more_hashes(tenant.id, CLUSTERED_HASHES):
        return {
            "near_duplicates": f"more than {CLUSTERED_HASHES:,} hashes: `vision-assets duplicates` finds the clusters"
        }
    found = await find_duplicates(tenant.id, ledger, shown=CLUSTERS_IN_METADATA, most_pairs=COMPARED_PAIRS)
    at_least = "" if found.is_complete else "at least "
    return {
        "near_duplicates": f"{at_least}{found.pictures:,} pictures in {found.clusters:,} clusters, of {found.hashes:,}",
        "clusters": found.clusters,
        "pictures_in_clusters": found.pictures,
        "duplicate_megabytes": megabytes(found.duplicate_bytes),
        "largest_clusters": cluster_sheet(found.largest),
    }
