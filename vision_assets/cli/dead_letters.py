"""`vision-assets dead-letters`: what was given up and why, and making it to do again.

What is not here: what happens by itself (`core/dead_letters.py`, the job `dead_letter_retries`).
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
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.dead_letters import (
    OpenItem,
    OpenLetters,
    PostgresDeadLetters,
    open_items,
    open_letters,
)
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core.dead_letters import PASSING, STAGES, Reopened, Selection, reopen
from vision_assets.core.errors import ConfigurationError, VisionAssetsError

app = typer.Typer(help="Items that were given up: why, and trying them again.", no_args_is_help=True)

MAX_ITEMS = 100

TenantOption = Annotated[str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default all.")]
StageOption = Annotated[str | None, typer.Option("--stage", "-s", help="Who gave up, for example vision_results.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", "-r", help="Why, as shown by `list`.")]


@app.command("list")
def list_(
    *,
    tenant: TenantOption = None,
    stage: StageOption = None,
    reason: ReasonOption = None,
    items: Annotated[bool, typer.Option("--items", help=f"Show single items, the newest {MAX_ITEMS}.")] = False,
) -> None:
    """Show what was given up and not done since, by tenant, stage and reason."""
    try:
        if items:
            table = _items(asyncio.run(_open_items(tenant, stage, reason)))
        else:
            table = _letters(asyncio.run(_open_letters(tenant, stage, reason)))
    except VisionAssetsError as error:
        fail(error)
    Console().print(table if table.row_count else "Nothing was given up.")


@app.command()
def retry(
    *,
    tenant: TenantOption = None,
    stage: StageOption = None,
    reason: ReasonOption = None,
    item: Annotated[str | None, typer.Option(help="One item, as shown by `list --items`.")] = None,
) -> None:
    """Make items to do again, whatever their reason; the tenant's next run tries them. Calls of a model cost tokens."""
    try:
        if (tenant, stage, reason, item) == (None, None, None, None):
            raise ConfigurationError("Say which with --tenant, --stage, --reason or --item.")
        if stage is not None and stage not in STAGES:
            raise ConfigurationError(
                f"Items of {stage} cannot be made to do again, those of {', '.join(STAGES)} can. What an import "
                "refused comes again with the next import."
            )
        reopened = asyncio.run(_retry(tenant, stage, reason, item))
    except VisionAssetsError as error:
        fail(error)
    console = Console()
    for one in reopened:
        console.print(f"{one.stage}, {escape(one.reason)}: {one.items:,} of tenant {one.tenant_id}", soft_wrap=True)
    console.print(f"To do again: {sum(one.items for one in reopened):,} items.")


async def _open_letters(tenant: str | None, stage: str | None, reason: str | None) -> list[OpenLetters]:
    async with open_database(max_size=1) as database:
        return await open_letters(database, await _selection(database, tenant, stage, reason))


async def _open_items(tenant: str | None, stage: str | None, reason: str | None) -> list[OpenItem]:
    async with open_database(max_size=1) as database:
        return await open_items(database, await _selection(database, tenant, stage, reason), limit=MAX_ITEMS)


async def _retry(tenant: str | None, stage: str | None, reason: str | None, item: str | None) -> list[Reopened]:
    async with open_database(max_size=1) as database:
        return await reopen(PostgresDeadLetters(database), await _selection(database, tenant, stage, reason, item))


async def _selection(
    database: Database, tenant: str | None, stage: str | None, reason: str | None, item: str | None = None
) -> Selection:
    tenant_id = (await find_tenant(database, tenant)).id if tenant else None
    return Selection(tenant_id, stage, reason, item)


def _letters(letters: Sequence[OpenLetters]) -> Table:
    table = Table("tenant", "stage", "reason", title="Given up")
    for heading in ("items", "to do again", "tried again"):
        table.add_column(heading, justify="right")
    for heading in ("by itself", "last", "for example"):
        table.add_column(heading)
    for one in letters:
        table.add_row(
            escape(one.tenant),
            one.stage,
            escape(one.reason),
            f"{one.items:,}",
            f"{one.reopened:,}" if one.reopened else "",
            f"{one.retries:,}×" if one.retries else "",
            "yes" if one.reason in PASSING.get(one.stage, ()) else "",
            f"{one.last_at:%Y-%m-%d %H:%M}",
            escape(one.message),
        )
    return table


def _items(items: Sequence[OpenItem]) -> Table:
    table = Table("tenant", "stage", "reason", "item", "failed", "last", "message", title="Given up, the newest first")
    for one in items:
        table.add_row(
            escape(one.tenant),
            one.stage,
            escape(one.reason),
            escape(one.item),
            f"{one.attempts:,}×" + (", to do again" if one.reopened_at else ""),
            f"{one.last_at:%Y-%m-%d %H:%M}",
            escape(one.message),
        )
    return table
