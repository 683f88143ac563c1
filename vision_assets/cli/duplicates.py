"""`vision-assets duplicates`: which pictures a tenant has several times, and what the copies take.

What is not here: how clusters are found (`core/clusters.py`), and the HTML file (`contact_sheet.py`).
"""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ByteSize
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from vision_assets.cli.connections import connect_bucket, open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.postgres.clusters import PostgresClusters
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core.clusters import CLUSTERS_SHOWN, Cluster, Duplicates, find_duplicates
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.tenants import Tenant


def duplicates(
    *,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="The tenant's name or id.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Clusters to show, the largest first.")] = CLUSTERS_SHOWN,
    as_json: Annotated[bool, typer.Option("--json", help="Print the clusters as JSON, for machines.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a contact sheet: one HTML file with the pictures in it."),
    ] = None,
) -> None:
    """Show a tenant's clusters of near-duplicates: pictures that are copies of one. Nothing is changed or removed."""
    try:
        found = asyncio.run(_find(tenant, limit, html))
    except (VisionAssetsError, OSError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(_document(found), ensure_ascii=False, indent=2))
    else:
        _show(found, Console())


async def _find(name: str, limit: int, html: Path | None) -> Duplicates:
    if html is not None and not html.parent.is_dir():
        raise ConfigurationError(f"There is no folder {html.parent}: make it, or name another file.")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    async with open_database(max_size=2) as database:
        tenant = await find_tenant(database, name)
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{escape(tenant.name)}: comparing", total=1)
            found = await find_duplicates(
                tenant.id,
                PostgresClusters(database),
                shown=limit,
                on_progress=lambda done: bar.update(task, completed=done),
            )
            if html is not None:
                await _write(html, tenant, found, bar)
    return found


async def _write(html: Path, tenant: Tenant, found: Duplicates, bar: Progress) -> None:
    # Here, because the imaging libraries load slowly, and without a contact sheet none is needed.
    from vision_assets.cli.contact_sheet import contact_sheet  # noqa: PLC0415

    total = sum(len(cluster.pictures) for cluster in found.largest)
    task = bar.add_task(f"{escape(tenant.name)}: contact sheet", total=total)
    sheet = await contact_sheet(
        tenant,
        found,
        store=connect_bucket(),
        now=datetime.now(UTC),
        on_progress=lambda count: bar.advance(task, count),
    )
    await asyncio.to_thread(html.write_text, sheet, encoding="utf-8")


def _document(found: Duplicates) -> dict[str, Any]:
    return {
        "hashes": found.hashes,
        "clusters": found.clusters,
        "pictures": found.pictures,
        "bytes": found.bytes,
        "duplicate_bytes": found.duplicate_bytes,
        "largest": [_cluster(cluster) for cluster in found.largest],
    }


def _cluster(cluster: Cluster) -> dict[str, Any]:
    return {
        "pictures": cluster.count,
        "bytes": cluster.bytes,
        "duplicate_bytes": cluster.duplicate_bytes,
        "first_seen_at": cluster.first_seen_at.isoformat(),
        "shown": [
            {
                "sha256": picture.sha256,
                "mime": picture.mime,
                "bytes": picture.size_bytes,
                "width": picture.width,
                "height": picture.height,
                "first_seen_at": picture.first_seen_at.isoformat(),
                "s3_key": picture.s3_key,
                "link": picture.link,
            }
            for picture in cluster.pictures
        ],
    }


def _show(found: Duplicates, console: Console) -> None:
    if not found.clusters:
        console.print(f"No near-duplicates among {found.hashes:,} hashes.")
        return
    table = Table("pictures", "bytes", "of them copies", "first seen", "largest picture", title="Near-duplicates")
    for column in table.columns[:3]:
        column.justify = "right"
    for cluster in found.largest:
        table.add_row(
            f"{cluster.count:,}",
            _bytes(cluster.bytes),
            _bytes(cluster.duplicate_bytes),
            f"{cluster.first_seen_at:%Y-%m-%d}",
            cluster.pictures[0].sha256[:16],
        )
    console.print(table)
    console.print(
        f"{found.clusters:,} clusters with {found.pictures:,} of {found.hashes:,} pictures; "
        f"the copies take {_bytes(found.duplicate_bytes)}.",
        soft_wrap=True,
    )


def _bytes(size: int) -> str:
    return ByteSize(size).human_readable(separator=" ")
