"""Sensors: the tenants' partitions follow the `tenants` table."""

import asyncio

import dagster as dg

from vision_assets.core.errors import VisionAssetsError
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
