"""Sensors: partitions follow the `tenants` table; a run is started as soon as a tenant has something to do."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from vision_assets.core.errors import VisionAssetsError
from vision_assets.core.tenants import TenantId
from vision_assets.core.turns import LONGEST_REST_OF_LOST, Waiting, rest_after, wants_run
from vision_assets.defs.new_posts import NEW_POSTS
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import NewPostsResource, PostgresResource

UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class PartitionChanges:
    """Which partitions come and go."""

    new: list[str]
    gone: list[str]


def partition_changes(activity: Mapping[TenantId, bool], partitions: Collection[str]) -> PartitionChanges:
    """Hold the tenants against the partitions: one goes only when its tenant says itself that it is not active.

    Args:
        activity: Of every tenant that has a row.
    """
    return PartitionChanges(
        new=sorted(str(tenant) for tenant, active in activity.items() if active and str(tenant) not in partitions),
        gone=sorted(str(tenant) for tenant, active in activity.items() if not active and str(tenant) in partitions),
    )


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def tenant_partitions(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Gives each active tenant its partition, and takes those of others away. A read that fails changes nothing."""

    async def activity() -> Mapping[TenantId, bool]:
        async with postgres.open() as ledgers:
            return await ledgers.tenants_activity()

    try:
        tenants = asyncio.run(activity())
    except VisionAssetsError as error:
        return dg.SkipReason(f"The tenants could not be read, nothing was changed: {error}")
    changes = partition_changes(tenants, set(context.instance.get_dynamic_partitions(str(TENANTS.name))))
    if not (changes.new or changes.gone):
        return dg.SkipReason("Every active tenant has its partition, and no other has one.")
    return dg.SensorResult(
        dynamic_partitions_requests=[
            TENANTS.build_add_request(changes.new),
            TENANTS.build_delete_request(changes.gone),
        ]
    )


@dg.sensor(job_name=NEW_POSTS, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def new_posts(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, new_posts_limits: NewPostsResource
) -> dg.RunRequest | dg.SkipReason:
    """Starts a run when a tenant has new posts, or pictures that waited until now; gives back what dead runs had."""
    instance, now = context.instance, datetime.now(UTC)

    async def first_in_line() -> Waiting | None:
        async with postgres.open() as ledgers:
            taken = await ledgers.line.taken()
            owing = await ledgers.line.owing()
            runs = {run_id: instance.get_run_by_id(run_id) for run_id in owing | {turn.run_id for turn in taken}}
            ended = {run_id for run_id, run in runs.items() if run is None or run.is_finished}
            lost = [turn for turn in taken if turn.run_id in ended]
            rests = {turn: rest_after(turn.attempts, longest=LONGEST_REST_OF_LOST) for turn in lost}
            await ledgers.line.take_back(rests)
            await ledgers.line.add_untold(ended & owing)
            await ledgers.line.add_due(now)
            return await ledgers.line.first_waiting()

    try:
        first = asyncio.run(first_in_line())
    except VisionAssetsError as error:
        return dg.SkipReason(f"What is to do could not be read: {error}")
    runs = instance.get_runs_count(dg.RunsFilter(job_name=NEW_POSTS, statuses=UNDER_WAY))
    if first is None:
        return dg.SkipReason("Nobody waits.")
    if not wants_run(first, runs=runs, most_runs=new_posts_limits.runs):
        return dg.SkipReason(f"The first in line waits for {first.seconds:.0f} s; {runs} runs are under way.")
    # One that is lost, and leaves the line as it was, is followed by another a minute later.
    return dg.RunRequest(run_key=f"{first.change_id}/{now:%Y%m%dT%H%M}")
