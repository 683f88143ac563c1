"""`vision-assets quota`: what tenants may store, beside what they have stored.

What is not here: how the limits are held (`core/quota.py`), and their defaults (`settings.py`).
"""

import asyncio
from typing import Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import connect_bucket, guarded_store, open_database
from vision_assets.cli.failures import fail
from vision_assets.cli.levels import level
from vision_assets.clients.postgres.limits import (
    TenantStorage,
    clear_storage_limits,
    set_storage_limits,
    storage_by_tenant,
    storage_of_all,
)
from vision_assets.clients.postgres.orphans import PostgresOrphans
from vision_assets.clients.postgres.posts import find_tenant, list_tenants
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.orphans import ORPHAN_AGE, remove_orphans, remove_strays, stray_folders
from vision_assets.core.storage import CONTENT_TYPES
from vision_assets.settings import Settings

app = typer.Typer(help="Storage quotas: what tenants may store, and what they have.", no_args_is_help=True)

TenantOption = Annotated[str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default all.")]
SizeOption = Annotated[str | None, typer.Option(metavar="SIZE", help="For example 5GiB, 500MB or 0.")]


@app.command()
def show(tenant: TenantOption = None) -> None:
    """Show what is stored and held of each tenant's limit, and of the bucket's."""
    try:
        asyncio.run(_show(tenant))
    except VisionAssetsError as error:
        fail(error)


@app.command("set")
def set_(
    *,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="The tenant's name or id.")],
    limit: SizeOption = None,
    media: SizeOption = None,
    vision: SizeOption = None,
    crawl: SizeOption = None,
    default: Annotated[bool, typer.Option("--default", help="Let the settings hold again, for all of them.")] = False,
) -> None:
    """Give a tenant limits of its own: for all types together (--limit), and for single types."""
    given = {"all": limit, "media": media, "vision": vision, "crawl": crawl}
    try:
        limits = {name: _size(text) for name, text in given.items() if text is not None}
        if default == bool(limits):
            raise ConfigurationError("Say either --default, or at least one of --limit, --media, --vision, --crawl.")
        asyncio.run(_set(tenant, limits))
    except VisionAssetsError as error:
        fail(error)


@app.command()
def orphans(
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", "-t", help="The tenant's name or id, or the name of a stray folder.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Look again at each, and delete it.")] = False,
) -> None:
    """Show a tenant's objects that no row refers to, and folders of no tenant; both are left alone for a day."""
    try:
        if remove and tenant is None:
            raise ConfigurationError("Say whose with --tenant: a tenant's name, or a folder's as shown without it.")
        asyncio.run(_orphans(tenant, remove=remove))
    except VisionAssetsError as error:
        fail(error)


async def _orphans(name: str | None, *, remove: bool) -> None:
    console = Console()
    async with open_database(max_size=4) as database:
        guard, ledger, bucket = guarded_store(database), PostgresOrphans(database), connect_bucket()
        strays = {stray.name for stray in await stray_folders(bucket, ledger)}
        if name in strays:
            gone = await remove_strays(name, store=bucket, ledger=ledger, dry_run=not remove)
            console.print(
                f"{escape(name)}, which is no tenant: {gone.objects:,} objects, {_bytes(gone.bytes)} "
                f"{'removed' if remove else 'older than a day'}.",
                soft_wrap=True,
            )
            return
        tenants = [await find_tenant(database, name)] if name else await list_tenants(database)
        table = Table("tenant", "folder", "objects", "bytes", "for example", title="Objects that no row refers to")
        for tenant in tenants:
            for found in await ledger.orphans(tenant.id, before=guard.clock() - ORPHAN_AGE):
                row = found.folder, f"{found.objects:,}", _bytes(found.bytes), "\n".join(found.examples)
                table.add_row(escape(tenant.name), *map(escape, row))
        console.print(table if table.row_count else "No object without a row that refers to it.")
        if strays and not name:
            console.print(f"Folders of no tenant: {escape(', '.join(sorted(strays)))}.", soft_wrap=True)
        if remove:
            removed = await remove_orphans(tenants[0].id, guard=guard, ledger=ledger)
            console.print(f"Removed {removed.objects:,} objects, {_bytes(removed.bytes)}.")


def _size(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise ConfigurationError(f"{text!r} is no size: write for example 5GiB, 500MB or 1048576.") from error


async def _set(name: str, limits: dict[str, int]) -> None:
    async with open_database(max_size=1) as database:
        tenant = await find_tenant(database, name)
        if limits:
            await set_storage_limits(database, tenant.id, limits)
        else:
            await clear_storage_limits(database, tenant.id)
    await _show(str(tenant.id))


async def _show(name: str | None) -> None:
    limits = Settings().storage_limits()
    async with open_database(max_size=1) as database:
        tenant_id = (await find_tenant(database, name)).id if name else None
        tenants = await storage_by_tenant(database, tenant_id)
        of_all = await storage_of_all(database)
    table = Table("tenant", *CONTENT_TYPES, "held", "stored and held of the limit", title="Storage", caption=_CAPTION)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for one in tenants:
        taken = sum(one.used.values()) + one.reserved_bytes
        own = one.limits.get("all")
        table.add_row(
            escape(one.name),
            *(_of_type(one, name) for name in CONTENT_TYPES),
            _bytes(one.reserved_bytes),
            level(taken, limits.tenant_bytes if own is None else own, _bytes, own=own is not None),
        )
    table.add_section()
    held = sum(reserved for _, reserved, _ in of_all.values())
    table.add_row(
        "[bold]the bucket[/]",
        *(f"{_bytes(of_all[name][0])} of {_bytes(limits.type_bytes[name])}" for name in CONTENT_TYPES),
        _bytes(held),
        level(sum(used for used, _, _ in of_all.values()) + held, limits.bucket_bytes, _bytes),
    )
    Console().print(table)


_CAPTION = "* the tenant's own limit; the others are settings (vision-assets config)"


def _of_type(tenant: TenantStorage, content_type: str) -> str:
    used = _bytes(tenant.used[content_type])
    own = tenant.limits.get(content_type)
    return used if own is None else f"{used} of {_bytes(own)}*"


def _bytes(size: Any) -> str:
    return ByteSize(size).human_readable(separator=" ")
