"""Dead letters whose reason may pass are tried again, daily, and those of what is gone closed.

What is not here: which those are (`core/`).
"""

import asyncio
from datetime import UTC, datetime

import dagster as dg

from vision_assets.core.dead_letters import Reopened, close_gone, reopen_passing
from vision_assets.defs.failures import RETRY, translated
from vision_assets.defs.jobs import UPKEEP
from vision_assets.defs.metadata import table
from vision_assets.logs import bound_to_run
from vision_assets.resources import DeadLetterResource, PostgresResource


@dg.op(retry_policy=RETRY, tags={"stage": "retry"})
def reopen_dead_letters(
    context: dg.OpExecutionContext, postgres: PostgresResource, dead_letter_retry: DeadLetterResource
) -> None:
    """Make items to do again that were given up for a reason that may pass, and close letters of what is gone."""

    async def work() -> tuple[int, list[Reopened]]:
        async with postgres.open() as ledgers:
            letters, now = ledgers.dead_letters, datetime.now(UTC)
            closed = await close_gone(letters, now=now)
            return closed, await reopen_passing(letters, max_retries=dead_letter_retry.max_retries, now=now)

    with bound_to_run(trace_id=context.run_id, asset="dead_letter_retries"), translated(), asyncio.Runner() as runner:
        closed, found = runner.run(work())
    context.add_output_metadata(
        {
            "closed_items": closed,
            "reopened_items": sum(one.items for one in found),
            "reopened": table(
                ["tenant", "stage", "reason", "items"],
                [[one.tenant_id, one.stage, one.reason, one.items] for one in found],
            ),
        }
    )


@dg.job(executor_def=dg.in_process_executor, tags=UPKEEP)
def dead_letter_retries() -> None:
    """Makes to do again what was given up for a reason that may pass, a few times; the tenants' next runs do it.

    Letters of posts and pictures that are not there any more are closed.
    """
    reopen_dead_letters()


daily_dead_letter_retries = dg.ScheduleDefinition(
    job=dead_letter_retries, cron_schedule="30 1 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
