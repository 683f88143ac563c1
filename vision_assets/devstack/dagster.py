"""Dagster on this machine: its home folder, and the children of `vision-assets up`, the HTTP service among them.

What does not belong here: the definitions that they load (`definitions.py`), and how runs are configured
(`dagster.yaml`).
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

from vision_assets.devstack import processes, service
from vision_assets.devstack.processes import Child, PartFailed, Program
from vision_assets.settings import PROJECT_ROOT, Settings, data_dir

WEBSERVER = "webserver"
DAEMON = "daemon"
_CHILDREN = (WEBSERVER, DAEMON, service.NAME)
_UP = "up"
_USUAL_PORT = 3000
_POLL_SECONDS = 0.5
_STOP_SECONDS = 8


def environment() -> dict[str, str]:
    """Tell what a Dagster process needs beside this process' variables: every setting, its home, its database.

    Raises:
        PartFailed: Neither DATABASE_URL nor the embedded Postgres is there.
    """
    settings = Settings()
    url = settings.dagster_postgres_url or settings.database_url
    if not url:
        raise PartFailed("There is no database: start the embedded parts, or set DATABASE_URL.")
    dagster_url = urlsplit(url.get_secret_value())._replace(scheme="postgresql+psycopg2")
    return {
        **settings.environment(),
        "DAGSTER_HOME": str(data_dir() / "dagster"),
        "DAGSTER_POSTGRES_URL": dagster_url.geturl(),
    }


def prepare_home() -> None:
    """Make DAGSTER_HOME with a link to the project's `dagster.yaml`; compute logs and artifacts go there too."""
    home = processes.make_dir(data_dir() / "dagster")
    draft = home / "dagster.yaml.draft"
    draft.unlink(missing_ok=True)
    draft.symlink_to(PROJECT_ROOT / "dagster.yaml")
    draft.replace(home / "dagster.yaml")


@contextmanager
def dagster_environment() -> Iterator[None]:
    """Make this process one of Dagster's for a while: DAGSTER_HOME and the settings stand in `os.environ`.

    Raises:
        PartFailed: There is no database.
    """
    before = dict(os.environ)
    prepare_home()
    os.environ.update(environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _program(name: str, command: list[str], ready: Callable[[int], bool], port: int, ui_port: int) -> Program:
    # Alerts link to the UI.
    variables = {"DAGSTER_UI_URL": _url(ui_port), **environment()}
    return Program(
        name=name,
        command=lambda _: [sys.executable, "-m", *command, "--workspace", str(PROJECT_ROOT / "workspace.yaml")],
        ready=ready,
        environment=lambda _: variables,
        port=port,
        ready_seconds=180,
    )


def running() -> str | None:
    """Tell the UI's URL if another `up` of this data folder lives."""
    webserver = processes.find(WEBSERVER)
    return ui_url(webserver) if processes.find(_UP) and webserver else None


def ui_url(webserver: Child) -> str:
    """Tell the UI's URL."""
    return _url(webserver.port)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def children() -> list[tuple[str, Child, str]]:
    """List the running children of `up`, with the URLs of those that have one."""
    found = [(name, processes.find(name)) for name in _CHILDREN]
    urls = {WEBSERVER: ui_url, DAEMON: lambda _: "", service.NAME: service.metrics_url}
    return [(name, child, urls[name](child)) for name, child in found if child]


def start(port: int | None = None) -> tuple[Child, Child]:
    """Start the webserver, then the daemon (the first makes the tables that both need), and the HTTP service.

    Those of an earlier `up` that was killed are ended first.

    Args:
        port: The UI's port; None for 3000, or any free one if that is taken.

    Returns:
        The webserver and the service.

    Raises:
        PartFailed: Another `up` lives, or one of them did not start.
    """
    with processes.lock(), processes.default_signals():
        if processes.find(_UP):
            raise PartFailed(f"`vision-assets up` already runs in {data_dir()}: {running() or 'it is starting'}")
        _end_children()
        processes.record(_UP, os.getpid())
        prepare_home()
        port = port or processes.free_port(_USUAL_PORT)
        serve = ["dagster_webserver", "--host", "127.0.0.1", "--port", str(port)]
        webserver = processes.ensure(
            _program(WEBSERVER, serve, lambda chosen: processes.answers(chosen, "/server_info"), port, port)
        )
        processes.ensure(_program(DAEMON, ["dagster._daemon", "run"], lambda _: True, 0, port))
        served = service.start(environment())
    return webserver, served


def watch() -> None:
    """Return when one of the children has ended; wait for ever otherwise.

    Raises:
        PartFailed: Always, in the end: it names the one that ended and quotes its log.
    """
    while True:
        for name in _CHILDREN:
            if not processes.find(name):
                raise PartFailed(f"The {name} has ended. Its log says:\n{processes.log_tail(name)}")
        time.sleep(_POLL_SECONDS)


def _end_children() -> None:
    """Stop all at once. A daemon in the midst of a tick takes its time; killing it does no harm."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: processes.stop(name, seconds=_STOP_SECONDS), _CHILDREN))


def end() -> None:
    """Stop the children, and whatever they started."""
    with processes.lock():
        _end_children()
        if (up := processes.find(_UP)) and up.pid == os.getpid():
            processes.forget(_UP)


def end_up() -> bool:
    """End another process' `up`, living or killed, with its children; tell whether anything was running."""
    was_running = any(processes.find(name) for name in (_UP, *_CHILDREN))
    processes.stop(_UP, seconds=60)  # it stops its children itself
    end()
    return was_running
