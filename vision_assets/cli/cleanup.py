"""`vision-assets cleanup`: remove from S3 what may go, or show what would, with a progress bar and a table.

What is not here: what may go and in which order (`core/cleanup.py`).
"""

import asyncio
from typing import Annotated

import typer
from pydantic import ByteSize
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vision_assets.cli.connections import connect_uploads, guarded_store, open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.postgres.cleanup import PostgresCleanup
from vision_assets.core.cleanup import CleanupReport, Plan, emergency_plan, ttl_plan
from vision_assets.core.cleanup_pass import CleanupPass
from vision_assets.core.errors import VisionAssetsError
from vision_assets.settings import Settings


def cleanup(
    *,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="If the bucket runs full: come down to the target, oldest first.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would go.")] = False,
) -> None:
    """Remove what has outlived its time: crawled pages, results in S3, media that no post refers to, broken uploads."""
    try:
        report = asyncio.run(_clean_up(_plan(Settings(), emergency=emergency), dry_run=dry_run))
    except VisionAssetsError as error:
        fail(error)
    show(report, Console())
    if report.failures or not (report.reached or dry_run):
        raise typer.Exit(1)


def _plan(settings: Settings, *, emergency: bool) -> Plan:
    if emergency:
        return emergency_plan(
            threshold_bytes=settings.storage_emergency_bytes, target_bytes=settings.storage_emergency_target_bytes
        )
    return ttl_plan(
        crawl_days=settings.storage_crawl_ttl_days,
        vision_days=settings.storage_vision_ttl_days,
        media_days=settings.storage_media_ttl_days,
    )


async def _clean_up(plan: Plan, *, dry_run: bool) -> CleanupReport:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeElapsedColumn())
    async with open_database() as database:
        one_pass = CleanupPass(
            plan=plan,
            ledger=PostgresCleanup(database),
            guard=guarded_store(database),
            uploads=connect_uploads(),
            dry_run=dry_run,
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("Looking for what would go" if dry_run else "Removing", total=None)

            def advance(removed_bytes: int) -> None:
                if plan.occasion == "emergency":
                    bar.update(task, total=one_pass.report.taken_before_bytes - plan.target_bytes)
                bar.advance(task, removed_bytes)

            one_pass.on_progress = advance
            return await one_pass.run()


def show(report: CleanupReport, console: Console) -> None:
    """Print what was removed, or would be, by class, and what stands in the way."""
    plan = report.plan
    if not report.needed:
        console.print(
            f"No emergency: {_bytes(report.taken_before_bytes)} are stored or reserved, and "
            f"{_bytes(plan.threshold_bytes or 0)} would be one. Nothing was looked for.",
            soft_wrap=True,
        )
        return
    heading = "Would be removed" if report.dry_run else "Removed"
    table = Table(heading, "tenants", "objects", "bytes", title="Clean-up" + (", dry run" if report.dry_run else ""))
    for column in table.columns[1:]:
        column.justify = "right"
    totals = report.totals()
    for total in totals:
        table.add_row(LABELS[total.name], f"{total.tenants:,}", f"{total.objects:,}", _bytes(total.bytes))
    table.add_section()
    tenants = {tenant_id for _, tenant_id in report.removed if tenant_id is not None}
    table.add_row(
        "together",
        f"{len(tenants):,}",
        f"{sum(total.objects for total in totals):,}",
        _bytes(sum(total.bytes for total in totals)),
    )
    console.print(table)
    goal = f"; the target is {_bytes(plan.target_bytes)}" if plan.occasion == "emergency" else ""
    console.print(
        f"Stored or reserved: {_bytes(report.taken_before_bytes)} before, {_bytes(report.taken_after_bytes)} "
        f"{'then' if report.dry_run else 'now'}{goal}.",
        soft_wrap=True,
    )
    if not report.reached:
        console.print("[red]The target is not reached[/]: posts refer to the rest, or it is too young.", soft_wrap=True)
    if left := report.left.total():
        console.print(f"{left:,} were left: something uses them now.", soft_wrap=True)
    for failure in report.failures:
        console.print(f"[red]failed[/]: {escape(failure)}", soft_wrap=True)


LABELS = {
    "crawl": "crawled pages",
    "vision": "results and albums' summaries",
    "media": "media that no post refers to",
    "multipart": "uploads never completed",
}


def _bytes(size_bytes: int) -> str:
    return ByteSize(size_bytes).human_readable(separator=" ")
