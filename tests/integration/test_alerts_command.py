"""`vision-assets alerts`, as it is typed, on the real Postgres and over real HTTP."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner, Result

from tests.alert_receivers import CHAT, EmulatedTelegram, WebhookReceiver, emulated_telegram, webhook_receiver
from vision_assets.cli import app
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.alerts import PostgresAlerts
from vision_assets.clients.postgres.deliveries import PostgresDeliveries, recent_messages
from vision_assets.clients.postgres.posts import ensure_tenant
from vision_assets.core.alert_delivery import ChannelName
from vision_assets.core.alerts import AlertKey, AlertRules, Evaluation
from vision_assets.devstack.telegram import TOKEN

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHANNELS: tuple[ChannelName, ...] = ("telegram", "webhook")


@pytest.fixture
def telegram() -> Iterator[EmulatedTelegram]:
    """The emulated Bot API."""
    with emulated_telegram() as server:
        yield server


@pytest.fixture
def webhook() -> Iterator[WebhookReceiver]:
    """A webhook."""
    with webhook_receiver() as receiver:
        yield receiver


def typed(*arguments: str) -> Result:
    """Type a command, in a wide terminal."""
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, ["alerts", *arguments])


@pytest.fixture
def both_set(monkeypatch: pytest.MonkeyPatch, telegram: EmulatedTelegram, webhook: WebhookReceiver) -> None:
    """Settings with both channels."""
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
    monkeypatch.setenv("TELEGRAM_API_URL", telegram.url)
    monkeypatch.setenv("ALERT_TELEGRAM_CHAT_ID", CHAT)
    monkeypatch.setenv("ALERT_WEBHOOK_URL", webhook.secret_url.get_secret_value())


@pytest.mark.usefixtures("both_set")
def test_a_test_message_arrives(telegram: EmulatedTelegram, webhook: WebhookReceiver) -> None:
    """Over both channels, as something that is well, so that nobody is left with an open alert."""
    result = typed("test")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["telegram: sent", "webhook: sent"]
    assert telegram.titles() == ["🟢 Resolved: test_message of vision_assets"]
    assert webhook.accepted() == [("resolved", ["resolved"])]


@pytest.mark.usefixtures("both_set")
def test_secrets_may_have_blanks_around_them(monkeypatch: pytest.MonkeyPatch, webhook: WebhookReceiver) -> None:
    """As they come from a file, with the end of its line."""
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", f"{TOKEN}\n")
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f" {webhook.secret_url.get_secret_value()}\n")
    assert typed("test").stdout.splitlines() == ["telegram: sent", "webhook: sent"]


@pytest.mark.usefixtures("both_set")
def test_a_test_message_that_does_not_arrive_says_why(telegram: EmulatedTelegram, webhook: WebhookReceiver) -> None:
    """The command fails, and names what to check; the other channel is tried all the same."""
    telegram.set_faults({"kind": "forbidden"})
    result = typed("test")
    assert result.exit_code == 1
    assert "telegram: not_sent (Telegram says 403: Forbidden: bot was blocked by the user" in result.stdout
    assert TOKEN not in result.output
    assert len(webhook.requests) == 1


@pytest.mark.parametrize(
    ("settings", "said"), [({}, "ALERT_WEBHOOK_URL"), ({"ALERT_TELEGRAM_CHAT_ID": CHAT}, "TELEGRAM_BOT_TOKEN")]
)
def test_without_a_channel_it_says_what_to_set(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No channel, or one that is set by half."""
    for name in ("TELEGRAM_BOT_TOKEN", "ALERT_TELEGRAM_CHAT_ID", "ALERT_WEBHOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    result = typed("test")
    assert result.exit_code == 1
    assert said in result.stderr


def test_what_is_wrong_and_what_was_told(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open alerts with tenant, severity and text; messages with what became of each over each channel."""
    monkeypatch.setenv("DATABASE_URL", database)
    assert "Nothing is wrong" in typed("show").stdout

    async def fail() -> None:
        async with Database.open(database) as opened:
            tenant = await ensure_tenant(opened, "[b]Бета")
            key = AlertKey("check", "tenant_storage_usage", "quota_below_limit", str(tenant.id))
            wrong = Evaluation(key, "warn", "90.0% is [taken].", NOON, 1)
            other = Evaluation(AlertKey("run", "job tidying", "", ""), "error", "There is no room.", NOON, 2)
            await PostgresAlerts(opened, CHANNELS).take_in([wrong, other], rules=AlertRules(), now=NOON)
            book = PostgresDeliveries(opened)
            first = await book.first("telegram", now=NOON)
            assert first
            await book.begin(first, "telegram")
            await book.end(first, "telegram", "unknown", now=NOON, error="it hung")
            same = await book.first("webhook", now=NOON)
            assert same
            await book.begin(same, "webhook")
            await book.wait(same, "webhook", until=NOON + timedelta(minutes=5), error="it says 500")

    asyncio.run(fail())
    result = typed("show")
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.stdout.splitlines() if "90.0%" in line]
    for text in ("2026-03-01 12:00 UTC", "tenant_storage_usage quota_below_limit", "[b]Бета", "warn", "is [taken]."):
        assert text in line
    assert "telegram: unknown (it hung)" in result.stdout
    assert "webhook: pending, next 2026-03-01 12:05 UTC (it says 500)" in result.stdout
    assert "There is no room." in result.stdout
    last = typed("show", "--last", "1").stdout
    assert "runs of job tidying" in last
    assert "it hung" not in last


def test_what_nobody_will_resolve_is_closed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it is and whose; people are told, and a later failure opens it again."""
    monkeypatch.setenv("DATABASE_URL", database)

    async def fail(number: int) -> None:
        async with Database.open(database) as opened:
            wrong = []
            for name in ("Alpha", "Beta"):
                tenant = await ensure_tenant(opened, name)
                key = AlertKey("check", "tenant_storage_usage", "quota_below_limit", str(tenant.id))
                at = datetime.now(UTC) + timedelta(seconds=number)
                wrong.append(Evaluation(key, "warn", f"{name} is full.", at, number))
            await PostgresAlerts(opened).take_in(wrong, rules=AlertRules(), now=at)

    asyncio.run(fail(1))
    what = "tenant_storage_usage quota_below_limit"
    assert typed("close", what, "--tenant", "Alpha").stdout.startswith("Closed: 1. ")
    shown = typed("show").stdout
    assert "Resolved" not in shown  # the sensor, which knows where alerts go, is to say so
    assert "Alpha is full." not in shown
    assert "Beta is full." in shown
    again = typed("close", what, "--tenant", "Alpha")
    assert again.exit_code == 1
    assert "No such alert is open" in again.stderr

    async def tick() -> list[tuple[str, str]]:
        async with Database.open(database) as opened:
            now = datetime.now(UTC) + timedelta(seconds=2)
            await PostgresAlerts(opened, ("webhook",)).take_in([], rules=AlertRules(), now=now)
            [last] = await recent_messages(opened, limit=1)
            return [(last.message.title(), one.channel) for one in last.deliveries]

    told = "🟢 Resolved: quota_below_limit of tenant_storage_usage, Alpha"
    assert asyncio.run(tick()) == [(told, "webhook")]
    asyncio.run(fail(60))
    assert "Alpha is full." in typed("show").stdout
    assert typed("close", what).stdout.startswith("Closed: 2. ")
    assert "Nothing is wrong" in typed("show").stdout


def test_the_configuration_says_that_alerts_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a channel is set."""
    for name in ("TELEGRAM_BOT_TOKEN", "ALERT_TELEGRAM_CHAT_ID", "ALERT_WEBHOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    runner = CliRunner(env={"COLUMNS": "250"})
    assert "Alerts go nowhere" in runner.invoke(app, ["config"]).stdout
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "https://user:pa55word@example.test/s3cr3t")
    shown = runner.invoke(app, ["config"]).stdout
    assert "Alerts go nowhere" not in shown
    assert "pa55word" not in shown
    assert "s3cr3t" not in shown


def test_a_webhook_without_a_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting, and does not show it."""
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "example.test/s3cr3t")
    result = typed("test")
    assert result.exit_code == 1
    assert "ALERT_WEBHOOK_URL" in result.stderr
    assert "s3cr3t" not in result.output
