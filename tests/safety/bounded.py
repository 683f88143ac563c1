"""Examine files in a process of their own and tell what it took.

What is not here: which files, and what must become of them.
"""

import itertools
import multiprocessing
import resource
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from vision_assets.core.errors import InputRejected

MAX_CPU_SECONDS = 20
"""For one file: generous, as machines differ; without the limits some took many minutes."""

MAX_GROWTH_BYTES = 640 * 2**20
"""Of resident memory, for one file. 80 MP at full size take 611 MiB, 40 MP of RGBA 496."""

_LAST_RESORT_BYTES = 6 * 2**30
_LAST_RESORT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a file.

    Attributes:
        reason: Of its refusal; None when there is a result.
        message: Of its refusal.
        fault: Any other exception, or how the process ended.
        warned: What was warned of meanwhile.
        cpu_seconds: Of the process and those that it started.
        growth_bytes: How far the process's peak of resident memory rose.
    """

    reason: str | None = None
    message: str = ""
    fault: str | None = None
    warned: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    growth_bytes: int = 0

    @property
    def is_within_bounds(self) -> bool:
        """Whether nothing happened but a result or a clean refusal, in bounded time and memory."""
        return (
            self.fault is None
            and not self.warned
            and self.cpu_seconds <= MAX_CPU_SECONDS
            and self.growth_bytes <= MAX_GROWTH_BYTES
            and len(self.message) < 500
        )


def verdicts(contents: Sequence[bytes], *looks: Callable[[bytes], object]) -> list[Verdict]:
    """Look at files one after the other in a new process, in each way; when one ends it, the rest is not looked at."""
    # Started from a clean process: pytest's own has threads and hundreds of megabytes.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([look.__module__ for look in looks])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_look_at_all, args=(contents, looks, theirs))
    process.start()
    theirs.close()
    found: list[Verdict] = []
    try:
        while len(found) < len(contents) * len(looks):
            if not ours.poll(_LAST_RESORT_SECONDS):
                found.append(Verdict(fault=f"nothing after {_LAST_RESORT_SECONDS} seconds"))
                break
            found.append(ours.recv())
    except EOFError:
        process.join()
        found.append(Verdict(fault=f"the process ended with {process.exitcode}"))
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()
    return found


def _look_at_all(contents: Sequence[bytes], looks: Sequence[Callable[[bytes], object]], answers: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_LAST_RESORT_BYTES, _LAST_RESORT_BYTES))
    warned: list[str] = []
    warnings.showwarning = lambda message, category, *_: warned.append(f"{category.__name__}: {message}")
    for content, look in itertools.product(contents, looks):
        warned.clear()
        before, peak = _cpu_seconds(), _peak_bytes()
        reason, message, fault = None, "", None
        try:
            look(content)
        except InputRejected as error:
            reason, message = error.reason, str(error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
            fault = f"{type(error).__name__}: {error}"[:300]
        took = _cpu_seconds() - before
        answers.send(Verdict(reason, message, fault, list(warned), took, _peak_bytes() - peak))


def _cpu_seconds() -> float:
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
