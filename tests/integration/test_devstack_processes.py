"""Long-lived child processes, one case each, with small programs instead of the parts."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import pytest

from tests.devstack import alive, kill, own_data_dir
from vision_assets.devstack import processes
from vision_assets.devstack.processes import PartFailed, Program
from vision_assets.settings import data_dir


@pytest.fixture(autouse=True)
def data_folder() -> Iterator[None]:
    """Give an empty data folder of the test's own, and end what runs in it."""
    with own_data_dir():
        yield
        processes.stop("program", seconds=1)


def program(code: str, *, ready: Callable[[int], bool] | None = None, ready_seconds: float = 20) -> Program:
    """Make a Python program that is ready when it has printed `ready`."""
    return Program(
        name="program",
        command=lambda port: [sys.executable, "-u", "-c", code, str(port)],
        ready=ready or (lambda _: "ready" in processes.log_tail("program")),
        ready_seconds=ready_seconds,
    )


SLEEPER = "import time; print('ready'); time.sleep(600)"


def test_failure_at_start_quotes_the_log() -> None:
    """The error of a program that ends at once shows what it printed last."""
    with pytest.raises(PartFailed, match=r"(?s)ended at its start.*no such vegetable"):
        processes.ensure(program("raise SystemExit('no such vegetable')"))
    assert processes.find("program") is None


def test_no_answer_in_time() -> None:
    """A program that runs and never answers is an error with its log, after the time that it has."""
    code = "import time; print('waiting for Godot'); time.sleep(600)"
    with pytest.raises(PartFailed, match=r"(?s)did not answer within 1 s.*Godot"):
        processes.ensure(program(code, ready_seconds=1))


def test_a_recycled_pid_is_not_ours() -> None:
    """A process that has the pid of a dead one is neither taken for it nor killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        processes.record("program", stranger.pid)
        assert processes.find("program")
        file = data_dir() / "run" / "program.json"
        created_at = psutil.Process(stranger.pid).create_time()
        file.write_text(file.read_text().replace(str(created_at), str(created_at - 100)))
        assert processes.find("program") is None
        assert processes.stop("program") is False
        time.sleep(0.2)
        assert stranger.poll() is None
        stranger.kill()


def test_stop_ends_the_whole_family() -> None:
    """A program that ignores SIGTERM is killed after the time, and so is what it started."""
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('ready'); time.sleep(600)"
    )
    child = processes.ensure(program(code))
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children()]
    assert len(family) == 2
    assert processes.stop("program", seconds=0.5) is True
    assert not any(alive(process) for process in family)


def test_a_dead_one_is_replaced_on_its_port() -> None:
    """The next start finds a killed program dead and gives its port to the new one."""
    first = processes.ensure(program(SLEEPER))
    assert processes.ensure(program(SLEEPER)) == first
    kill(first.pid)
    second = processes.ensure(program(SLEEPER))
    assert second.pid != first.pid
    assert second.port == first.port


def test_a_port_that_a_dead_one_still_holds_is_waited_for() -> None:
    """The threads of a killed program end one after the other, the last some time after it is a zombie."""
    code = """
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
subprocess.Popen(["sleep", "2"], pass_fds=[server.fileno()])
print("ready", flush=True)
server.accept()
"""
    first = processes.ensure(program(code))
    kill(first.pid)
    assert processes.free_port(first.port) != first.port
    assert processes.ensure(program(code)).port == first.port


def test_one_that_no_longer_answers_is_replaced() -> None:
    """A program that lives without answering is ended and started anew."""
    first = processes.ensure(program(SLEEPER))
    restarted = program(SLEEPER, ready=lambda _: processes.find("program") != first, ready_seconds=1)
    assert processes.ensure(restarted).pid != first.pid


def test_children_have_default_signals() -> None:
    """A child can be interrupted although its parent, a script's background job, ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with processes.default_signals():
            code = "import signal, time; print(signal.getsignal(signal.SIGINT), 'ready'); time.sleep(600)"
            processes.ensure(program(code))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert "default_int_handler" in processes.log_tail("program")


def test_a_taken_port_is_refused() -> None:
    """A demanded port on which something else listens is an error that names it; a preferred one is passed over."""
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('ready'); s.accept()"
    child = processes.ensure(program(code))
    assert processes.free_port(child.port) != child.port
    other = Program(name="other", command=lambda _: ["true"], ready=lambda _: True, port=child.port)
    with pytest.raises(PartFailed, match=str(child.port)):
        processes.ensure(other)


def test_another_on_the_same_port_is_not_taken_for_it() -> None:
    """A program whose port somebody else has got hold of meanwhile is not ready, though that one answers."""
    with socket.socket() as another:

        def answered(port: int) -> bool:
            with suppress(OSError):
                another.bind(("127.0.0.1", port))
                another.listen()
            return True

        with pytest.raises(PartFailed, match="did not answer"):
            processes.ensure(program(SLEEPER, ready=answered, ready_seconds=1))
