"""Dagster on this machine: its home folder, and the children of `vision-assets up`, the HTTP service among them.

What does not belong here: the definitions that they load (`definitions.py`), and how runs are configured
(`dagster.yaml`).
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import yaml

from vision_assets.devstack import processes, service
from vision_assets.devstack.processes import Child, PartFailed, Program
from vision_assets.settings import PROJECT_ROOT, Settings, data_dir

CODE_SERVER = "code_server"
WEBSERVER = "webserver"
DAEMON = "daemon"
_CHILDREN = (WEBSERVER, DAEMON, service.NAME, CODE_SERVER)
_UP = "up"
_USUAL_PORT = 3000
_POLL_SECONDS = 0.5
_STOP_SECONDS = 8

log = logging.getLogger(__name__)


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
    return Program(
        name=name,
        command=lambda _: [sys.executable, "-m", *command],
        ready=ready,
        environment=lambda _: _variables(ui_port),
        port=port,
        ready_seconds=180,
    )


def _variables(ui_port: int) -> dict[str, str]:
    return {"DAGSTER_UI_URL": _url(ui_port), **environment()}  # alerts link to the UI


def _code_server(ui_port: int, port: int | None = None) -> Program:
    """One for both, and for long: a daemon left to itself loads the definitions anew each minute, in another one.

    Args:
        port: At which webserver and daemon look for it already; None: they do not run yet.
    """
    code = _location()
    names = ["--module-name", code["module_name"], "--attribute", code["attribute"]]
    serve = ["dagster", "api", "grpc", *names, "--location-name", code["location_name"], "--host", "127.0.0.1"]
    return Program(
        name=CODE_SERVER,
        command=lambda port: [sys.executable, "-m", *serve, "--port", str(port)],
        ready=_serves_code,
        environment=lambda _: _variables(ui_port),
        port=port,
        ready_seconds=180,
    )


def _location() -> dict[str, str]:
    [location] = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    return dict(location["python_module"])


def _serves_code(port: int) -> bool:
    # They take a second to load, and most commands never ask.
    from dagster._core.errors import DagsterUserCodeUnreachableError  # noqa: PLC0415
    from dagster._grpc.client import DagsterGrpcClient  # noqa: PLC0415

    try:
        DagsterGrpcClient(host="127.0.0.1", port=port).ping("ready")
    except DagsterUserCodeUnreachableError:
        return False
    return True


def _workspace(code_server: Child) -> list[str]:
    """Write down where the definitions are served, and tell the option that names the file."""
    file = data_dir() / "dagster" / "workspace.yaml"
    served = {"host": "127.0.0.1", "port": code_server.port, "location_name": _location()["location_name"]}
    file.write_text(yaml.safe_dump({"load_from": [{"grpc_server": served}]}), encoding="utf-8")
    return ["--workspace", str(file)]


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
    urls = {WEBSERVER: ui_url, service.NAME: service.metrics_url}
    return [(name, child, urls[name](child) if name in urls else "") for name, child in found if child]


def start(port: int | None = None) -> tuple[Child, Child]:
    """Start the code server, the webserver, then the daemon (the webserver makes the tables), and the HTTP service.

    Those of an earlier `up` that was killed are ended first.

    Args:
        port: The UI's port; None for 3000, or any free one if that is taken; 0 for any free one.

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
        port = port or processes.free_port(_USUAL_PORT if port is None else 0)
        workspace = _workspace(processes.ensure(_code_server(port)))
        serve = ["dagster_webserver", "--host", "127.0.0.1", "--port", str(port), *workspace]
        webserver = processes.ensure(
            _program(WEBSERVER, serve, lambda chosen: processes.answers(chosen, "/server_info"), port, port)
        )
        processes.ensure(_program(DAEMON, ["dagster._daemon", "run", *workspace], lambda _: True, 0, port))
        served = service.start(environment())
    return webserver, served


def watch() -> None:
    """Return when one of the children has ended; wait for ever otherwise. A code server that ended gets a successor.

    Raises:
        PartFailed: Always, in the end: it names the one that ended and quotes its log.
    """
    while True:
        webserver, code_server = processes.find(WEBSERVER), processes.started(CODE_SERVER)
        if webserver and code_server and not processes.find(CODE_SERVER):
            log.warning("The code server has ended, with the runs under way; another one is started.")
            processes.ensure(_code_server(webserver.port, code_server.port))
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
