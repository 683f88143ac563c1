"""The clean-up of storage: a job, run daily for what has outlived its time, and by a sensor when the bucket runs full.

What is not here: what goes, in which order, and when it is enough (`core/cleanup.py`).
"""

import asyncio
from datetime import UTC, datetime, timedelta

import dagster as dg

from vision_assets.core.cleanup import CleanupReport, is_emergency
from vision_assets.core.cleanup_pass import CleanupPass
from vision_assets.core.errors import EXAMPLES, CleanupUnderWay, VisionAssetsError
from vision_assets.defs.failures import RETRY, translated
from vision_assets.defs.jobs import UPKEEP
from vision_assets.defs.metadata import megabytes
from vision_assets.defs.progress import ProgressLog
from vision_assets.logs import bound_to_run
from vision_assets.resources import PostgresResource, S3Resource, StorageCleanupResource, StorageQuotaResource

AFTER_A_FAILURE = timedelta(hours=1)
"""Until the sensor tries again: nothing more may go, or something does not answer."""

ENDED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}

OCCASION = "vision_assets/cleanup"
"""Tag of the job's runs: `emergency` or `ttl`."""


class CleanupConfig(dg.Config):
    """Which clean-up it is."""

    emergency: bool = False
    dry_run: bool = False


@dg.op(retry_policy=RETRY, tags={"stage": "clean-up"})
def remove_old_objects(
    context: dg.OpExecutionContext,
    *,
    config: CleanupConfig,
    postgres: PostgresResource,
    s3: S3Resource,
    storage_quota: StorageQuotaResource,
    storage_cleanup_plans: StorageCleanupResource,
) -> None:
    """Remove what may go: all that has outlived its time, or in an emergency as much as it takes."""

    async def work() -> CleanupReport:
        plan = storage_cleanup_plans.emergency() if config.emergency else storage_cleanup_plans.daily()
        async with postgres.open() as ledgers:
            return await CleanupPass(
                plan=plan,
                ledger=ledgers.cleanup,
                guard=storage_quota.guard(s3.connect(), ledgers),
                uploads=s3.connect_uploads(),
                dry_run=config.dry_run,
                on_progress=ProgressLog(context.log, "storage_cleanup: bytes"),
            ).run()

    with bound_to_run(trace_id=context.run_id, asset="storage_cleanup"), translated(), asyncio.Runner() as runner:
        report = runner.run(work())
    metadata = {
        "occasion": report.plan.occasion,
        "dry_run": report.dry_run,
        "removed": removed_table(report),
        "removed_megabytes": megabytes(sum(total.bytes for total in report.totals())),
        "stored_and_reserved_megabytes_before": megabytes(report.taken_before_bytes),
        "stored_and_reserved_megabytes_after": megabytes(report.taken_after_bytes),
        "left_because_of_new_use": report.left.total(),
        "failures": len(report.failures),
    }
    if report.failures:
        raise dg.Failure(
            description=f"{len(report.failures)} parts failed and stay to do; the others are done. "
            f"First: {'; '.join(report.failures[:EXAMPLES])}",
            metadata=metadata,
            allow_retries=True,
        )
    if not report.reached and not report.dry_run:
        raise dg.Failure(
            description=f"{report.taken_after_bytes} bytes are stored or reserved, more than "
            f"{report.plan.target_bytes}, and nothing else may go: posts refer to it, or it is too young. Give the "
            "bucket more room (STORAGE_EMERGENCY_BYTES, STORAGE_BUCKET_LIMIT_BYTES), or delete posts.",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)


def removed_table(report: CleanupReport) -> dg.MetadataValue:
    """Show what was removed, or would be, by class."""
    heading = "would be removed" if report.dry_run else "removed"
    rows = [f"| {total.name} | {total.tenants} | {total.objects} | {total.bytes} |" for total in report.totals()]
    return dg.MetadataValue.md(
        "\n".join([f"| {heading} | tenants | objects | bytes |", "| --- | ---: | ---: | ---: |", *rows])
    )


@dg.job(executor_def=dg.in_process_executor, tags=UPKEEP)
def storage_cleanup() -> None:
    """Removes old crawled pages, results and albums' summaries, and pictures that no post refers to, from S3."""
    remove_old_objects()


daily_storage_cleanup = dg.ScheduleDefinition(
    job=storage_cleanup,
    cron_schedule="10 3 * * *",
    tags={OCCASION: "ttl"},
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


@dg.sensor(job_name=storage_cleanup.name, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def storage_emergency(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, storage_cleanup_plans: StorageCleanupResource
) -> dg.RunRequest | dg.SkipReason:
    """Starts an emergency clean-up when the bucket runs full. It looks at the totals of the ledger alone."""

    async def taken_bytes() -> int:
        async with postgres.open() as ledgers:
            return await ledgers.cleanup.taken_bytes()

    try:
        plan, taken = storage_cleanup_plans.emergency(), asyncio.run(taken_bytes())
    except VisionAssetsError as error:
        return dg.SkipReason(f"The totals could not be read: {error}")
    if not is_emergency(taken, plan):
        return dg.SkipReason(f"{taken} bytes are stored or reserved; {plan.threshold_bytes} are an emergency.")
    if wait := reason_to_wait(context.instance, now=datetime.now(UTC)):
        return dg.SkipReason(wait)
    return dg.RunRequest(
        run_config=dg.RunConfig(ops={"remove_old_objects": CleanupConfig(emergency=True)}),
        tags={OCCASION: "emergency"},
    )


def reason_to_wait(instance: dg.DagsterInstance, *, now: datetime) -> str | None:
    """Tell why no emergency clean-up should begin beside the runs of the job, or after the latest one; None: it may.

    Args:
        now: Aware UTC.
    """
    # Whatever their occasion: there is one clean-up at a time, so an emergency beside another one would only fail.
    unfinished = [status for status in dg.DagsterRunStatus if status not in ENDED]
    if instance.get_run_records(dg.RunsFilter(job_name=storage_cleanup.name, statuses=unfinished), limit=1):
        return "A clean-up is under way."
    emergencies = dg.RunsFilter(job_name=storage_cleanup.name, tags={OCCASION: "emergency"})
    for latest in instance.get_run_records(emergencies, limit=1):
        ended = datetime.fromtimestamp(latest.end_time or 0, UTC)
        failed = not latest.dagster_run.is_success and not _was_kept_out(instance, latest.dagster_run.run_id)
        if failed and now - ended < AFTER_A_FAILURE:
            return f"The last emergency clean-up failed at {ended:%H:%M} UTC; the next one begins an hour later."
    return None


def _was_kept_out(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Tell whether a run failed because of another clean-up, which `vision-assets cleanup` may have been."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.get_dagster_event()
        told = event.step_failure_data.user_failure_data
        if told and told.metadata.get("error_class") == dg.MetadataValue.text(CleanupUnderWay.__name__):
            return True
    return False
