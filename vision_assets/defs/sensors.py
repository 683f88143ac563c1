"""Sensors: partitions follow the `tenants` table; deferred pictures are picked up when their time comes."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg

from vision_assets.core.errors import VisionAssetsError
from vision_assets.core.tenants import TenantId
from vision_assets.defs.jobs import TENANT_PIPELINE, tenant_pipeline
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import PostgresResource


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def tenant_partitions(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Adds a partition for each tenant that has none. A read that fails changes nothing."""

    async def tenant_ids() -> set[str]:
        async with postgres.open() as ledgers:
            return {str(tenant.id) for tenant in await ledgers.tenants()}

    try:
        wanted = asyncio.run(tenant_ids())
    except VisionAssetsError as error:
        return dg.SkipReason(f"The tenants could not be read, nothing was changed: {error}")
    new = sorted(wanted - set(context.instance.get_dynamic_partitions(str(TENANTS.name))))
    if not new:
        return dg.SkipReason("Every tenant has its partition.")
    return dg.SensorResult(dynamic_partitions_requests=[TENANTS.build_add_request(new)])


TENANTS_A_TICK = 100
PARTITION = "dagster/partition"
UNDER_WAY = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


@dg.sensor(job=tenant_pipeline, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def deferred_pictures(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Starts a run for each tenant whose pictures waited for the budget, or rested, until now."""
    now = datetime.now(UTC)

    async def due() -> Mapping[TenantId, datetime]:
        async with postgres.open() as ledgers:
            return await ledgers.vision.tenants_with_due(now, limit=TENANTS_A_TICK)

    try:
        found = asyncio.run(due())
    except VisionAssetsError as error:
        return dg.SkipReason(f"What is due could not be read: {error}")
    free = set(context.instance.get_dynamic_partitions(str(TENANTS.name)))
    under_way = dg.RunsFilter(job_name=TENANT_PIPELINE, statuses=UNDER_WAY)
    free -= {run.tags.get(PARTITION, "") for run in context.instance.get_runs(under_way)}
    requests = [
        # A run that leaves them due, because it fails, is followed by another one in the next hour at the latest.
        dg.RunRequest(run_key=f"{tenant_id}/{due_at:%Y%m%dT%H%M%S.%f}/{now:%Y%m%dT%H}", partition_key=str(tenant_id))
        for tenant_id, due_at in found.items()
        if str(tenant_id) in free
    ]
    return requests or dg.SkipReason("No deferred picture is due, or its run is under way.")
