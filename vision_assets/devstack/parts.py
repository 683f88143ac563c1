"""The embedded parts together: start, stop, status, and the file that tells the settings where they are.

A part whose setting stands in the environment is external and left alone. `start_parts` is safe to call at any time,
from several processes: living parts are reused, dead ones started again.

What does not belong here: how one part runs (`postgres.py`, `s3.py`, `qdrant.py`) and Dagster (`dagster.py`).
"""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vision_assets.devstack import postgres, processes, s3
from vision_assets.devstack.credentials import load_credentials
from vision_assets.devstack.gigachat_access import BUSINESS
from vision_assets.devstack.gigachat_tls import CA_FILE
from vision_assets.devstack.processes import Child, PartFailed, Program
from vision_assets.settings import Settings, data_dir, endpoints_file

QDRANT = "qdrant"
GIGACHAT = "gigachat"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Endpoints:
    """Where the running embedded parts are, in the names of the settings; None for a part that is not embedded."""

    database_url: str | None = None
    dagster_postgres_url: str | None = None
    s3_endpoint_url: str | None = None
    s3_bucket: str | None = None
    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = None
    qdrant_url: str | None = None
    gigachat_credentials: str | None = None
    gigachat_scope: str | None = None
    gigachat_base_url: str | None = None
    gigachat_auth_url: str | None = None
    gigachat_ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part, for people.

    Attributes:
        state: `dead` is a part that was started and is gone without having been stopped.
        folder: Its data; None for an external part.
    """

    name: str
    state: Literal["running", "stopped", "dead", "external"]
    pid: int | None
    url: str | None
    folder: Path | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    variables: tuple[str, ...]  # any of them in the environment: the part is external
    start: Callable[[], Child]
    end: Callable[[], bool]
    folder: Callable[[], Path]
    url: Callable[[int], str]
    wanted: Callable[[], bool] = lambda: True


def _qdrant_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _gigachat_url(port: int) -> str:
    return f"https://127.0.0.1:{port}"


def _folder(name: str) -> Path:
    return data_dir() / name


def _start_module(name: str, ready: Callable[[int], bool]) -> Child:
    """Start a part whose server is a module of this package, under its name."""
    module = [sys.executable, "-m", f"vision_assets.devstack.{name}", "--dir", str(_folder(name))]
    return processes.ensure(Program(name=name, command=lambda port: [*module, "--port", str(port)], ready=ready))


_PARTS = (
    _Part(
        postgres.NAME,
        ("DATABASE_URL",),
        postgres.start,
        postgres.end,
        postgres.folder,
        lambda port: f"postgresql://{postgres.USER}:***@127.0.0.1:{port}/{postgres.DATABASE}",
    ),
    _Part(s3.NAME, ("S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"), s3.start, s3.end, lambda: _folder(s3.NAME), s3.url),
    _Part(
        QDRANT,
        ("QDRANT_URL",),
        lambda: _start_module(QDRANT, lambda port: processes.answers(port, "/readyz")),
        lambda: processes.stop(QDRANT),
        lambda: _folder(QDRANT),
        _qdrant_url,
    ),
    _Part(
        GIGACHAT,
        ("GIGACHAT_CREDENTIALS",),
        lambda: _start_module(GIGACHAT, processes.accepts),
        lambda: processes.stop(GIGACHAT),
        lambda: _folder(GIGACHAT),
        _gigachat_url,
        wanted=lambda: Settings().vision_provider == GIGACHAT,
    ),
)


def _external(part: _Part) -> bool:
    return any(os.environ.get(variable) for variable in part.variables)


def start_parts() -> Endpoints:
    """Start every embedded part that does not run, all at once, and write the endpoints file.

    Raises:
        PartFailed: At least one did not start. The text names all of them; the others go on running.
    """
    with processes.lock(), processes.default_signals():
        load_credentials()  # made once, before the parts ask for it side by side
        wanted = [part for part in _PARTS if part.wanted() and not _external(part)]
        failures = []
        with ThreadPoolExecutor(len(_PARTS)) as pool:
            for started in [pool.submit(part.start) for part in wanted]:
                try:
                    started.result()
                except PartFailed as error:
                    failures.append(str(error))
        endpoints = _write_endpoints()
    if failures:
        raise PartFailed("\n\n".join(failures))
    return endpoints


def stop_parts(names: Collection[str] | None = None) -> list[str]:
    """Stop the named parts, or all, and tell which were running. Their data stays."""
    with processes.lock():
        wanted = [part for part in _PARTS if names is None or part.name in names]
        with ThreadPoolExecutor(len(_PARTS)) as pool:
            ended = pool.map(lambda part: part.end(), wanted)
            stopped = [part.name for part, was_running in zip(wanted, ended, strict=True) if was_running]
        _write_endpoints()
    return stopped


def migrate_database() -> None:
    """Bring the schema up to date, of the embedded database or of `DATABASE_URL`.

    Raises:
        PartFailed: There is no database.
    """
    from vision_assets.clients.postgres.migrate import migrate  # noqa: PLC0415 - SQLAlchemy takes a second to load

    url = Settings().database_url
    if not url:
        raise PartFailed("There is no database: start the embedded parts, or set DATABASE_URL.")
    migrate(url.get_secret_value())


@contextmanager
def running_parts() -> Iterator[None]:
    """Have the parts running and the schema up to date; afterwards stop those that did not run before.

    Raises:
        PartFailed: A part did not start.
    """
    before = _running()
    try:
        start_parts()
        migrate_database()
        yield
    finally:
        stop_parts(_running() - before)


def _running() -> set[str]:
    return {part.name for part in _PARTS if processes.find(part.name)}


def _write_endpoints() -> Endpoints:
    """Write where the living parts are; no living part, no file."""
    found: dict[str, str] = {}
    credentials = load_credentials()
    for part in _PARTS:
        child = None if _external(part) else processes.find(part.name)
        if not child:
            continue
        if part.name == postgres.NAME:
            found["database_url"] = postgres.url(child.port)
            found["dagster_postgres_url"] = postgres.url(
                child.port, postgres.DAGSTER_DATABASE, scheme="postgresql+psycopg2"
            )
        elif part.name == s3.NAME:
            found["s3_endpoint_url"] = s3.url(child.port)
            found["s3_bucket"] = Settings().s3_bucket
            found["aws_access_key_id"] = credentials.s3_access_key_id
            found["aws_secret_access_key"] = credentials.s3_secret_access_key
        elif part.name == QDRANT:
            found["qdrant_url"] = _qdrant_url(child.port)
        else:
            found["gigachat_credentials"] = BUSINESS.credentials
            found["gigachat_scope"] = "GIGACHAT_API_B2B"
            found["gigachat_base_url"] = f"{_gigachat_url(child.port)}/api/v1"
            found["gigachat_auth_url"] = f"{_gigachat_url(child.port)}/api/v2/oauth"
            found["gigachat_ca_file"] = str(_folder(GIGACHAT) / CA_FILE)
    if found:
        processes.write_atomically(endpoints_file(), json.dumps(found, indent=2))
    else:
        endpoints_file().unlink(missing_ok=True)
    return Endpoints(**found)


def status() -> list[PartStatus]:
    """Look at every part that is wanted or runs; nothing is started, stopped or repaired."""
    return [_status(part) for part in _PARTS if part.wanted() or processes.find(part.name)]


def _status(part: _Part) -> PartStatus:
    if _external(part):
        return PartStatus(part.name, "external", None, None, None, 0)
    folder = part.folder()
    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) if folder.exists() else 0
    child = processes.find(part.name)
    if child:
        return PartStatus(part.name, "running", child.pid, part.url(child.port), folder, size)
    return PartStatus(part.name, "dead" if processes.known(part.name) else "stopped", None, None, folder, size)
