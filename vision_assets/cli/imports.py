"""`vision-assets import` and `import-folder`: bring posts into the database, with a progress bar and a table of counts.

What is not here: the import itself (`core/importing.py`).
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vision_assets.cli.connections import START_PARTS, open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.picture_folder import PictureFolder
from vision_assets.clients.postgres.posts import PostgresPosts, ensure_tenant
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.importing import ImportReport, PostSource, import_posts
from vision_assets.core.tenants import Tenant

TenantName = Annotated[str, typer.Option("--tenant", "-t", help="Whose posts they become; made if it is not there.")]


def import_export(
    export: Annotated[Path, typer.Argument(help="Telegram Desktop's result.json, or the folder that holds it.")],
    tenant: TenantName,
) -> None:
    """Import a Telegram Desktop export (machine-readable JSON). Again is safe: nothing is doubled."""
    _run(lambda: TelegramExport(export), tenant_name=tenant)


def import_folder(
    directory: Annotated[Path, typer.Argument(help="A folder of pictures; every picture becomes a post.")],
    tenant: TenantName,
) -> None:
    """Import a folder of pictures. Again is safe: nothing is doubled."""
    _run(lambda: PictureFolder(directory), tenant_name=tenant)


def _run(open_source: Callable[[], PostSource], *, tenant_name: str) -> None:
    """Import, print the counts, and end with 1 when the source could not be read to its end."""
    try:
        tenant, report = asyncio.run(_import(open_source(), tenant_name=tenant_name))
    except VisionAssetsError as error:
        fail(error)
    Console().print(_table(tenant, report))
    if report.failure:
        fail(report.failure)


async def _import(source: PostSource, *, tenant_name: str) -> tuple[Tenant, ImportReport]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    try:
        async with open_database() as database:
            tenant = await ensure_tenant(database, tenant_name)
            with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("Importing", total=source.total_bytes)
                return tenant, await import_posts(
                    tenant.id,
                    source,
                    store=PostgresPosts(database),
                    progress=lambda bytes_read: bar.update(task, completed=bytes_read),
                )
    except asyncpg.UndefinedTableError as error:
        raise ConfigurationError(f"The database has no tables yet. {START_PARTS} DATABASE_URL.") from error


def _table(tenant: Tenant, report: ImportReport) -> Table:
    """Lay the counts out; what did not happen is left out, but for the main figures."""
    rows = [
        ("messages read", report.messages_read),
        ("posts new", report.posts_new),
        ("posts updated", report.posts_updated),
        ("posts already there", report.posts_unchanged),
        ("pictures new", report.media_new),
        *([("pictures with a new source", report.media_relocated)] if report.media_relocated else []),
        ("albums inferred", report.albums_inferred),
        *((f"pictures unavailable: {reason}", count) for reason, count in sorted(report.media_unavailable.items())),
        *((f"messages skipped: {reason}", count) for reason, count in sorted(report.skipped.items())),
        ("dead letters", report.dead_letters),
    ]
    table = Table("", "count", title=f"Imported for {escape(tenant.name)} ({tenant.id})")
    table.columns[1].justify = "right"
    for label, count in rows:
        table.add_row(escape(label), f"{count:,}")
    return table
