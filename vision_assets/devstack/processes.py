"""Long-lived child processes: started detached, found again by a later command, stopped cleanly.

Each has a name and a state file `run/<name>.json` in the data folder with its pid, its start time (a recycled pid is
never taken for it) and its port. Whatever is killed, by whomever, the next `ensure` finds out and repairs it.

What does not belong here: which programs there are (`postgres.py`, `s3.py`, `qdrant.py`, `dagster.py`).
"""

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from vision_assets.core.errors import PermanentError
from vision_assets.settings import data_dir

_POLL_SECONDS = 0.05
_PORT_SECONDS = 5
_TAIL_LINES = 15

# Our own children are kept, so that a dead one is reaped when somebody looks at it.
_popen: dict[int, "subprocess.Popen[bytes]"] = {}


class PartFailed(PermanentError):
    """A program did not start or did not stop; the text says why and quotes its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started under a name.

    Attributes:
        created_at: Start time in the kernel's words (`psutil`): tells the process from a later one of the same pid.
        port: The loopback port on which it serves; 0 for none.
    """

    name: str
    pid: int
    created_at: float
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run under a name.

    Attributes:
        command: The command line for a port.
        ready: Whether it answers on that port.
        environment: Variables beside those of this process.
        uid: User and group to run as; None for our own.
        port: The port that it must have; 0 for a program that serves nothing; None for any.
        ready_seconds: How long it may take to answer.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    ready: Callable[[int], bool]
    environment: Callable[[int], Mapping[str, str]] = lambda _: {}
    uid: int | None = None
    port: int | None = None
    ready_seconds: float = 60


def make_dir(path: Path, mode: int = 0o700) -> Path:
    """Make a folder if it is absent."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


def _run_dir() -> Path:
    make_dir(data_dir(), 0o711)  # others may pass through: Postgres runs as another user when we are root
    return make_dir(data_dir() / "run")


def log_file(name: str) -> Path:
    """Tell where a process writes its output."""
    return data_dir() / "logs" / f"{name}.log"


def log_tail(name: str) -> str:
    """Give the last lines of a process' log."""
    try:
        lines = log_file(name).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-_TAIL_LINES:]) or "(empty log)"


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Let one command at a time start or stop processes in this data folder; the kernel frees it if we are killed."""
    with (_run_dir() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def default_signals() -> Iterator[None]:
    """Start children with default signals.

    A shell script starts its background jobs with SIGINT ignored; that is inherited for ever, and Dagster would then
    ignore every termination. Handlers can only be changed in the main thread; elsewhere nothing is changed.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
    ignored = [one for one in signals if signal.getsignal(one) == signal.SIG_IGN]
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    try:
        yield
    finally:
        for one in ignored:
            signal.signal(one, signal.SIG_IGN)


def free_port(preferred: int = 0) -> int:
    """Choose a free loopback port, the preferred one if it is free."""
    for port in (preferred, 0):
        with socket.socket() as listener, contextlib.suppress(OSError):
            # Servers set this too; without it a port stays taken for a minute after its last connection.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])
    raise PartFailed("There is no free port on 127.0.0.1.")


def answers(port: int, path: str) -> bool:
    """Tell whether a loopback server answers a GET with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepts(port: int) -> bool:
    """Tell whether a loopback server accepts connections."""
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _process(child: Child) -> psutil.Process | None:
    """Give the living process of a child, or None: it is gone, a zombie, or another one has its pid."""
    if (popen := _popen.get(child.pid)) and popen.poll() is not None:
        del _popen[child.pid]
    try:
        process = psutil.Process(child.pid)
        same = abs(process.create_time() - child.created_at) < 0.01
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def started(name: str) -> Child | None:
    """Read what was last started under a name, dead or alive."""
    try:
        return Child(**json.loads((_run_dir() / f"{name}.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):  # absent, or cut off by a crash of the machine
        return None


def write_atomically(path: Path, text: str) -> None:
    """Replace a file that only we may read, so that a reader sees the old or the new one."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.replace(path)


def record(name: str, pid: int, port: int = 0) -> Child:
    """Write down that a process runs under a name."""
    child = Child(name, pid, psutil.Process(pid).create_time(), port)
    write_atomically(_run_dir() / f"{name}.json", json.dumps(asdict(child)))
    return child


def forget(name: str) -> None:
    """Remove what is written down of a name."""
    (_run_dir() / f"{name}.json").unlink(missing_ok=True)


def known(name: str) -> bool:
    """Tell whether a process was started under a name and not stopped since; it may have died."""
    return started(name) is not None


def find(name: str) -> Child | None:
    """Give the living process of a name."""
    child = started(name)
    return child if child and _process(child) else None


def ensure(program: Program) -> Child:
    """Give the running process of a program: the living one if it answers, else a new one.

    A new one takes the port of the dead one where it can, so that the URLs in running clients stay right.

    Raises:
        PartFailed: It ended at its start or did not answer in time, or the port that it must have is taken.
    """
    last = started(program.name)
    if last and _process(last):
        with contextlib.suppress(PartFailed):
            return _await_ready(program, last)
        stop(program.name)
    if last:
        _await_free(last.port)
    port = free_port(last.port if last else 0) if program.port is None else program.port
    if port and free_port(port) != port:
        raise PartFailed(f"Port {port} on 127.0.0.1 is taken: choose another for {program.name}.")
    return _await_ready(program, _start(program, port))


def _await_free(port: int) -> None:
    """Give a program that has been killed time to let go of its port: that ends after its process seems to be gone."""
    deadline = time.monotonic() + _PORT_SECONDS
    while port and free_port(port) != port and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _start(program: Program, port: int) -> Child:
    log = log_file(program.name)
    make_dir(log.parent)
    if log.exists():
        log.replace(log.with_suffix(".old.log"))
    identity = {} if program.uid is None else {"user": program.uid, "group": program.uid, "extra_groups": []}
    with log.open("wb") as output:
        popen = subprocess.Popen(
            list(program.command(port)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env={**os.environ, **program.environment(port)},
            **identity,  # type: ignore[call-overload]
        )
    _popen[popen.pid] = popen
    return record(program.name, popen.pid, port)


def _await_ready(program: Program, child: Child) -> Child:
    deadline = time.monotonic() + program.ready_seconds
    while True:
        if not _process(child):
            raise PartFailed(f"{program.name} ended at its start. Its log says:\n{log_tail(program.name)}")
        # Two checkouts may choose one port at once; then the other one's server answers on it.
        if program.ready(child.port) and not _is_anothers(child):
            return child
        if time.monotonic() > deadline:
            seconds = f"{program.ready_seconds:g} s"
            raise PartFailed(f"{program.name} did not answer within {seconds}. Its log:\n{log_tail(program.name)}")
        time.sleep(_POLL_SECONDS)


def _is_anothers(child: Child) -> bool:
    """Tell whether a process that the child has not started listens on its port."""
    if not child.port:
        return False
    own = {child.pid}
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
        own |= {one.pid for one in psutil.Process(child.pid).children(recursive=True)}
    return any(
        listener.status == psutil.CONN_LISTEN
        and listener.laddr
        and listener.laddr.port == child.port
        and listener.pid not in own
        for listener in psutil.net_connections(kind="inet")
    )


def stop(name: str, *, stop_signal: signal.Signals = signal.SIGTERM, seconds: float = 20) -> bool:
    """End a process and what it started; ask first, kill after the time. Tell whether it was running."""
    child = started(name)
    process = _process(child) if child else None
    if not child or not process:
        forget(name)
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.send_signal(stop_signal)
        _, left = psutil.wait_procs(family[:1], timeout=seconds)
        for one in psutil.wait_procs(family[1:], timeout=1)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in left + psutil.wait_procs(family[1:], timeout=5)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        # A child that was killed while its parent lived is gone when somebody else has buried it.
        if any(one in left for one in psutil.wait_procs(family, timeout=10)[1]):  # it hangs in the kernel
            raise PartFailed(f"{name} (pid {child.pid}) does not end, not even when killed.")
    if popen := _popen.pop(child.pid, None):
        popen.wait()
    forget(name)
    return True
