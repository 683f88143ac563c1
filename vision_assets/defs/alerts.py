"""Sensors that tell people: of checks that fail, of runs that fail for good, and of either being well again.

What is not here: when there is something to tell (`core/alerts.py`), what failed in a run (`failed_runs.py`), and how
messages go out (`core/alert_delivery.py`).
"""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict

from vision_assets.core.alerts import AlertKey, AlertState, Evaluation, TakenIn
from vision_assets.core.levels import Severity
from vision_assets.defs.failed_runs import RETRIED_BY, WILL_RETRY, done_since, failed_work
from vision_assets.resources import AlertsResource, PostgresResource

INTERVAL_SECONDS = 30
LOOK_BACK = timedelta(days=1)
"""Of the first tick; what was wrong before and has not been looked at since is told when it is."""

OVERLAP_EVENTS = 1000
"""Of Dagster's log, read again at each tick: transactions may commit after others that began later."""

EVENTS_A_TICK = 5000
FAILURES_A_TICK = 1000


@dg.sensor(minimum_interval_seconds=INTERVAL_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def asset_check_alerts(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, alerts: AlertsResource
) -> dg.SkipReason:
    """Takes in the outcomes of all asset checks; people are told of each change once."""
    records = check_records(context.instance, context.cursor)
    evaluations = list(_evaluations(records))
    taken = asyncio.run(_take_in(evaluations, postgres, alerts))
    if records:
        context.update_cursor(str(max(int(context.cursor or 0), records[-1].storage_id)))
    return dg.SkipReason(f"{len(evaluations)} outcomes of checks were read. {_told(taken)}")


def check_records(instance: dg.DagsterInstance, cursor: str | None) -> Sequence[dg.EventLogRecord]:
    """Read the outcomes of checks after a cursor, and again some before it.

    Args:
        cursor: Id in Dagster's log; None: of the last day.
    """
    return instance.event_log_storage.get_event_records(
        dg.EventRecordsFilter(
            dg.DagsterEventType.ASSET_CHECK_EVALUATION,
            after_cursor=None if cursor is None else max(0, int(cursor) - OVERLAP_EVENTS),
            after_timestamp=(datetime.now(UTC) - LOOK_BACK).timestamp() if cursor is None else None,
        ),
        limit=EVENTS_A_TICK,
        ascending=True,
    )


def _evaluations(records: Sequence[dg.EventLogRecord]) -> Iterator[Evaluation]:
    for record in records:
        entry = record.event_log_entry
        found = entry.get_dagster_event().asset_check_evaluation_data
        key = AlertKey("check", found.asset_key.to_user_string(), found.check_name, found.partition or "")
        severity: Severity = "error" if found.severity == dg.AssetCheckSeverity.ERROR else "warn"
        yield Evaluation(
            key=key,
            severity=None if found.passed else severity,
            message=found.description or f"The check {found.check_name} {'passed' if found.passed else 'failed'}.",
            at=datetime.fromtimestamp(entry.timestamp, UTC),
            event_id=record.storage_id,
            run_id=entry.run_id,
        )


class RunCursor(BaseModel):
    """How far the failures of runs were read.

    Attributes:
        after: Id in Dagster's log.
        read: Runs whose failures were read and will be read again, since they lie within the overlap.
        undecided: Runs that failed, of which it is not known whether they are retried, or whose retry has not begun.
    """

    model_config = ConfigDict(frozen=True)

    after: int
    read: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()


@dg.sensor(minimum_interval_seconds=INTERVAL_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def run_failure_alerts(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, alerts: AlertsResource
) -> dg.SkipReason:
    """Takes in runs that failed and are not retried, tenant by tenant, until the work has been done."""
    instance = context.instance
    cursor = RunCursor.model_validate_json(context.cursor) if context.cursor else None
    records = failure_records(instance, cursor)
    read = {record.run_id: record for record in records}
    new = [run_id for run_id in read if cursor is None or run_id not in cursor.read]
    run_ids = list(dict.fromkeys([*(cursor.undecided if cursor else ()), *new]))
    runs = instance.get_runs(dg.RunsFilter(run_ids=run_ids)) if run_ids else []
    fates = {run.run_id: _fate(instance, run) for run in runs}
    failed = [
        evaluation
        for run in runs
        if fates[run.run_id] == "failed"
        for evaluation in _failures(instance, run, read.get(run.run_id))
    ]
    wrong, turned_well = asyncio.run(_open_runs(postgres, alerts))
    well = list(done_since(instance, wrong, well=turned_well, now=datetime.now(UTC)))
    taken = asyncio.run(_take_in([*failed, *well], postgres, alerts))
    if cursor or records:
        after = max([cursor.after if cursor else 0, *(record.storage_id for record in records)])
        undecided = tuple(run_id for run_id, fate in fates.items() if fate == "undecided")
        context.update_cursor(RunCursor(after=after, read=tuple(read), undecided=undecided).model_dump_json())
    return dg.SkipReason(f"{len(failed)} failures were read, {len(well)} were made good. {_told(taken)}")


def failure_records(instance: dg.DagsterInstance, cursor: RunCursor | None) -> Sequence[dg.EventLogRecord]:
    """Read failures of runs after a cursor, and again some before it."""
    wanted = dg.RunStatusChangeRecordsFilter(
        event_type=dg.DagsterEventType.RUN_FAILURE,
        after_storage_id=None if cursor is None else max(0, cursor.after - OVERLAP_EVENTS),
        after_timestamp=(datetime.now(UTC) - LOOK_BACK).timestamp() if cursor is None else None,
    )
    return instance.fetch_run_status_changes(wanted, limit=FAILURES_A_TICK, ascending=True).records


def _fate(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Literal["failed", "retried", "undecided"]:
    """Tell what comes after a failure: where Dagster retries runs it writes whether it will, a moment later."""
    told = run.tags.get(WILL_RETRY, "" if instance.run_retries_enabled else "false")
    if told == "false":
        return "failed"
    return "retried" if RETRIED_BY in run.tags else "undecided"


def _failures(
    instance: dg.DagsterInstance, run: dg.DagsterRun, record: dg.EventLogRecord | None
) -> Iterator[Evaluation]:
    """Tell what failed in a run.

    Args:
        record: Of the failure; None: it was read at an earlier tick.
    """
    if record is None:
        [record] = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1).records
    event = record.event_log_entry.get_dagster_event()
    at = datetime.fromtimestamp(record.timestamp, UTC)
    for key, message in failed_work(instance, run, event.message or "The run failed.").items():
        yield Evaluation(key, "error", message, at, record.storage_id, run.run_id)


@dg.sensor(minimum_interval_seconds=INTERVAL_SECONDS // 2, default_status=dg.DefaultSensorStatus.RUNNING)
def alert_delivery(postgres: PostgresResource, alerts: AlertsResource) -> dg.SkipReason:
    """Sends what people are to be told, in its order, each message once."""
    if not alerts.channel_names():
        return dg.SkipReason(
            "No channel is set: alerts stay in the database and the log (`vision-assets alerts show`)."
        )
    return dg.SkipReason(f"{asyncio.run(_send(postgres, alerts))} messages arrived.")


async def _take_in(evaluations: Sequence[Evaluation], postgres: PostgresResource, alerts: AlertsResource) -> TakenIn:
    async with postgres.open() as ledgers:
        return await alerts.book(ledgers).take_in(evaluations, rules=alerts.rules(), now=datetime.now(UTC))


async def _open_runs(
    postgres: PostgresResource, alerts: AlertsResource
) -> tuple[Sequence[AlertState], Collection[str]]:
    """Give the work that failed, and those of its partitions whose last turn of `new_posts` went well."""
    async with postgres.open() as ledgers:
        wrong = [state for state in await alerts.book(ledgers).open_runs() if state.severity is not None]
        partitions = [state.key.partition for state in wrong]
        return wrong, await ledgers.line.well(partitions) if partitions else ()


async def _send(postgres: PostgresResource, alerts: AlertsResource) -> int:
    async with postgres.open() as ledgers, alerts.open_sender(ledgers) as sender:
        return await sender.run()


def _told(taken: TakenIn) -> str:
    return f"{len(taken.transitions)} changes, {taken.messages} messages."
