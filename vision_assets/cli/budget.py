"""`vision-assets budget`: what tenants may spend on paid calls, beside what they have spent.

What is not here: how the limits are held (`core/budget.py`), and their defaults (`settings.py`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.cli.levels import level
from vision_assets.clients.postgres.limits import (
    BudgetUse,
    Prompt,
    budget_by_scope,
    clear_budget_limits,
    set_budget_limits,
    token_counts,
)
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core.budget import EVERYONE, Allowance, BudgetLimits, estimate, resets_at, window_keys
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.tenants import TenantId
from vision_assets.settings import Settings

app = typer.Typer(help="Token budgets: what tenants may spend on paid calls, and what they have.", no_args_is_help=True)

Figure = Annotated[int | None, typer.Option(min=0)]


@app.command()
def show(
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default all.")] = None,
) -> None:
    """Show what is spent and held of each limit today and this month (UTC), and the learned estimates."""
    try:
        asyncio.run(_show(tenant))
    except VisionAssetsError as error:
        fail(error)


@app.command("set")
def set_(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="The tenant's name or id.")] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="All tenants together: the global ceiling.")] = False,
    day_tokens: Figure = None,
    month_tokens: Figure = None,
    day_requests: Figure = None,
    month_requests: Figure = None,
    calls: Annotated[int | None, typer.Option(min=0, help="Calls at once, to each provider.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Let the settings hold again, for all of them.")] = False,
) -> None:
    """Give a tenant, or all together, limits of their own. They hold from the next call on."""
    limits = {
        period: (tokens, requests)
        for period, tokens, requests in (
            ("day", day_tokens, day_requests),
            ("month", month_tokens, month_requests),
            ("calls", None, calls),
        )
        if (tokens, requests) != (None, None)
    }
    try:
        if everyone == (tenant is not None):
            raise ConfigurationError("Say either --tenant or --everyone.")
        if default == bool(limits):
            raise ConfigurationError("Say either --default, or at least one limit (vision-assets budget set --help).")
        asyncio.run(_set(tenant, limits))
    except VisionAssetsError as error:
        fail(error)


async def _set(name: str | None, limits: dict[str, tuple[int | None, int | None]]) -> None:
    async with open_database(max_size=1) as database:
        scope = EVERYONE if name is None else (await find_tenant(database, name)).id
        if limits:
            await set_budget_limits(database, scope, limits)
        else:
            await clear_budget_limits(database, scope)
    await _show(name)


async def _show(name: str | None) -> None:
    settings = Settings()
    today = datetime.now(UTC).date()
    async with open_database(max_size=1) as database:
        tenant_id = (await find_tenant(database, name)).id if name else None
        uses = await budget_by_scope(database, day=today, everyone=EVERYONE, tenant_id=tenant_id)
        counts = await token_counts(database)
    console = Console()
    console.print(_limits(uses, settings.budget_limits(), today))
    if counts:
        console.print(_estimates(counts, floor_tokens=settings.budget_estimate_floor_tokens))


def _limits(uses: Sequence[BudgetUse], limits: BudgetLimits, today: date) -> Table:
    ends = [
        f"{key.period} ends {end:%Y-%m-%d %H:%M} UTC"
        for key in window_keys(EVERYONE, today, provider=None)[:2]
        if (end := resets_at(key))
    ]
    table = Table("tenant", title="Token budget", caption=f"{_CAPTION}; the {' and the '.join(ends)}")
    for heading in ("tokens today", "tokens this month", "requests today", "requests this month", "calls now"):
        table.add_column(heading, justify="right")
    for scope, periods in groupby(uses, key=lambda use: use.scope):
        by_period = {use.period: use for use in periods}
        day, month, calls = (by_period[name] for name in ("day", "month", "calls"))
        if scope == EVERYONE:
            table.add_section()
        table.add_row(
            "[bold]all together[/]" if day.name is None else escape(day.name),
            _tokens(day, limits.of(TenantId(scope), "day")),
            _tokens(month, limits.of(TenantId(scope), "month")),
            _requests(day, limits.of(TenantId(scope), "day")),
            _requests(month, limits.of(TenantId(scope), "month")),
            _requests(calls, limits.of(TenantId(scope), "calls")),
        )
    return table


def _tokens(use: BudgetUse, default: Allowance) -> str:
    own = use.limit_tokens is not None
    return level(use.used_tokens + use.held_tokens, use.limit_tokens if own else default.tokens, _figure, own=own)


def _requests(use: BudgetUse, default: Allowance) -> str:
    own = use.limit_requests is not None
    # Calls at once are bounded for each provider; what was ever called does not count against them.
    taken = use.held_requests + (use.used_requests if use.period != "calls" else 0)
    return level(taken, use.limit_requests if own else default.requests, _figure, own=own)


def _estimates(counts: Mapping[Prompt, Mapping[int, int]], *, floor_tokens: int) -> Table:
    table = Table("provider", "model", "prompt", "settled calls", "tokens held for a call", title="Learned estimates")
    for prompt, calls_by_tokens in counts.items():
        learned = estimate(calls_by_tokens, floor_tokens=floor_tokens)
        how = (
            "the 99th percentile, at least the floor"
            if learned.learned
            else "or the provider's bound: too few calls yet"
        )
        table.add_row(*map(escape, prompt), _figure(learned.calls), f"{_figure(learned.tokens)} ({how})")
    return table


def _figure(number: int) -> str:
    return f"{number:,}"


_CAPTION = "* a limit of its own; the others are settings (vision-assets config)"
