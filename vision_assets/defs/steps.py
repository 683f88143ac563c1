"""What every asset's body has around it: one event loop, the tenants, the logs' identity, the translation of errors.

A stage is an asset's work for one tenant. It is opened once for all tenants of a process, so that they share its
clients. What is not here: what a stage does (each asset's module), and what it tells (`outcomes.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import dagster as dg

from vision_assets.core.errors import EXAMPLES, TenantUnknown
from vision_assets.core.tenants import Tenant
from vision_assets.defs.failures import translated
from vision_assets.defs.outcomes import Event, Outcome, Shown
from vision_assets.logs import bound_to_run
from vision_assets.resources import Ledgers, PostgresResource

GIVE_UP_AFTER = 3
"""Tenants in succession that fail for a passing reason, with nothing done: then something is down for all of them."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a stage is to do.

    Attributes:
        since: Seq of the first post that may have changed; 0: any may have.
    """

    tenant: Tenant
    since: int = 0


Work: TypeAlias = Callable[[Task], Awaitable[Outcome[Any]]]

Attempt: TypeAlias = Callable[[str], tuple[Outcome[Any], Shown]]
"""Does a stage's work for a partition."""


class Stage(Protocol):
    """An asset's work, or that of assets that are made together."""

    def open(self, ledgers: Ledgers) -> AbstractAsyncContextManager[Work]:
        """Open what the work needs beside the ledgers, in the running event loop, and close it at the end."""
        ...


def run_stage(context: dg.AssetExecutionContext, postgres: PostgresResource, stage: Stage) -> Iterator[Event]:
    """Do an asset's work for the tenants of the run's partitions, and tell Dagster.

    A run of one partition is told by results, so that its downstream steps go on. After a range, be it of one tenant,
    they do not: the next asset has its own ranges.

    Raises:
        dg.Failure: See `run_for_tenants`.
    """
    for shown in run_for_tenants(context, postgres, stage):
        yield from shown.results() if context.has_partition_key else shown.events()
    if not context.has_partition_key:
        # Dagster wants an output of each check, and evaluations that name their partition have none.
        yield from (dg.Output(None, name) for name in context.assets_def.check_specs_by_output_name)


def run_for_tenants(context: dg.AssetExecutionContext, postgres: PostgresResource, stage: Stage) -> Iterator[Shown]:
    """Do a stage's work for each tenant of the run's partitions, one after the other; each fails alone.

    A tenant that is not active is left out of a range. One that fails for a passing reason is tried once more when the
    others are done.

    Yields:
        What is told of each tenant, as soon as it is there, if no item failed.

    Raises:
        dg.Failure: One partition: as it failed, see `failures.translated` and `raise_if_any`. A range: in the end;
            says which failed. Not to be retried: what was yielded would be doubled.
    """
    keys = context.partition_keys
    with _opened(context, postgres, stage) as attempt:
        if context.has_partition_key:
            outcome, shown = attempt(context.partition_key)
            outcome.raise_if_failed()
            yield shown
            return
        taken = _Range(context, attempt)
        yield from taken.run(keys)
        yield from taken.run(list(taken.passing))
    if taken.failures:
        raise dg.Failure(
            description=f"{len(taken.failures)} of {len(keys)} tenants failed; the others are done. "
            f"First: {'; '.join(f'{key}: {text}' for key, text in list(taken.failures.items())[:EXAMPLES])}",
            metadata={
                "failed_partitions": dg.MetadataValue.json(list(taken.failures)),
                "failures": dg.MetadataValue.json(taken.failures),
            },
            allow_retries=False,
        )


@contextmanager
def _opened(context: dg.AssetExecutionContext, postgres: PostgresResource, stage: Stage) -> Iterator[Attempt]:
    """Open a stage in an event loop of this step, and give what does its work for a partition, failures included.

    A step is synchronous around one `asyncio.Runner`: on cancellation all tasks end and their clean-up completes.
    """
    opened = AsyncExitStack()

    async def enter() -> tuple[Ledgers, Work]:
        ledgers = await opened.enter_async_context(postgres.open())
        return ledgers, await opened.enter_async_context(stage.open(ledgers))

    with asyncio.Runner() as runner:
        try:
            with translated():
                ledgers, work = runner.run(enter())

            async def one(key: str) -> tuple[Outcome[Any], Shown]:
                outcome = await work(Task(await ledgers.tenant(key)))
                return outcome, await outcome.shown()

            def attempt(key: str) -> tuple[Outcome[Any], Shown]:
                identity = bound_to_run(trace_id=context.run.run_id, tenant_id=key, asset=_asset(context))
                with identity, translated():
                    return runner.run(one(key), context=copy_context())

            yield attempt
        finally:
            runner.run(opened.aclose())


def _asset(context: dg.AssetExecutionContext) -> str:
    """Tell what is materialized, or checked, for the logs."""
    keys = context.selected_asset_keys or {check.asset_key for check in context.selected_asset_check_keys}
    return "+".join(sorted(key.to_user_string() for key in keys))


@dataclass(slots=True)
class _Range:
    """The tenants of a run that takes several.

    Attributes:
        failures: Partition → what it failed of.
        passing: Those that failed for a passing reason, to be tried once more.
    """

    context: dg.AssetExecutionContext
    attempt: Attempt
    failures: dict[str, str] = field(default_factory=dict)
    passing: list[str] = field(default_factory=list)

    def run(self, keys: Sequence[str]) -> Iterator[Shown]:
        """Try each; when something is down for all, name the rest as failed and end."""
        in_succession = 0
        for tried, key in enumerate(keys, start=1):
            outcome: Outcome[Any] | None = None
            try:
                outcome, shown = self.attempt(key)
                outcome.raise_if_failed()
            except Exception as error:
                if isinstance(error.__cause__, TenantUnknown):
                    self.context.log.warning(f"{key} is left out: {error.__cause__}")
                    continue
                self.context.log.exception(f"{key} failed")
                self.failures[key] = str(error.description if isinstance(error, dg.Failure) else repr(error))
                if isinstance(error, dg.Failure) and error.allow_retries:
                    self.passing.append(key)
                    in_succession = 0 if outcome is not None and outcome.done else in_succession + 1
                else:
                    in_succession = 0
                if in_succession == GIVE_UP_AFTER:
                    for left in keys[tried:]:
                        self.failures.setdefault(left, "not tried")
                    self.passing.clear()
                    return
                continue
            in_succession = 0
            self.failures.pop(key, None)
            yield shown
