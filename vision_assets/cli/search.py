"""`vision-assets search`: ask a tenant's index, and show the hits with how they matched.

What is not here: the search itself (`core/search.py`).
"""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database, open_index
from vision_assets.cli.failures import fail
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core import search as core
from vision_assets.core.errors import VisionAssetsError
from vision_assets.core.tenants import Tenant

NOT_READY = "Индексация контента еще не завершена. Попробуйте позже."
SHOWN_CHARACTERS = 160


def search(
    query: Annotated[str, typer.Argument(help="Words in any form; misread ones are found by similarity.")],
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Whose posts: the tenant's name or id.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Hits at most.")] = 10,
) -> None:
    """Search a tenant's posts by their text and by what stands in their pictures."""
    try:
        found = asyncio.run(_search(query, tenant_name=tenant, limit=limit))
    except VisionAssetsError as error:
        fail(error)
    if found is None:
        Console(stderr=True).print(NOT_READY, soft_wrap=True)
        raise typer.Exit(1)
    owner, hits = found
    if hits:
        Console().print(_table(owner, query, hits))
    else:
        Console().print(f"Nothing found for «{escape(query)}».")


async def _search(query: str, *, tenant_name: str, limit: int) -> tuple[Tenant, list[core.Hit]] | None:
    """Find the tenant and ask its index; None as long as there is none."""
    async with open_database(max_size=1) as database:
        tenant = await find_tenant(database, tenant_name)
    async with open_index() as index:
        if not await core.is_ready(tenant.id, index=index):
            return None
        return tenant, await core.search(tenant.id, query, index=index, limit=limit)


def _table(tenant: Tenant, query: str, hits: list[core.Hit]) -> Table:
    title = f"«{escape(query)}» in {escape(tenant.name)}"
    table = Table("score", "matched", "channel", "posted", "text", "in the picture", title=title)
    for hit in hits:
        matched = f"fuzzy, similar: {', '.join(hit.similar)}" if hit.matched == "fuzzy" else hit.matched
        table.add_row(
            f"{hit.score:.3f}",
            escape(matched),
            escape(hit.channel),
            f"{hit.posted_at:%Y-%m-%d %H:%M}",
            escape(_shown(hit.text)),
            escape(_shown(hit.ocr_text) or ", ".join(hit.labels)),
            style="dim" if hit.matched == "fuzzy" else None,
        )
    return table


def _shown(text: str) -> str:
    """Shorten a text to one paragraph of a table."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"
