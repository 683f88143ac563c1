"""`vision-assets explain`: why a picture has the result that it has, and whose result it did not take.

What is not here: the decisions themselves (`core/reuse.py`), and the page of `--html` (`explain_page.py`).
"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from vision_assets.cli.connections import connect_bucket, open_database
from vision_assets.cli.explain_page import page
from vision_assets.cli.failures import fail
from vision_assets.cli.reuse import PictureArgument, TenantOption
from vision_assets.clients.postgres import explain as postgres
from vision_assets.clients.postgres.explain import Explained
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.clients.postgres.reuse import read_denials
from vision_assets.core.errors import ConfigurationError, VisionAssetsError

HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page that shows both pictures of each decision side by side."),
]


def explain(picture: PictureArgument, *, tenant: TenantOption, html: HtmlOption = None) -> None:
    """Tell what a picture is, where its result comes from, and why each candidate's result was taken or not."""
    try:
        found, denier, content = asyncio.run(_explain(picture, tenant_name=tenant, with_page=html is not None))
        if html is not None:
            _write(html, content)
    except VisionAssetsError as error:
        fail(error)
    _show(found, denier, Console())
    if html is not None:
        Console().print(f"Written: {escape(str(html))}", soft_wrap=True, highlight=False)


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from error


async def _explain(picture: str, *, tenant_name: str, with_page: bool) -> tuple[Explained, str | None, str]:
    async with open_database(max_size=1) as database:
        tenant = await find_tenant(database, tenant_name)
        sha256 = await postgres.find_picture(database, tenant.id, picture)
        found = await postgres.explain(database, tenant.id, sha256)
        denials = await read_denials(database, tenant.id)
    phash = found.picture.phash
    denier = denials.of(sha256, int(phash, 16) if phash else None)
    content = await page(found, tenant_name=tenant.name, store=connect_bucket()) if with_page else ""
    return found, denier, content


def _show(found: Explained, denier: str | None, console: Console) -> None:
    picture = found.picture
    table = Table("picture", Column(picture.sha256, overflow="fold"))
    table.add_row("file", f"{picture.mime}, {picture.width}×{picture.height}, {picture.bytes:,} bytes")
    table.add_row("stored", f"{picture.s3_key}, first {_moment(picture.first_seen_at)}")
    hashed = f"{picture.phash}, quality {_quality(picture.quality)} ({picture.algorithm})"
    table.add_row("hash", hashed if picture.phash else "none")
    if picture.phash:
        table.add_row("matched", f"never: {', '.join(picture.flags)}" if picture.flags else "within 6 bits of 64")
    table.add_row("denied", f"by {'an operator' if denier == 'operator' else denier}" if denier else "no")
    table.add_row("its result went to", f"{picture.taken_by:,}")
    console.print(table)
    if found.results:
        results = _table("by", "result", "how", "kind", "tokens", "at", title="Results")
        for one in found.results:
            results.add_row(
                escape(f"{one.provider} {one.model}"),
                f"{one.status}{f': {one.reason}' if one.reason else ''}",
                f"{one.method}{f' of {one.donor_sha256[:12]}' if one.donor_sha256 else ''}",
                one.kind or "",
                f"{one.tokens_used:,}",
                _moment(one.analyzed_at),
            )
        console.print(results)
    else:
        console.print("It has no result yet.")
    if not found.decisions:
        console.print("No other picture's result was at hand, or none was looked for.")
        return
    console.print(_decisions(found))


def _decisions(found: Explained) -> Table:
    table = _table("candidate", "verdict", "distances", "quality", "decided", title="Candidates for a reuse")
    for one in found.decisions:
        verdict = f"{one.verdict}: {one.reason}"
        table.add_row(
            f"{one.candidate_sha256[:12]}{'' if one.s3_key else ' (gone)'}",
            f"[green]{verdict}[/]" if one.verdict == "reused" else verdict,
            f"{one.distance_bits} of 64 bits, {one.distance_256_bits} of 256, cells {one.cell_difference:.1f} of 255, "
            f"aspect {one.aspect_difference:.1%}",
            _quality(one.quality),
            escape(f"{one.strictness}, {one.provider} {one.model}, {_moment(one.decided_at)}"),
        )
    return table


def _table(*columns: str, title: str) -> Table:
    """Make one that stays legible in 80 columns."""
    table = Table(title=title, show_lines=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _quality(quality: float | None) -> str:
    return "not known" if quality is None else f"{quality:.2f}"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
