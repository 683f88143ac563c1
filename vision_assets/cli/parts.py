"""`up`, `down`, `status` and `config`: the machine's side of the command line.

What does not belong here: how parts and Dagster are run (`devstack/`).
"""

import asyncio
import json
import os
import re
import shlex
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from vision_assets.cli.alerts import NO_CHANNEL, alert_access
from vision_assets.cli.failures import fail
from vision_assets.core.errors import ConfigurationError
from vision_assets.devstack import dagster, parts, postgres, service
from vision_assets.devstack.processes import PartFailed
from vision_assets.settings import Settings, data_dir, endpoints_file

_console = Console()
_PING_SECONDS = 10


def _exit_on_sigterm() -> None:
    """Make a SIGTERM end the command like a Ctrl-C, through every `finally`."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)  # a script's background job has it ignored


def _report(start: float) -> None:
    names = ", ".join(f"{part.name} ({part.state})" for part in parts.status())
    _console.print(f"Parts are ready after {time.monotonic() - start:.1f} s: {names}.", highlight=False)


def up(
    only_parts: Annotated[
        bool, typer.Option("--parts", help="Only start the embedded parts, in the background, and return.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="Port of Dagster's UI; default 3000, or any free one, as 0 is.")
    ] = None,
) -> None:
    """Start the embedded parts, bring the schema up to date, and run Dagster until Ctrl-C."""
    _exit_on_sigterm()
    start = time.monotonic()
    try:
        if only_parts:
            with _console.status("Starting the embedded parts"):
                parts.start_parts()
                parts.migrate_database()
            _report(start)
            return
        if url := dagster.running():
            raise PartFailed(f"`vision-assets up` already runs here: {url}")
        _console.print("Starting the embedded parts …")
        with parts.running_parts():
            _report(start)
            _run_dagster(port)
    except PartFailed as error:
        fail(error)
    except KeyboardInterrupt:
        _console.print("Broken off." if only_parts else "Stopped.")
        raise typer.Exit(130 if only_parts else 0) from None


def _run_dagster(port: int | None) -> None:
    try:
        with _console.status("Starting Dagster"):
            webserver, served = dagster.start(port)
        _console.print(f"Metrics: {service.metrics_url(served)}", highlight=False)
        _console.print(f"Dagster's UI: {dagster.ui_url(webserver)}  (Ctrl-C stops everything)")
        dagster.watch()
    finally:
        _console.print("Stopping …")
        dagster.end()


def down() -> None:
    """Stop Dagster and the embedded parts. The data stays."""
    try:
        with _console.status("Stopping"):
            stopped = (["dagster"] if dagster.end_up() else []) + parts.stop_parts()
    except PartFailed as error:
        fail(error)
    _console.print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")  # a path or URL is of no use when it is cut
    return table


def status() -> None:
    """Show each part: state, pid, URL, data folder and size."""
    table = _table("part", "state", "pid", "URL", "data folder", "size")
    colours = {"running": "green", "dead": "red", "stopped": "dim", "external": "cyan"}
    for part in parts.status():
        table.add_row(
            part.name,
            f"[{colours[part.state]}]{part.state}[/]",
            str(part.pid or ""),
            part.url or "",
            str(part.folder or ""),
            f"{part.size_bytes / 1e6:,.1f} MB" if part.folder else "",
        )
    for name, child, url in dagster.children():
        table.add_row(name, "[green]running[/]", str(child.pid), url, str(data_dir() / "dagster"), "")
    _console.print(table)
    if postgres.folder().parent != data_dir():
        _console.print(
            f"PostgreSQL runs as another user, who cannot reach {data_dir()}; its data is in {postgres.folder()}.",
            highlight=False,
        )


def _shown(value: Any) -> str:
    """Mask a secret; of a database's URL only the password is one."""
    if isinstance(value, SecretStr):
        url = re.fullmatch(r"(postgres[\w+]*://[^:@/]*:)[^@]*(@[^@]*)", value.get_secret_value())
        return f"{url[1]}***{url[2]}" if url else "***"
    return "" if value is None else str(value)


def _source(name: str, embedded: dict[str, Any]) -> str:
    if name.upper() in os.environ:
        return "environment"
    return "embedded" if name in embedded else "default"


async def _ping_postgres(settings: Settings) -> None:
    import asyncpg  # noqa: PLC0415 - a client is only loaded when it is asked

    if not settings.database_url:
        raise PartFailed("not running: `vision-assets up --parts`, or set DATABASE_URL")
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        await connection.execute("SELECT 1")
    finally:
        await connection.close()


async def _ping_s3(settings: Settings) -> None:
    from obstore.store import S3Store  # noqa: PLC0415

    if not settings.aws_access_key_id or not settings.aws_secret_access_key:
        raise PartFailed("not running: `vision-assets up --parts`, or set AWS_ACCESS_KEY_ID and S3_ENDPOINT_URL")
    store = S3Store(
        settings.s3_bucket,
        endpoint=settings.s3_endpoint_url,
        access_key_id=settings.aws_access_key_id.get_secret_value(),
        secret_access_key=settings.aws_secret_access_key.get_secret_value(),
        region=settings.aws_region,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    await store.list("no-such-folder", chunk_size=1).collect_async()


async def _ping_qdrant(settings: Settings) -> None:
    from qdrant_client import AsyncQdrantClient  # noqa: PLC0415

    if not settings.qdrant_url:
        raise PartFailed("not running: `vision-assets up --parts`, or set QDRANT_URL")
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    client = AsyncQdrantClient(url=settings.qdrant_url, api_key=key, check_compatibility=False)
    try:
        await client.get_collections()
    finally:
        await client.close()


async def _ping(part: str, ask: Callable[[Settings], Awaitable[None]]) -> tuple[str, str]:
    settings = Settings()
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await ask(settings)  # loads the client
            start = time.perf_counter()
            await ask(settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
        return part, f"[red]{type(error).__name__}: {str(error)[:300]}[/]"
    return part, f"[green]{(time.perf_counter() - start) * 1000:.1f} ms[/]"


async def _pings() -> Sequence[tuple[str, str]]:
    pings = (_ping("postgres", _ping_postgres), _ping("s3", _ping_s3), _ping("qdrant", _ping_qdrant))
    return await asyncio.gather(*pings)


def config(
    export: Annotated[
        bool, typer.Option("--export", help="Print `export NAME=value` lines for a shell, secrets in clear.")
    ] = False,
) -> None:
    """Show every setting in force and where it is from, and ask each part whether it answers."""
    settings = Settings()
    if export:
        variables = settings.environment()
        if settings.database_url:
            variables |= dagster.environment()
        for name, value in variables.items():
            typer.echo(f"export {name}={shlex.quote(value)}")
        return
    embedded = _embedded(endpoints_file())
    table = _table("setting", "value", "from", "meaning")
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        table.add_row(name.upper(), _shown(value), _source(name, embedded), field.description or "")
    _console.print(table)
    answers = _table("part", "answer")
    for part, answer in asyncio.run(_pings()):
        answers.add_row(part, answer)
    _console.print(answers)
    try:
        if not alert_access(settings).names():
            _console.print(NO_CHANNEL, highlight=False)
    except ConfigurationError as error:
        fail(error)


def _embedded(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_bytes())) if file.exists() else {}
