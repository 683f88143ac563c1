"""`vision-assets quote`: what a backfill of `vision_results` will take, before a token is spent.

What is not here: how that is worked out (`core/quoting.py`, `core/quote.py`).
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.policy_file import read_policy
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.clients.postgres.posts import find_tenant, list_tenants
from vision_assets.clients.postgres.quote import PostgresQuote
from vision_assets.core.budget import EVERYONE, Window, window_keys
from vision_assets.core.budget_gate import BudgetGate
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.policy_settings import with_tenant_settings
from vision_assets.core.quote import ASSUMED_SECONDS, Quote, Work, total
from vision_assets.core.quoting import Quoting
from vision_assets.core.tenants import Tenant
from vision_assets.settings import Settings


def quote(
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default: all that are active.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, for machines.")] = False,
) -> None:
    """Tell what a backfill of vision_results will take: calls, tokens, cost and time. Nothing is spent or changed."""
    try:
        found = asyncio.run(_quote_all(tenant))
    except VisionAssetsError as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(found.document(), ensure_ascii=False, indent=2))
    else:
        _show(found, Console())
    if found.failed:
        names = ", ".join(found.failed)
        fail(ConfigurationError(f"Without {names}:\n" + "\n".join(map(str, found.failed.values()))))


@dataclass(slots=True)
class _Quotes:
    """Quotes by tenant.

    Attributes:
        everyone: Windows of all tenants together.
        failed: Tenants whose settings are wrong.
    """

    by_tenant: dict[str, Quote] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    everyone: Sequence[Window] = ()
    failed: dict[str, ConfigurationError] = field(default_factory=dict)

    @property
    def total(self) -> Quote | None:
        """Of all of them; None: there is no tenant."""
        return total(list(self.by_tenant.values()), self.everyone) if self.by_tenant else None

    def document(self) -> Mapping[str, object]:
        """Lay everything out for machines."""
        tenants = [
            {"tenant": name, "tenant_id": self.ids[name], **one.document()} for name, one in self.by_tenant.items()
        ]
        return {"tenants": tenants, "total": self.total.document() if self.total else None}


async def _quote_all(name: str | None) -> _Quotes:
    settings = Settings()
    of_all = read_policy(settings.vision_policy_file).policy
    found = _Quotes()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with open_database() as database:
        tenants = [await find_tenant(database, name)] if name else await list_tenants(database)
        keys = [key for key in window_keys(EVERYONE, datetime.now(UTC).date(), provider=None) if key.scope == EVERYONE]
        found.everyone = await PostgresBudget(database).windows(keys, limits=settings.budget_limits())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            for tenant in tenants:
                try:
                    one = await _quote_one(tenant, database, settings, of_all, bar)
                except ConfigurationError as error:
                    found.failed[tenant.name] = error
                else:
                    found.by_tenant[tenant.name], found.ids[tenant.name] = one, str(tenant.id)
    return found


async def _quote_one(
    tenant: Tenant, database: Database, settings: Settings, of_all: VisionPolicy, bar: Progress
) -> Quote:
    # Here, because the imaging libraries load slowly, and most commands need none.
    from vision_assets.clients.provider_choice import choose_provider, provider_identity  # noqa: PLC0415

    policy = with_tenant_settings(of_all, tenant.settings, tenant_name=tenant.name)
    name, model = choose_provider(
        policy,
        provider=settings.provider,
        gigachat_model=settings.gigachat_model,
        openai_model=settings.openai_model,
    )
    gate = BudgetGate(
        PostgresBudget(database),
        settings.budget_limits(name),
        estimate_floor_tokens=settings.budget_estimate_floor_tokens,
    )
    async with provider_identity(name, model, policy, ocr_languages=settings.ocr_languages) as provider:
        quoting = Quoting(
            tenant_id=tenant.id,
            provider=provider,
            ledger=PostgresQuote(database),
            policy=policy,
            gate=gate,
            has_local=name != "local",
            concurrency=settings.vision_concurrency,
            price=settings.token_prices().get(name),
        )
        task = bar.add_task(escape(tenant.name), total=await quoting.count())
        quoting.on_progress = lambda done: bar.advance(task, done)
        return await quoting.quote()


def _show(found: _Quotes, console: Console) -> None:
    total_of_all = found.total
    if total_of_all is None:
        console.print("There is no tenant yet: import an export first.")
        return
    if not total_of_all.work.media:
        console.print("Nothing to do: every picture has its result, or a decision why it gets none.")
        return
    rows = [(escape(name), one) for name, one in found.by_tenant.items()]
    console.print(
        _table(
            "Pictures to do",
            ("to do", "result\nis there", "near-\nduplicates", "skipped", "text\nonly", "looked\nat"),
            [(name, _pictures(one.work)) for name, one in rows],
            _pictures(total_of_all.work),
        )
    )
    if total_of_all.work.skipped:
        reasons = Table("reason", "pictures", title="Skipped by the policy")
        reasons.columns[1].justify = "right"
        for reason, count in sorted(total_of_all.work.skipped.items(), key=lambda item: (-item[1], item[0])):
            reasons.add_row(reason, f"{count:,}")
        console.print(reasons)
    takes = _table(
        "What that takes",
        ("calls", "tokens", f"cost\n{total_of_all.currency or ''}", "calls\ntoday", "days of\nbudget", "time"),
        [(name, _taken(one)) for name, one in rows],
        _taken(total_of_all),
    )
    takes.caption = _caption(total_of_all)
    console.print(takes)


def _table(
    title: str, headings: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], last: Sequence[str]
) -> Table:
    """Lay figures out, with the total below; in a narrow terminal they are folded, never cut."""
    table = Table("tenant", title=title)
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for name, figures in rows:
        table.add_row(name, *figures)
    table.add_section()
    table.add_row("[bold]total[/]", *last)
    return table


def _pictures(work: Work) -> list[str]:
    figures = (
        work.media,
        work.in_storage + work.kept,
        work.near_duplicates,
        sum(work.skipped.values()),
        work.text_only,
        work.analyses,
    )
    return [f"{figure:,}" for figure in figures]


def _taken(one: Quote) -> list[str]:
    return [
        _up_to(f"{one.calls:,}", f"{one.calls_at_most:,}"),
        _up_to(f"{one.tokens:,}", f"{one.tokens_at_most:,}"),
        _cost(one),
        f"{one.calls_today:,}",
        "more than ten years" if one.days is None else f"{one.days:,}",
        str(timedelta(seconds=round(one.seconds))),
    ]


def _up_to(expected: str, at_most: str) -> str:
    return expected if expected == at_most else f"{expected}\n≤ {at_most}"


def _cost(one: Quote) -> str:
    if one.cost_microunits is None or one.cost_at_most_microunits is None:
        return "no price set"
    return _up_to(f"{one.cost_microunits / 1e6:,.2f}", f"{one.cost_at_most_microunits / 1e6:,.2f}")


def _caption(one: Quote) -> str:
    tokens = (
        f"Tokens: the mean of {one.settled_calls:,} settled calls."
        if one.settled_calls
        else "Tokens: the bound at which calls are held, since none has been settled yet."
    )
    seconds = (
        f"Time: by {one.measured_calls:,} measured calls."
        if one.measured_calls
        else f"Time: no call measured yet; {ASSUMED_SECONDS:.0f} s a call are assumed."
    )
    at_most = "≤: should no answer be reused, each call at its bound."
    return "\n".join([*([tokens, at_most] if one.calls else []), seconds, "Days are UTC, today included."])
