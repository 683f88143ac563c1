"""Retention of Dagster's event log. Ticks have their retention in `dagster.yaml`; the event log has none of its own."""

import asyncio
from datetime import UTC, datetime, timedelta

import dagster as dg

from vision_assets.defs.jobs import UPKEEP
from vision_assets.resources import DagsterStorageResource


@dg.op
def prune_event_logs(context: dg.OpExecutionContext, dagster_storage: DagsterStorageResource) -> None:
    """Delete what is older than the retention, but for the newest of each asset, check and partition."""
    before = datetime.now(UTC) - timedelta(days=dagster_storage.event_retention_days)
    deleted = asyncio.run(dagster_storage.prune(before=before))
    context.add_output_metadata({"deleted_events": deleted, "before": dg.MetadataValue.timestamp(before)})


@dg.job(executor_def=dg.in_process_executor, tags=UPKEEP)
def event_log_retention() -> None:
    """Keeps Dagster's event log from growing for ever."""
    prune_event_logs()


daily_event_log_retention = dg.ScheduleDefinition(
    job=event_log_retention, cron_schedule="30 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
