"""A Postgres server that a test may stop, kill and start again, on one port. What is not here: any query."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from tests.devstack import kill, own_data_dir
from vision_assets.clients.postgres.migrate import migrate
from vision_assets.devstack import postgres, processes
from vision_assets.devstack.credentials import load_credentials

_STOP_SECONDS = 60


@dataclass(slots=True)
class OwnPostgres:
    """The server."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """The URL of a migrated database."""
        return postgres.url(self.port)

    def stop(self) -> None:
        """Stop it in order: clients are thrown out, and a checkpoint is written."""
        process = psutil.Process(self.pid)
        process.send_signal(signal.SIGINT)  # not through the devstack, which would give it another port next time
        process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """Kill it without warning; what serves the connections dies with it."""
        children = psutil.Process(self.pid).children()
        kill(self.pid)
        psutil.wait_procs(children, timeout=_STOP_SECONDS)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Freeze it, with all that serves its connections: they stay open, and nobody answers."""
        frozen = [psutil.Process(self.pid), *psutil.Process(self.pid).children()]
        for process in frozen:
            process.suspend()
        try:
            yield
        finally:
            for process in frozen:
                process.resume()

    def start(self) -> None:
        """Start it again, where it was."""
        with processes.lock():
            child = postgres.start()
        assert child.port == self.port
        self.pid = child.pid


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """Run a server in a data folder of the test's own."""
    with own_data_dir():
        with processes.lock():
            load_credentials()
            child = postgres.start()
        server = OwnPostgres(child.pid, child.port)
        migrate(server.url)
        yield server
