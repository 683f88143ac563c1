"""`vision-assets materialize`: one tenant's assets through Dagster, in this process, with progress.

What is not here: the job (`defs/jobs.py`). Dagster is imported late: it takes seconds, and `--help` should not.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core.errors import VisionAssetsError
from vision_assets.core.tenants import Tenant
from vision_assets.devstack.dagster import dagster_environment

if TYPE_CHECKING:
    import dagster as dg


def materialize(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="The tenant's name or id.")],
) -> None:
    """Materialize every asset of one tenant through Dagster; the run shows in the UI."""
    console = Console(stderr=True)
    try:
        succeeded = materialize_tenant(asyncio.run(_find(tenant)), console=console)
    except VisionAssetsError as error:
        fail(error)
    if not succeeded:
        raise typer.Exit(1)


async def _find(name_or_id: str) -> Tenant:
    async with open_database(max_size=1) as database:
        return await find_tenant(database, name_or_id)


def materialize_tenant(tenant: Tenant, *, console: Console) -> bool:
    """Run the whole chain for a tenant on Dagster's instance.

    Args:
        console: Where the progress bar and failures go.

    Returns:
        Whether every step succeeded.
    """
    with dagster_environment():
        import dagster as dg  # noqa: PLC0415

        from vision_assets.definitions import defs  # noqa: PLC0415
        from vision_assets.defs.jobs import TENANT_PIPELINE  # noqa: PLC0415
        from vision_assets.defs.partitions import TENANTS  # noqa: PLC0415

        job = defs.resolve_job_def(TENANT_PIPELINE)
        logging.getLogger("dagster").setLevel(logging.CRITICAL)  # the same events stand in the UI; here is a bar
        run_id = str(uuid4())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with dg.DagsterInstance.get() as instance, Progress(*columns, console=console) as bar:
            instance.add_dynamic_partitions(str(TENANTS.name), [str(tenant.id)])
            task = bar.add_task(escape(tenant.name), total=len(job.nodes))

            def show(event: "dg.EventLogEntry") -> None:
                if event.dagster_event is None:
                    if event.level == logging.INFO and not event.user_message.startswith("event="):  # a step's progress
                        bar.update(task, description=f"{escape(tenant.name)}: {escape(event.user_message)}")
                    return
                if event.dagster_event.is_step_start:
                    bar.update(task, description=f"{escape(tenant.name)}: {event.step_key}")
                elif event.dagster_event.is_step_success:
                    bar.advance(task)
                elif event.dagster_event.is_step_up_for_retry:
                    bar.update(task, description=f"{escape(tenant.name)}: {event.step_key} failed, is tried again")
                elif event.dagster_event.is_step_failure:
                    console.print(f"[red]{event.step_key} failed[/red]: {escape(_reason(event.dagster_event))}")

            instance.add_event_listener(run_id, show)
            result = job.execute_in_process(
                instance=instance,
                partition_key=str(tenant.id),
                run_id=run_id,
                tags={"tenant": tenant.name},
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            if result.success:
                bar.update(task, description=f"{escape(tenant.name)}: all assets materialized")
            return result.success


def _reason(failure: "dg.DagsterEvent") -> str:
    """Tell what a failed step says of itself, else its error."""
    data = failure.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    return data.error_display_string
