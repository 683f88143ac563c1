"""What every asset's body has around it: one event loop, the tenant, the logs' identity, the translation of errors."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

import dagster as dg

from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import translated
from vision_assets.logs import bound_to_run
from vision_assets.resources import Ledgers, PostgresResource

Report = TypeVar("Report")


def run_for_tenant(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    work: Callable[[Tenant, Ledgers], Coroutine[None, None, Report]],
) -> tuple[Tenant, Report]:
    """Run one core coroutine for the partition's tenant, in an event loop of this step.

    A step is synchronous around one `asyncio.Runner`: on cancellation all tasks end and their clean-up completes.

    Args:
        work: Called with the tenant and the open ledgers.

    Raises:
        dg.Failure: See `failures.translated`.
    """

    async def main() -> tuple[Tenant, Report]:
        async with postgres.open() as ledgers:
            tenant = await ledgers.tenant(context.partition_key)
            return tenant, await work(tenant, ledgers)

    asset = "+".join(sorted(key.to_user_string() for key in context.selected_asset_keys))
    with (
        bound_to_run(trace_id=context.run.run_id, tenant_id=context.partition_key, asset=asset),
        translated(),
        asyncio.Runner() as runner,
    ):
        return runner.run(main())
