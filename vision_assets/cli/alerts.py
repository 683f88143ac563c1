"""`vision-assets alerts`: what is wrong now, what people were told, and whether it arrived.

What is not here: when people are told (`core/alerts.py`), and how (`core/alert_delivery.py`).
"""

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vision_assets.cli.connections import open_database
from vision_assets.cli.failures import fail
from vision_assets.clients.alert_channels import AlertAccess
from vision_assets.clients.postgres.alerts import PostgresAlerts
from vision_assets.clients.postgres.deliveries import MessageReport, open_alerts, recent_messages
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.core.alert_messages import AlertMessage, Told, Topic
from vision_assets.core.alerts import AlertKey, AlertState, Transition
from vision_assets.core.errors import ConfigurationError, VisionAssetsError
from vision_assets.settings import Settings

app = typer.Typer(help="Alerts: what is wrong now, and what people were told.", no_args_is_help=True)

NO_CHANNEL = (
    "Alerts go nowhere, they stay in the database and the log: set TELEGRAM_BOT_TOKEN and ALERT_TELEGRAM_CHAT_ID, or "
    "ALERT_WEBHOOK_URL."
)


def alert_access(settings: Settings) -> AlertAccess:
    """Tell where alerts go."""
    return AlertAccess(
        telegram_token=settings.telegram_bot_token,
        telegram_chat_id=settings.alert_telegram_chat_id,
        telegram_api_url=settings.telegram_api_url,
        webhook_url=settings.alert_webhook_url,
    )


@app.command()
def show(
    limit: Annotated[int, typer.Option("--last", min=1, help="Messages to show, the newest first.")] = 20,
) -> None:
    """Show what is wrong now, and the last messages with what became of them."""
    try:
        asyncio.run(_show(limit))
    except VisionAssetsError as error:
        fail(error)


@app.command()
def close(
    what: Annotated[str, typer.Argument(help="As `alerts show` has it: asset and check, or asset or job alone.")],
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="One tenant's name or id; default all.")] = None,
) -> None:
    """Close alerts that nobody will resolve: of a check or a job that is no more, or of work that is given up."""
    try:
        asyncio.run(_close(what, tenant))
    except VisionAssetsError as error:
        fail(error)


@app.command()
def test() -> None:
    """Send a message over each channel, and tell whether it arrived."""
    try:
        asyncio.run(_test())
    except VisionAssetsError as error:
        fail(error)


async def _show(limit: int) -> None:
    console = Console()
    async with open_database(max_size=1) as database:
        wrong = await open_alerts(database)
        messages = await recent_messages(database, limit=limit)
    if wrong:
        table = Table("since", "what", "tenant", "severity", "message", title="Wrong now")
        for state, tenant in wrong:
            table.add_row(*map(escape, _of_state(state, tenant)))
        console.print(table)
    else:
        console.print("Nothing is wrong, as far as checks and runs tell.")
    if messages:
        table = Table("told", "what", "arrived", title="Last messages")
        for report in messages:
            table.add_row(*map(escape, _of_message(report)))
        console.print(table)
    if not alert_access(Settings()).names():
        console.print(NO_CHANNEL)


async def _close(what: str, tenant: str | None) -> None:
    async with open_database(max_size=1) as database:
        partition = str((await find_tenant(database, tenant)).id) if tenant else None
        closed = await PostgresAlerts(database).close(
            lambda key: _what(key) == what and partition in (None, key.partition), now=datetime.now(UTC)
        )
    if not closed:
        raise ConfigurationError(f"No such alert is open: {what!r}. `vision-assets alerts show` lists those that are.")
    typer.echo(f"Closed: {closed}. People are told at the next tick of the sensor asset_check_alerts.")


def _what(key: AlertKey) -> str:
    return f"{key.subject} {key.check}".strip()


def _of_state(state: AlertState, tenant: str | None) -> tuple[str, str, str, str, str]:
    severity = f"{state.severity or 'well'}{', changes all the time' if state.is_flapping else ''}"
    since = state.opened_at or state.evaluated_at
    return _moment(since), _what(state.key), tenant or state.key.partition, severity, state.message


def _of_message(report: MessageReport) -> tuple[str, str, str]:
    arrived = [
        f"{one.channel}: {one.state}"
        + (f", next {_moment(one.next_at)}" if one.state == "pending" and one.attempts else "")
        + (f" ({one.error})" if one.error and one.state != "sent" else "")
        for one in report.deliveries
    ]
    return _moment(report.created_at), report.message.title(), "\n".join(arrived) or "no channel was set"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


async def _test() -> None:
    settings, now = Settings(), datetime.now(UTC)
    key = AlertKey("check", "vision_assets", "test_message", "")
    text = "Sent with `vision-assets alerts test`: alerts arrive here."
    transition = Transition(key, "resolved", "test", None, "warn", text, "", now, now)
    topic = Topic(key.source, key.subject, key.check, transition.kind)
    message = AlertMessage(uuid4(), topic, [Told(transition)], settings.dagster_ui_url)
    async with alert_access(settings).open() as channels:
        if not channels:
            raise ConfigurationError(NO_CHANNEL)
        outcomes = {channel.name: await channel.send(message, 0) for channel in channels}
    for name, outcome in outcomes.items():
        typer.echo(f"{name}: {outcome.state}" + (f" ({outcome.error})" if outcome.error else ""))
    if any(outcome.state != "sent" for outcome in outcomes.values()):
        raise typer.Exit(1)
