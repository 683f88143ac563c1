"""The sensors that tell people, over a real log of Dagster on Postgres: checks, failed runs, and what is sent.

What is not here: what of a run failed, and whether it has been done since (`test_failed_runs.py`).
"""

from collections.abc import Iterator

import dagster as dg
import pytest

from tests.alert_office import Office, opened_office
from tests.alert_receivers import CHAT, EmulatedTelegram, WebhookReceiver, emulated_telegram, webhook_receiver
from vision_assets.core.errors import ConfigurationError, DatabaseUnavailable
from vision_assets.defs.alerts import alert_delivery, asset_check_alerts, run_failure_alerts
from vision_assets.devstack.telegram import TOKEN
from vision_assets.resources import AlertsResource


@pytest.fixture
def office(bare_database: str, database: str) -> Iterator[Office]:
    """An office with three tenants."""
    with opened_office(bare_database, database) as opened:
        yield opened


def test_checks_of_runs_and_without_runs(office: Office) -> None:
    """Both are told, tenant by tenant, with text and severity; the next tick finds nothing new."""
    run_id = office.run("stored", "Alpha", "Gamma", bad=("Beta",))
    office.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("stored"),
            check_name="by_hand",
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            partition=office.tenants["Gamma"],
        )
    )
    assert "4 outcomes of checks were read. 2 changes, 2 messages." in office.tick(asset_check_alerts)
    assert office.told() == [("opened", "stored", ["Beta"]), ("opened", "stored", ["Gamma"])]
    first, second = [report.message.told[0].transition for report in office.reports()]
    assert (first.key.check, first.severity, first.run_id) == ("is_good", "error", run_id)
    assert first.message == f"{office.tenants['Beta']} looked at"
    assert (second.key.check, second.severity, second.run_id) == ("by_hand", "warn", "")
    assert "0 changes, 0 messages" in office.tick(asset_check_alerts)
    office.run("stored", "Beta")
    assert "1 changes" in office.tick(asset_check_alerts)
    assert office.told()[2:] == [("resolved", "stored", ["Beta"])]


def test_an_outcome_that_is_committed_late_is_told_all_the_same(office: Office) -> None:
    """Its id is below the cursor when it appears; it is told once."""
    office.run("stored", "Alpha", bad=("Alpha",))
    late = "dagster_event_type = 'ASSET_CHECK_EVALUATION'"
    office.execute(f"CREATE TABLE late AS SELECT * FROM event_logs WHERE {late}; DELETE FROM event_logs WHERE {late}")  # noqa: S608
    office.run("stored", "Beta", bad=("Beta",))
    office.tick(asset_check_alerts)
    assert office.told() == [("opened", "stored", ["Beta"])]
    cursor = int(office.cursors["asset_check_alerts"] or 0)
    office.execute("INSERT INTO event_logs SELECT * FROM late")
    office.tick(asset_check_alerts)
    assert office.told()[1:] == [("opened", "stored", ["Alpha"])]
    assert int(office.cursors["asset_check_alerts"] or 0) == cursor
    office.tick(asset_check_alerts)
    assert len(office.told()) == 2


def test_the_first_tick_looks_back_a_day(office: Office) -> None:
    """What is older is told when it is evaluated again; what failed for good before that neither."""
    office.run("stored", "Alpha", bad=("Alpha",))
    office.execute("UPDATE event_logs SET timestamp = timestamp - interval '25 hours'")
    assert "0 outcomes" in office.tick(asset_check_alerts)
    assert "0 failures" in office.tick(run_failure_alerts)
    office.run("stored", "Alpha", bad=("Alpha",))
    assert "1 changes" in office.tick(asset_check_alerts)
    assert "1 failures" in office.tick(run_failure_alerts)


def test_without_the_database_nothing_is_lost(office: Office) -> None:
    """The tick fails, its cursor stays, and the next one tells."""
    office.run("stored", "Alpha", bad=("Alpha",))
    for sensor in (asset_check_alerts, run_failure_alerts):
        with pytest.raises(DatabaseUnavailable):
            office.tick(sensor, database_url="postgresql://127.0.0.1:1/nowhere")
        assert "1 changes" in office.tick(sensor)


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


def test_what_was_taken_in_is_sent(office: Office, telegram: EmulatedTelegram, webhook: WebhookReceiver) -> None:
    """Over the channels that are set, each message once."""
    office.alerts = AlertsResource(
        telegram_bot_token=TOKEN,
        telegram_chat_id=CHAT.removeprefix("-"),
        telegram_api_url=telegram.url,
        webhook_url=webhook.secret_url.get_secret_value(),
        ui_url="https://dagster.example",
    )
    office.run("stored", "Alpha", bad=("Alpha",))
    office.tick(asset_check_alerts)
    assert office.tick(alert_delivery) == "2 messages arrived."
    assert office.tick(alert_delivery) == "0 messages arrived."
    [message] = telegram.messages()
    assert message["text"].splitlines() == [
        "🔴 Error: is_good of stored, Alpha",
        f"{office.tenants['Alpha']} looked at",
        "https://dagster.example/assets/stored?view=checks&checkDetail=is_good",
    ]
    [request] = webhook.requests
    assert request["alerts"][0]["labels"]["tenant"] == "Alpha"


def test_without_a_channel_the_sensor_says_so(office: Office) -> None:
    """Nothing is sent, and the UI says where alerts are."""
    assert "No channel is set" in office.tick(alert_delivery)


def test_a_channel_that_is_set_by_half_fails_the_tick(office: Office) -> None:
    """It names the setting that is missing."""
    office.alerts = AlertsResource(telegram_chat_id=CHAT)
    for sensor in (asset_check_alerts, alert_delivery):
        with pytest.raises(ConfigurationError, match="TELEGRAM_BOT_TOKEN"):
            office.tick(sensor)


def test_all_run_by_themselves() -> None:
    """The daemon evaluates them without anybody switching them on."""
    for sensor in (asset_check_alerts, run_failure_alerts, alert_delivery):
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
