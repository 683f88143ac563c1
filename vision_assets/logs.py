"""Structured logs: one line an event in the standard logger, so that Dagster's own logger carries them too.

Each line about a medium has `trace_id` (the run), `tenant_id` and `sha256`; each error its type and traceback.
What is not here: which events are logged (each module's own business).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

ROOT_LOGGER = "vision_assets"


def configure_logging(level: str = "INFO") -> None:
    """Route structlog's events through the standard logger `vision_assets`; may be called again.

    Args:
        level: Least severity that is logged.
    """
    logging.getLogger(ROOT_LOGGER).setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["event", "trace_id", "tenant_id", "sha256"], drop_missing=True
            ),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a cached logger would keep the configuration of its first use
    )


@contextmanager
def bound_to_run(*, trace_id: str, asset: str, **tenant: str) -> Iterator[None]:
    """Put a run's identity on every line that is logged inside, threads and tasks included.

    Args:
        tenant: `tenant_id`, for work on one tenant; other work puts it on its lines itself.
    """
    with structlog.contextvars.bound_contextvars(trace_id=trace_id, asset=asset, **tenant):
        yield
