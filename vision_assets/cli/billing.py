"""`vision-assets billing`: what tenants were billed for a month.

What is not here: who bills (the asset `billing_usage`), and what a day comes to (`core/billing.py`).
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.postgres.billing import MonthTotal, month_totals
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core.errors import ConfigurationError, VisionAssetsError


def billing(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default all.")] = None,
    month: Annotated[str | None, typer.Option("--month", "-m", help="YYYY-MM, UTC; default the present one.")] = None,
) -> None:
    """Show what was billed for a month, by content type and model. Days are billed when they are over, daily."""
    try:
        first_day = _first_day(month)
        totals = asyncio.run(_totals(tenant, first_day))
    except VisionAssetsError as error:
        fail(error)
    console = Console()
    if not totals:
        console.print(
            f"Nothing was billed for {first_day:%Y-%m}. The schedule daily_billing bills days that are over.",
            soft_wrap=True,
        )
        return
    console.print(_table(totals, first_day))
    if unconfirmed := sum(one.unconfirmed_tokens or 0 for one in totals):
        console.print(
            f"Beside that the provider may have billed up to {unconfirmed:,} tokens, of calls that never came back.",
            soft_wrap=True,
        )


def _first_day(month: str | None) -> date:
    if month is None:
        return datetime.now(UTC).date().replace(day=1)
    try:
        return date.fromisoformat(f"{month}-01")
    except ValueError as error:
        raise ConfigurationError(f"{month!r} is no month: write for example 2026-11.") from error


async def _totals(name: str | None, month: date) -> list[MonthTotal]:
    async with open_database(max_size=1) as database:
        tenant_id = (await find_tenant(database, name)).id if name else None
        return await month_totals(database, month, tenant_id=tenant_id)


def _table(totals: Sequence[MonthTotal], month: date) -> Table:
    table = Table(
        "tenant",
        "what",
        title=f"Billed for {month:%Y-%m}",
        caption=f"through {max(one.last_day for one in totals)} UTC",
    )
    for heading in ("GB-hours", "tokens", "calls", "cost", "days", "restated"):
        table.add_column(heading, justify="right")
    for one in totals:
        table.add_row(
            escape(one.tenant),
            one.content_type or escape(f"{one.provider} {one.model}"),
            "" if one.gb_hours is None else f"{one.gb_hours:,.3f}",
            "" if one.tokens is None else f"{one.tokens:,}",
            "" if one.calls is None else f"{one.calls:,}",
            "" if one.cost_microunits is None else f"{Decimal(one.cost_microunits).scaleb(-6):,.2f} {one.currency}",
            f"{one.days:,}",
            f"{one.restated_days:,}" if one.restated_days else "",
        )
    return table
