"""`vision-assets search`: ask a tenant's index, and show the hits with how they matched.

What is not here: the search itself (`core/search.py`).
"""

import asyncio
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core import search as core
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.tenants import Tenant
from vision_assets.settings import Settings

NOT_READY = "Индексация контента еще не завершена. Попробуйте позже."
START_PARTS = "Start the embedded parts with `vision-assets up --parts`, or set DATABASE_URL and QDRANT_URL."
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
        _fail(f"[red]{type(error).__name__}[/red]: {escape(str(error))}")
    if found is None:
        _fail(NOT_READY)
    owner, hits = found
    if hits:
        Console().print(_table(owner, query, hits))
    else:
        Console().print(f"Nothing found for «{escape(query)}».")


async def _search(query: str, *, tenant_name: str, limit: int) -> tuple[Tenant, list[core.Hit]] | None:
    """Find the tenant and ask its index; None as long as there is none."""
    from vision_assets.clients.qdrant import QdrantIndex  # noqa: PLC0415 - it takes seconds to load

    settings = Settings()
    if settings.database_url is None or settings.qdrant_url is None:
        raise ConfigurationError(f"There is no database or no search index. {START_PARTS}")
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    async with Database.open(settings.database_url.get_secret_value(), max_size=1) as database:
        tenant = await find_tenant(database, tenant_name)
    async with QdrantIndex(settings.qdrant_url, api_key=key) as index:
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


def _fail(text: str) -> NoReturn:
    Console(stderr=True).print(text, soft_wrap=True)
    raise typer.Exit(1)
