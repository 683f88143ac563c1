"""`vision-assets line`: which tenants wait for their new posts, which are at work, and which rest after a failure.

What is not here: who comes next (`core/turns.py`), and the runs that take them (the job `new_posts`).
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.postgres.posts import find_tenant_id
from vision_assets.clients.postgres.turns import Standing, end_rests, standing
from vision_assets.core.errors import VisionAssetsError

app = typer.Typer(
    help="The line of tenants with new posts: who waits, who is at work, who rests.", no_args_is_help=True
)

TenantOption = Annotated[str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default all.")]


@app.command()
def show(*, tenant: TenantOption = None) -> None:
    """Show the tenants that have something to do, and why one is not taken."""
    try:
        tenants = asyncio.run(_standing(tenant))
    except VisionAssetsError as error:
        fail(error)
    Console().print(_table(tenants) if tenants else "Nobody is in line: what new posts brought is done.")


@app.command()
def retry(*, tenant: TenantOption = None) -> None:
    """Let tenants that rest after a failure be taken at once; the sensor `new_posts` starts a run for them."""
    try:
        names = asyncio.run(_end_rests(tenant))
    except VisionAssetsError as error:
        fail(error)
    console = Console()
    for name in names:
        console.print(escape(name), soft_wrap=True)
    console.print(f"May be taken at once: {len(names):,} tenants.")


async def _standing(tenant: str | None) -> list[Standing]:
    async with open_database(max_size=1) as database:
        return await standing(database, await find_tenant_id(database, tenant) if tenant else None)


async def _end_rests(tenant: str | None) -> list[str]:
    async with open_database(max_size=1) as database:
        return await end_rests(database, await find_tenant_id(database, tenant) if tenant else None)


def _table(tenants: Sequence[Standing]) -> Table:
    table = Table("tenant", "in line since", "state", title="The line, who waits longest first; times in UTC")
    table.add_column("failed", justify="right")
    table.add_column("the last turn")
    for one in tenants:
        failed = (one.attempts or 0) - (one.run_id is not None) if one.error else 0
        table.add_row(
            escape(one.tenant),
            f"{one.since:%Y-%m-%d %H:%M:%S}" if one.since else "",
            _state(one),
            f"{failed}×" if failed else "",
            escape(one.error or ""),
        )
    return table


def _state(one: Standing) -> str:
    if not one.active:
        return "not active"
    if one.run_id is not None:
        return f"run {one.run_id[:8]} works on it"
    return f"rests until {one.free_at:%H:%M:%S}" if one.rests else "waits"
