"""Schedules over all tenants. Those of single jobs stand beside their jobs."""

from collections.abc import Sequence

import dagster as dg

from vision_assets.defs.billing_usage import BILLING_USAGE
from vision_assets.defs.jobs import HAS_AN_END
from vision_assets.defs.partitions import TENANTS
from vision_assets.defs.tenant_storage_usage import TENANT_STORAGE_USAGE

# A run costs seconds of CPU time and a tenant tenths, so a run takes a range of tenants.
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

MAX_TENANTS_PER_RUN = 100

storage_reconciliation = dg.define_asset_job(
    "storage_reconciliation",
    selection=dg.AssetSelection.assets(TENANT_STORAGE_USAGE),
    executor_def=dg.in_process_executor,
    tags=HAS_AN_END,
    description="Holds the books of a range of tenants against S3, and checks their levels.",
)
billing = dg.define_asset_job(
    "billing",
    selection=dg.AssetSelection.assets(BILLING_USAGE),
    executor_def=dg.in_process_executor,
    tags=HAS_AN_END,
    description="Bills a range of tenants for the days that are over.",
)


def ranges(keys: Sequence[str], size: int) -> list[tuple[str, str]]:
    """Cut partition keys into runs of neighbours: (first, last) of each.

    Args:
        keys: In the order of the partitions.
        size: Keys in one range at most.
    """
    return [(keys[first], keys[min(first + size, len(keys)) - 1]) for first in range(0, len(keys), size)]


def _runs_for_all(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    keys = context.instance.get_dynamic_partitions(str(TENANTS.name))
    if not keys:
        return dg.SkipReason("No tenant has a partition yet.")
    moment = context.scheduled_execution_time.isoformat()
    return [
        dg.RunRequest(run_key=f"{moment}/{first}", tags={RANGE_START: first, RANGE_END: last})
        for first, last in ranges(keys, MAX_TENANTS_PER_RUN)
    ]


@dg.schedule(job=storage_reconciliation, cron_schedule="0 */6 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def six_hourly_storage_reconciliation(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """Starts a run for each hundred tenants."""
    return _runs_for_all(context)


@dg.schedule(job=billing, cron_schedule="40 0 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def daily_billing(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | list[dg.RunRequest]:
    """Starts a run for each hundred tenants, after the reconciliation of midnight and the last calls of the day."""
    return _runs_for_all(context)
