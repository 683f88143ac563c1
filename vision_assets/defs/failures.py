"""Turns the project's errors into Dagster's failures, here alone: transient ones are retried, permanent ones not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData  # which nothing public makes

from vision_assets.core.errors import EXAMPLES, TransientError, VisionAssetsError, leaves

RETRY = dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
"""For steps: only failures that `translated` or `raise_if_any` let through as retriable are tried again."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise a `dg.Failure` for an error of the project that comes out of a step.

    Raises:
        dg.Failure: With the error's text; may be retried when it is transient.
    """
    try:
        yield
    except (VisionAssetsError, ExceptionGroup) as error:
        errors = list(leaves(error))
        if not all(isinstance(leaf, VisionAssetsError) for leaf in errors):
            raise
        raise dg.Failure(
            description="; ".join(dict.fromkeys(map(str, errors))),
            metadata={"error_class": ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in errors))},
            allow_retries=all(isinstance(leaf, TransientError) for leaf in errors),
        ) from error


def raise_if_any(failures: Sequence[str], *, done: int, hopeless: bool = False) -> None:
    """Fail the step when items of a batch failed for reasons that are not their own; what is done stays done.

    Args:
        done: Items of the batch that did not fail.
        hopeless: One of the reasons will not pass by itself, so there is no retry.

    Raises:
        dg.Failure: Names the number and the first few.
    """
    if failures:
        raise dg.Failure(
            description=f"{len(failures)} items failed and stay to do; {done} are done. "
            f"First: {'; '.join(failures[:EXAMPLES])}",
            metadata={"failed_items": len(failures), "done_items": done},
            allow_retries=not hopeless,
        )


def tell_failed(context: dg.OpExecutionContext, assets: Sequence[dg.AssetKey], partition: str) -> None:
    """Say that assets were to be made: a partition is red when it was planned last, and its run has failed."""
    for asset in assets:
        planned = AssetMaterializationPlannedData(asset, partition=partition)
        event = dg.DagsterEvent.build_asset_materialization_planned_event(
            context.job_name, str(context.op_handle), planned
        )
        context.instance.report_dagster_event(event, context.run_id)
