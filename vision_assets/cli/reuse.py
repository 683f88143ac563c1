"""`vision-assets reuse`: pictures whose results are never reused, and the taking back of what was.

What is not here: what may be reused at all (`core/reuse.py`), and why a picture got what it has (`explain.py`).
"""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.postgres import reuse as postgres
from vision_assets.clients.postgres.explain import find_picture
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core.errors import PictureUnknown, VisionAssetsError

app = typer.Typer(help="Pictures whose results are never reused.", no_args_is_help=True)

PictureArgument = Annotated[str, typer.Argument(metavar="SHA", help="The picture's sha256, or its first digits.")]
TenantOption = Annotated[str, typer.Option("--tenant", "-t", help="The tenant's name or id.")]


@app.command()
def deny(
    picture: PictureArgument,
    *,
    tenant: TenantOption,
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the list.")] = "denied by an operator",
) -> None:
    """Never let a picture, or one of exactly its hash, take or give a result; what it took or gave is done again."""
    try:
        sha256, again = asyncio.run(_deny(picture, tenant_name=tenant, reason=reason))
    except VisionAssetsError as error:
        fail(error)
    _say(
        f"{sha256} is denied. Results to be made again, within policy and budget: {again:,}. "
        "`vision-assets quote` tells what that takes."
    )


@app.command()
def allow(picture: PictureArgument, *, tenant: TenantOption) -> None:
    """Take a denial or a quarantine back; it holds from the next run on."""
    try:
        sha256 = asyncio.run(_allow(picture, tenant_name=tenant))
    except VisionAssetsError as error:
        fail(error)
    _say(f"{sha256} may be reused again.")


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default all.")] = None,
) -> None:
    """Show what operators denied, and which hashes quarantined themselves."""
    try:
        denials = asyncio.run(_list(tenant))
    except VisionAssetsError as error:
        fail(error)
    if not denials:
        Console().print("No picture is denied.")
        return
    table = Table("tenant", "sha256", "by", "reason", "since", title="Never reused")
    for one in denials:
        table.add_row(
            escape(one.tenant), one.sha256, one.origin, escape(one.reason), f"{one.created_at:%Y-%m-%d %H:%M}"
        )
    Console().print(table)


def _say(text: str) -> None:
    Console().print(text, soft_wrap=True, highlight=False)


async def _deny(picture: str, *, tenant_name: str, reason: str) -> tuple[str, int]:
    async with open_database(max_size=1) as database:
        tenant = await find_tenant(database, tenant_name)
        sha256 = await find_picture(database, tenant.id, picture)
        return sha256, await postgres.deny(database, tenant.id, sha256, reason=reason)


async def _allow(picture: str, *, tenant_name: str) -> str:
    async with open_database(max_size=1) as database:
        tenant = await find_tenant(database, tenant_name)
        sha256 = await find_picture(database, tenant.id, picture)
        if not await postgres.allow(database, tenant.id, sha256):
            raise PictureUnknown(f"{sha256} is not denied.")
    return sha256


async def _list(name: str | None) -> list[postgres.Denial]:
    async with open_database(max_size=1) as database:
        return await postgres.list_denials(database, (await find_tenant(database, name)).id if name else None)
