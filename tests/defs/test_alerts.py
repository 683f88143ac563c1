"""The sensors that tell people, over a real log of Dagster on Postgres: checks, failed runs, and being well again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import psycopg2
import pytest
from dagster._core.events import DagsterEvent

from tests.alert_receivers import CHAT, EmulatedTelegram, WebhookReceiver, emulated_telegram, webhook_receiver
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.deliveries import MessageReport, recent_messages
from vision_assets.clients.postgres.posts import ensure_tenant
from vision_assets.core.errors import ConfigurationError, DatabaseUnavailable
from vision_assets.defs.alerts import RunCursor, alert_delivery, asset_check_alerts, run_failure_alerts
from vision_assets.defs.failed_runs import RETRIED_BY, WILL_RETRY
from vision_assets.defs.partitions import TENANTS
from vision_assets.devstack.telegram import TOKEN
from vision_assets.resources import AlertsResource, PostgresResource

BAD: set[str] = set()
"""Partitions for which the assets below fail."""

CHECK = dg.AssetCheckSpec("is_good", asset="stored", partitions_def=TENANTS)


@dg.multi_asset(
    name="stored",
    specs=[dg.AssetSpec("stored")],
    can_subset=True,
    partitions_def=TENANTS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[CHECK],
)
def stored(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Materializes and checks each partition by itself; those that fail are named in the end, as the project does."""
    for key in context.partition_keys:
        passed = key not in BAD
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("stored"),
            check_name="is_good",
            passed=passed,
            partition=key,
            description=f"{key} looked at",
        )
        if passed:
            yield dg.AssetMaterialization("stored", partition=key)
    if bad := sorted(BAD & set(context.partition_keys)):
        raise dg.Failure(
            f"{len(bad)} tenants failed: top the account up.",
            metadata={"failed_partitions": dg.MetadataValue.json(bad)},
            allow_retries=False,
        )


@dg.asset(deps=["stored"], partitions_def=TENANTS, backfill_policy=dg.BackfillPolicy.single_run())
def later(context: dg.AssetExecutionContext) -> None:
    """Comes after it, and has bugs."""
    if BAD & set(context.partition_keys):
        raise ZeroDivisionError("nobody thought of it")


@dg.op
def tidy() -> None:
    """Fails as long as anything does."""
    if BAD:
        raise dg.Failure("There is no room.", allow_retries=False)


@dg.job(executor_def=dg.in_process_executor)
def tidying() -> None:
    """Makes no asset."""
    tidy()


DEFS = dg.Definitions(
    assets=[stored, later],
    jobs=[tidying, dg.define_asset_job("both", selection=["stored", "later"])],
    executor=dg.in_process_executor,
)


@dataclass
class Office:
    """Dagster with a log of its own, the project's database with tenants, and the sensors' cursors."""

    instance: dg.DagsterInstance
    log_url: str
    database_url: str
    tenants: dict[str, str]
    alerts: AlertsResource = field(default_factory=AlertsResource)
    cursors: dict[str, str | None] = field(default_factory=dict)

    def tick(self, sensor: dg.SensorDefinition, *, database_url: str | None = None) -> str:
        """Let a sensor look once, and give what it says."""
        postgres = PostgresResource(database_url=database_url or self.database_url)
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(sensor.name),
            resources={"postgres": postgres, "alerts": self.alerts},
        ) as context:
            found = sensor(context)
            assert isinstance(found, dg.SkipReason)
            self.cursors[sensor.name] = context.cursor
        return str(found.skip_message)

    def run(self, job: str, *tenants: str, bad: tuple[str, ...] = (), tags: dict[str, str] | None = None) -> str:
        """Run a job, or an asset alone, for one tenant or from one to another, by name; give the run's id."""
        BAD.clear()
        BAD.update(self.tenants.get(name, name) for name in bad)
        keys = [self.tenants[name] for name in tenants]
        part: dict[str, Any] = {"tags": tags or {}}
        if len(keys) == 1:
            part["partition_key"] = keys[0]
        elif keys:
            part["tags"] |= {
                "dagster/asset_partition_range_start": keys[0],
                "dagster/asset_partition_range_end": keys[-1],
            }
        definition = DEFS.resolve_job_def(job if job in ("both", "tidying") else "__ASSET_JOB")
        if job in ("stored", "later"):
            part["asset_selection"] = [dg.AssetKey(job)]
        result = definition.execute_in_process(instance=self.instance, raise_on_error=False, **part)
        assert result.success is not bool(bad)
        self.age_failures()
        return result.run_id

    def age_failures(self, by: str = "1 minute") -> None:
        """Let the log say that runs failed earlier than they did."""
        self.execute(
            f"UPDATE event_logs SET timestamp = timestamp - interval '{by}'"  # noqa: S608
            " WHERE dagster_event_type = 'PIPELINE_FAILURE'"
        )

    def execute(self, statement: str) -> None:
        """Change Dagster's log behind its back."""
        with closing(psycopg2.connect(self.log_url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def ask(self, work: Callable[[Database], Awaitable[Any]]) -> Any:
        """Ask the project's database."""

        async def main() -> Any:
            async with Database.open(self.database_url, max_size=1) as database:
                return await work(database)

        return asyncio.run(main())

    def reports(self) -> list[MessageReport]:
        """List the messages, the oldest first."""
        found: list[MessageReport] = self.ask(lambda database: recent_messages(database, limit=100))
        return found[::-1]

    def told(self) -> list[tuple[str, str, list[str]]]:
        """List the messages, the oldest first: kind, of what, whose."""
        return [
            (report.message.topic.kind, report.message.topic.subject, [one.whose for one in report.message.told])
            for report in self.reports()
        ]


@pytest.fixture
def office(bare_database: str, database: str) -> Iterator[Office]:
    """An office with three tenants."""

    async def make(opened: Database) -> dict[str, str]:
        return {name: str((await ensure_tenant(opened, name)).id) for name in ("Alpha", "Beta", "Gamma")}

    log_url = urlsplit(bare_database)._replace(scheme="postgresql+psycopg2").geturl()
    with dg.instance_for_test(overrides={"storage": {"postgres": {"postgres_url": log_url}}}) as instance:
        made = Office(instance, bare_database, database, {})
        made.tenants = made.ask(make)
        instance.add_dynamic_partitions(str(TENANTS.name), list(made.tenants.values()))
        yield made


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


def test_a_run_over_many_tenants_tells_whose_work_failed(office: Office) -> None:
    """Those that the step names; each is well again when it has been materialized, alone or with others."""
    run_id = office.run("stored", "Alpha", "Gamma", bad=("Beta", "Gamma"))
    assert "2 failures were read, 0 were made good" in office.tick(run_failure_alerts)
    assert sorted(office.told()) == [("opened", "stored", ["Beta"]), ("opened", "stored", ["Gamma"])]
    [one, _] = office.reports()
    transition = one.message.told[0].transition
    assert (transition.severity, transition.run_id) == ("error", run_id)
    assert transition.message == "2 tenants failed: top the account up."
    # A run that materialized a tenant and failed for another one has made the first one good.
    office.run("stored", "Alpha", "Gamma", bad=("Gamma",))
    office.tick(run_failure_alerts)
    assert office.told()[2:] == [("resolved", "stored", ["Beta"])]
    office.run("stored", "Gamma")
    office.tick(run_failure_alerts)
    assert office.told()[3:] == [("resolved", "stored", ["Gamma"])]
    assert "0 were made good. 0 changes" in office.tick(run_failure_alerts)


def test_steps_that_could_not_begin_are_not_told_of(office: Office) -> None:
    """Of a chain the step that failed is told; a bug is told by its error."""
    office.run("both", "Alpha", bad=("Alpha",))
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", "stored", ["Alpha"])]
    office.run("later", "Beta", bad=("Beta",))
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("opened", "later", ["Beta"])]
    assert office.reports()[-1].message.told[0].transition.message == "ZeroDivisionError: nobody thought of it"


def test_a_job_without_assets_is_well_again_when_it_succeeds(office: Office) -> None:
    """It is told by its name."""
    office.run("tidying", bad=("the room",))
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", "job tidying", [""])]
    assert office.reports()[0].message.title() == "🔴 Error: runs of job tidying"
    office.tick(run_failure_alerts)
    office.run("tidying")
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("resolved", "job tidying", [""])]


def test_a_run_that_will_be_retried_is_not_told_of(office: Office) -> None:
    """Only the last failure is, or one whose retry was given up."""
    first = office.run("stored", "Alpha", bad=("Alpha",), tags={WILL_RETRY: "true"})
    office.tick(run_failure_alerts)
    assert office.told() == []
    assert RunCursor.model_validate_json(office.cursors["run_failure_alerts"] or "").to_be_retried == (first,)
    office.instance.add_run_tags(first, {RETRIED_BY: "another"})
    office.run("stored", "Alpha", bad=("Alpha",), tags={WILL_RETRY: "false"})
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", "stored", ["Alpha"])]
    assert RunCursor.model_validate_json(office.cursors["run_failure_alerts"] or "").to_be_retried == ()
    second = office.run("stored", "Beta", bad=("Beta",), tags={WILL_RETRY: "true"})
    office.tick(run_failure_alerts)
    office.instance.add_run_tags(second, {WILL_RETRY: "false"})
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("opened", "stored", ["Beta"])]


@pytest.mark.parametrize(("begun", "subject"), [("stored", "stored"), ("", "later+stored")])
def test_a_worker_that_was_killed(office: Office, begun: str, subject: str) -> None:
    """Without a failed step it is the step that had begun, else all; with what Dagster says of the run's end."""
    run = office.instance.create_run_for_job(
        DEFS.resolve_job_def("both"), tags={"dagster/partition": office.tenants["Beta"]}
    )
    if begun:
        event = DagsterEvent(dg.DagsterEventType.STEP_START.value, job_name="both", step_key=begun)
        office.instance.report_dagster_event(event, run.run_id)
    office.instance.report_run_failed(run, "The worker is gone.")
    office.age_failures()
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", subject, ["Beta"])]
    assert "The worker is gone." in office.reports()[0].message.body()
    for asset in ("later", "stored"):
        office.run(asset, "Beta")
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("resolved", subject, ["Beta"])]


def test_a_failure_of_this_moment_waits_until_it_is_known_whether_it_is_retried(office: Office) -> None:
    """The next tick tells it."""
    office.run("stored", "Alpha", bad=("Alpha",))
    office.age_failures("-1 minute")
    assert "0 failures" in office.tick(run_failure_alerts)
    office.age_failures()
    assert "1 failures" in office.tick(run_failure_alerts)


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
