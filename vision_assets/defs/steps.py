"""What every asset's body has around it: one event loop, the tenant, the logs' identity, the translation of errors."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from contextvars import copy_context
from typing import TypeVar

import dagster as dg

from vision_assets.core.errors import TenantUnknown
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import EXAMPLES, translated
from vision_assets.logs import bound_to_run
from vision_assets.resources import Ledgers, PostgresResource

Report = TypeVar("Report")

GIVE_UP_AFTER = 3
"""Tenants in succession that fail for a passing reason: then something is down for all of them."""


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

    with (
        bound_to_run(trace_id=context.run.run_id, tenant_id=context.partition_key, asset=_asset(context)),
        translated(),
        asyncio.Runner() as runner,
    ):
        return runner.run(main())


def _asset(context: dg.AssetExecutionContext) -> str:
    """Tell what is materialized, or checked, for the logs."""
    keys = context.selected_asset_keys or {check.asset_key for check in context.selected_asset_check_keys}
    return "+".join(sorted(key.to_user_string() for key in keys))


def run_for_tenants(
    context: dg.AssetExecutionContext,
    postgres: PostgresResource,
    work: Callable[[Tenant, Ledgers], Coroutine[None, None, Report]],
) -> Iterator[tuple[Tenant, Report]]:
    """Run one core coroutine for each tenant of the run's partitions, one after the other; each fails alone.

    A tenant that is not active is left out of a run for several. One partition alone is run as by `run_for_tenant`.

    Args:
        work: Called with the tenant and the open ledgers, which are the same for all.

    Yields:
        Each tenant with its report, as soon as it is there.

    Raises:
        dg.Failure: In the end, when tenants failed; says which. Not to be retried: what was yielded would be doubled.
    """
    keys = context.partition_keys
    if len(keys) == 1:
        yield run_for_tenant(context, postgres, work)
        return
    failures: dict[str, str] = {}
    in_succession = 0
    opened = AsyncExitStack()
    with asyncio.Runner() as runner:
        with translated():
            ledgers = runner.run(opened.enter_async_context(postgres.open()))

        async def one(key: str) -> tuple[Tenant, Report]:
            tenant = await ledgers.tenant(key)
            return tenant, await work(tenant, ledgers)

        try:
            for done, key in enumerate(keys):
                with bound_to_run(trace_id=context.run.run_id, tenant_id=key, asset=_asset(context)):
                    try:
                        with translated():
                            outcome = runner.run(one(key), context=copy_context())
                    except Exception as error:
                        if isinstance(error.__cause__, TenantUnknown):
                            context.log.warning(f"{key} is left out: {error.__cause__}")
                            continue
                        context.log.exception(f"{key} failed")
                        failures[key] = str(error.description if isinstance(error, dg.Failure) else repr(error))
                        passing = isinstance(error, dg.Failure) and error.allow_retries
                        in_succession = in_succession + 1 if passing else 0
                        if in_succession == GIVE_UP_AFTER:
                            failures |= dict.fromkeys(keys[done + 1 :], "not tried")
                            break
                        continue
                in_succession = 0
                yield outcome
        finally:
            runner.run(opened.aclose())
    if failures:
        raise dg.Failure(
            description=f"{len(failures)} of {len(keys)} tenants failed; the others are done. "
            f"First: {'; '.join(f'{key}: {text}' for key, text in list(failures.items())[:EXAMPLES])}",
            metadata={"failed_partitions": dg.MetadataValue.json(list(failures))},
            allow_retries=False,
        )
