"""`vision-assets demo`: the main job on the shipped examples, with embedded parts, and what came out.

What is not here: the work itself; every figure is read from the database and the search index afterwards.
"""

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database, open_index
from vision_assets.cli.failures import fail
from vision_assets.cli.materialize import materialize_tenant
from vision_assets.clients.postgres.overview import Counters, Overview, read_counters, read_overview
from vision_assets.clients.postgres.posts import PostgresPosts, ensure_tenant
from vision_assets.clients.telegram_export import TelegramExport
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.importing import ImportReport, import_posts
from vision_assets.core.search import Hit, search
from vision_assets.core.tenants import Tenant
from vision_assets.devstack.parts import running_parts, status
from vision_assets.settings import PROJECT_ROOT, data_dir

EXAMPLES = {"City Walks": "city_walks", "Dev Digest": "dev_digest"}
"""Tenant → folder of its export below `examples/`."""

SEARCHES_SHOWN = 3
NO_OCR = "Install tesseract-ocr and tesseract-ocr-rus and run again: the pictures are then looked at anew."
OVERVIEW_ROWS = {
    "posts": "posts",
    "media_references": "picture references",
    "media_objects": "pictures stored, once each",
    "results": "pictures with a result",
    "reused": "of these from a near-duplicate",
    "posts_enriched": "posts enriched",
    "points": "posts in the search index",
    "dead_letters": "dead letters",
}


def demo(
    tenants: Annotated[
        str, typer.Option(help="Comma-separated names of the example tenants to take; all when empty.")
    ] = "",
) -> None:
    """Run the main job on the shipped examples and show what came out. Again does only what is not done."""
    console = Console()
    started = time.monotonic()
    try:
        wanted = _chosen(tenants)
        with console.status("Starting the embedded parts"), running_parts():
            names = ", ".join(part.name for part in status() if part.state != "stopped")
            console.print(f"[green]✓[/green] {names} run ({time.monotonic() - started:.1f} s)", highlight=False)
            failed = _run(wanted, console)
    except VisionAssetsError as error:
        fail(error)
    if failed:
        console.print(f"[red]Failed: {escape(', '.join(failed))}[/red]. `make up` shows the runs and their logs.")
        raise typer.Exit(1)
    console.print(
        f"\nDone in {time.monotonic() - started:.1f} s. The figures are in {data_dir() / 'demo.json'}.\n"
        "[bold]make up[/bold] opens the Dagster UI over this data, until Ctrl-C; "
        "[bold]vision-assets search QUERY --tenant NAME[/bold] asks the index (after `vision-assets up --parts`)."
    )


def _chosen(tenants: str) -> dict[str, Path]:
    names = [name.strip() for name in tenants.split(",") if name.strip()] or list(EXAMPLES)
    if unknown := [name for name in names if name not in EXAMPLES]:
        raise ConfigurationError(f"No example tenant is called {', '.join(unknown)}; there are {', '.join(EXAMPLES)}")
    return {name: PROJECT_ROOT / "examples" / EXAMPLES[name] for name in names}


def _run(wanted: dict[str, Path], console: Console) -> list[str]:
    """Import, materialize and report.

    Returns:
        Names of the tenants whose run failed.
    """
    before = asyncio.run(_import(wanted, console))
    failed = [tenant.name for tenant in before if not materialize_tenant(tenant, console=console)]
    figures = asyncio.run(_figures(before, console))
    (data_dir() / "demo.json").write_text(json.dumps(figures, ensure_ascii=False, indent=2) + "\n")
    return failed


async def _import(wanted: dict[str, Path], console: Console) -> dict[Tenant, Counters]:
    before: dict[Tenant, Counters] = {}
    async with open_database(max_size=2) as database:
        for name, folder in wanted.items():
            tenant = await ensure_tenant(database, name)
            before[tenant] = await read_counters(database, tenant.id)
            with console.status(f"Importing {name}"):
                report = await import_posts(tenant.id, TelegramExport(folder), store=PostgresPosts(database))
            if report.failure:
                raise report.failure
            console.print(f"[green]✓[/green] {name}: {_imported(report)}")
    return before


def _imported(report: ImportReport) -> str:
    return (
        f"{report.messages_read} messages read, {report.posts_new} posts and {report.media_new} pictures new, "
        f"{report.posts_unchanged} posts already there, {report.albums_inferred} albums inferred"
    )


async def _figures(before: dict[Tenant, Counters], console: Console) -> dict[str, Any]:
    """Read and print how each tenant stands and what this run did."""
    queries = json.loads((PROJECT_ROOT / "examples" / "queries.json").read_text())
    figures: dict[str, Any] = {"tenants": {}}
    async with open_database(max_size=1) as database, open_index() as index:
        for tenant, earlier in before.items():
            overview = await read_overview(database, tenant.id)
            this_run = await read_counters(database, tenant.id) - earlier
            searches = [
                (query["query"], await search(tenant.id, query["query"], index=index, limit=3))
                for query in queries[tenant.name][:SEARCHES_SHOWN]
            ]
            _print_tenant(tenant, overview, this_run, searches, console)
            figures["tenants"][tenant.name] = {
                "id": str(tenant.id),
                **asdict(overview),
                "this_run": asdict(this_run),
                "searches": {query: [hit.text for hit in hits] for query, hits in searches},
            }
            if overview.ocr.get("unavailable"):
                console.print(f"[yellow]No text was read in the pictures of {escape(tenant.name)}.[/yellow] {NO_OCR}")
    runs = [tenant["this_run"] for tenant in figures["tenants"].values()]
    figures["this_run"] = {name: sum(run[name] for run in runs) for name in runs[0]}
    console.print("This run: " + ", ".join(f"{value} {name}" for name, value in figures["this_run"].items()))
    return figures


def _print_tenant(
    tenant: Tenant, overview: Overview, this_run: Counters, searches: list[tuple[str, list[Hit]]], console: Console
) -> None:
    table = Table("", "figure", title=f"\n{escape(tenant.name)}  [dim]{tenant.id}[/dim]", title_justify="left")
    for name, label in OVERVIEW_ROWS.items():
        table.add_row(label, str(getattr(overview, name)))
    for label, counts in {
        "references by state": overview.states,
        "what the pictures are": overview.kinds,
        "text in the pictures": overview.ocr,
        "kept from the provider": overview.decisions,
    }.items():
        table.add_row(label, ", ".join(f"{name} {value}" for name, value in counts.items()) or "none")
    table.add_row(
        "bytes by type", ", ".join(f"{name} {value:,}" for name, value in overview.bytes_by_type.items()) or "none"
    )
    table.add_row("this run", ", ".join(f"{value} {name}" for name, value in asdict(this_run).items()))
    for text in overview.texts:
        table.add_row("text found", escape(_line(text)))
    for query, hits in searches:
        found = "\n".join(f"{number}. {escape(_line(hit.text))}" for number, hit in enumerate(hits, 1))
        table.add_row(f"search «{escape(query)}»", found or "nothing")
    console.print(table)


def _line(text: str, *, width: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
