"""Files that killed workers have left at the vision provider. What is not here: which files are ours (`clients/`)."""

import asyncio

import dagster as dg

from vision_assets.defs.failures import translated
from vision_assets.defs.jobs import UPKEEP
from vision_assets.resources import VisionProviderResource


@dg.op
def delete_leftover_files(context: dg.OpExecutionContext, vision_provider: VisionProviderResource) -> None:
    """Delete files of ours at the provider that no call under way can need any more."""
    with translated():
        deleted = asyncio.run(vision_provider.delete_leftovers())
    context.add_output_metadata({"deleted_files": deleted})


@dg.job(executor_def=dg.in_process_executor, tags=UPKEEP)
def provider_files() -> None:
    """Deletes what killed workers have left at the vision provider; the local one keeps nothing."""
    delete_leftover_files()


hourly_provider_files = dg.ScheduleDefinition(
    job=provider_files, cron_schedule="15 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
