"""A worker process of the chaos tests: coroutines that spend or store until they are told to stop, or die.

It stops when its leash breaks, so it never outlives the test. What is not here: starting and killing workers
(`crew.py`), and what one of them does (`spending.py`, `storing.py`, `looking.py`).
"""

import asyncio
import contextlib
import logging
import os
import random
import threading
from collections.abc import MutableMapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import structlog

from tests.chaos.kill_points import Death, KillPoints
from tests.chaos.shift import Shift
from tests.chaos.tally import Tally

Work = Literal["budget", "storage", "vision"]


def follow(work: Work, orders: dict[str, Any], leash: Connection, log: Path) -> None:
    """Be a worker, from the process's beginning to its end.

    Args:
        leash: Breaks when it is time to stop.
        log: For all that is said.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        processors=[_brief, structlog.processors.TimeStamper("iso"), structlog.processors.LogfmtRenderer()],
    )
    asyncio.run(_work(work, orders, leash))


def _brief(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out tracebacks: to draw one takes longer than a whole outage."""
    event.pop("exc_info", None)
    return event


async def _work(work: Work, orders: dict[str, Any], leash: Connection) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_the_end() -> None:
        with contextlib.suppress(EOFError, OSError):
            leash.recv()
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(stopping.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    tally = Tally(Path(orders["tally"]))
    death = Death(**orders["death"]) if orders["death"] else None
    shift = Shift(orders, random.Random(orders["seed"]), tally, KillPoints(tally, death), stopping)
    # Only what it needs: each imports other parts of the project.
    if work == "budget":
        from tests.chaos.spending import spend

        await spend(shift)
    elif work == "storage":
        from tests.chaos.storing import store

        await store(shift)
    else:
        from tests.chaos.looking import look

        await look(shift)
