"""What of a failed run failed, tenant by tenant, and whether it has been done since: read from Dagster's log.

What is not here: whom that is told (`alerts.py`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg

from vision_assets.core.alerts import AlertKey, AlertState, Evaluation

PARTITION = "dagster/partition"
WILL_RETRY = "dagster/will_retry"
RETRIED_BY = "dagster/auto_retry_run_id"
JOB = "job "
"""Before the name of a job whose work makes no assets, in the subject of an alert."""

LONGEST_MESSAGE = 1500
MATERIALIZATIONS = 1000

_READ = {
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_FAILURE,
}


def failed_work(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> Mapping[AlertKey, str]:
    """Tell what failed in a run, each with the reason.

    What its failed steps were to make: of the partitions that a step itself names, else of those that it did not
    materialize. Steps that could not begin because of it are not told of. Of a run that ended without a failed step
    it is the step that had begun, or all that was to be made if none had.

    Args:
        message: Of the run's own failure.
    """
    planned: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))  # step → partition → assets
    done: set[tuple[str, str]] = set()
    begun: set[str] = set()
    failures: dict[str, dg.DagsterEvent] = {}
    for record in instance.get_records_for_run(run.run_id, of_type=_READ).records:
        event = record.event_log_entry.get_dagster_event()
        asset = event.asset_key.to_user_string() if event.asset_key else ""
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            failures[event.step_key or ""] = event
        elif event.event_type == dg.DagsterEventType.STEP_START:
            begun.add(event.step_key or "")
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
            planned[event.step_key or ""][event.partition or ""].add(asset)
        else:
            done.add((asset, event.partition or ""))
    failed: dict[AlertKey, str] = {}
    if not failures:
        undone = [step for step, wanted in planned.items() if _undone(wanted, done)]
        wanted = _together(planned[step] for step in [step for step in undone if step in begun] or undone)
        failed |= dict.fromkeys(_keys(wanted, _undone(wanted, done)), message)
    for step, event in failures.items():
        partitions = _named(event)
        if step in planned:
            wanted = planned[step]
            failed |= dict.fromkeys(_keys(wanted, partitions or _undone(wanted, done) or list(wanted)), _reason(event))
        else:
            failed |= dict.fromkeys(_of_job(run, partitions), _reason(event))
    return failed or dict.fromkeys(_of_job(run, []), message)


def _together(steps: Iterable[Mapping[str, set[str]]]) -> Mapping[str, set[str]]:
    wanted: dict[str, set[str]] = defaultdict(set)
    for step in steps:
        for partition, assets in step.items():
            wanted[partition] |= assets
    return wanted


def _undone(wanted: Mapping[str, set[str]], done: set[tuple[str, str]]) -> Sequence[str]:
    return [
        partition for partition, assets in wanted.items() if not all((asset, partition) in done for asset in assets)
    ]


def _keys(wanted: Mapping[str, set[str]], partitions: Iterable[str]) -> Iterator[AlertKey]:
    subject = "+".join(sorted(set().union(*wanted.values())))
    return (AlertKey("run", subject, "", partition) for partition in partitions)


def _of_job(run: dg.DagsterRun, partitions: Sequence[str]) -> Iterator[AlertKey]:
    return (
        AlertKey("run", f"{JOB}{run.job_name}", "", partition)
        for partition in partitions or [run.tags.get(PARTITION, "")]
    )


def _named(event: dg.DagsterEvent) -> Sequence[str]:
    """Read which partitions failed, as `steps.run_for_tenants` writes it."""
    told = event.step_failure_data.user_failure_data
    named = told.metadata.get("failed_partitions") if told else None
    return [str(key) for key in named.value] if named and isinstance(named.value, list) else []


def _reason(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description[:LONGEST_MESSAGE]
    error = data.error
    if error is None:
        return event.message or "no reason is told"
    return (error.cause or error).message.strip()[:LONGEST_MESSAGE]


def done_since(instance: dg.DagsterInstance, failed: Iterable[AlertState]) -> Iterator[Evaluation]:
    """Tell which of the work that failed has been done since."""
    by_subject: dict[str, list[AlertState]] = defaultdict(list)
    for state in failed:
        by_subject[state.key.subject].append(state)
    for subject, states in by_subject.items():
        if subject.startswith(JOB):
            for state in states:
                yield from _job_done(instance, state)
        else:
            yield from _assets_done(instance, subject.split("+"), states)


def _job_done(instance: dg.DagsterInstance, state: AlertState) -> Iterator[Evaluation]:
    succeeded = dg.RunsFilter(
        job_name=state.key.subject.removeprefix(JOB),
        statuses=[dg.DagsterRunStatus.SUCCESS],
        tags={PARTITION: state.key.partition} if state.key.partition else {},
        updated_after=state.evaluated_at,
    )
    for record in instance.get_run_records(succeeded, limit=1):
        at = datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)
        if at > state.evaluated_at:
            yield _well(state, at, record.storage_id, record.dagster_run.run_id)


def _assets_done(
    instance: dg.DagsterInstance, assets: Sequence[str], states: Sequence[AlertState]
) -> Iterator[Evaluation]:
    partitions = [state.key.partition for state in states if state.key.partition]
    since = min(state.evaluated_at for state in states)
    newest: dict[tuple[str, str], dg.EventLogRecord] = {}
    runs: dict[str, dg.DagsterRun | None] = {}
    failed_in: dict[str, frozenset[AlertKey]] = {}
    key_of = {state.key.partition: state.key for state in states}
    for asset in assets:
        wanted = dg.AssetRecordsFilter(
            dg.AssetKey(asset.split("/")), asset_partitions=partitions or None, after_timestamp=since.timestamp()
        )
        for record in instance.fetch_materializations(wanted, limit=MATERIALIZATIONS).records:
            partition = record.partition_key or ""
            if partition not in key_of or (asset, partition) in newest:
                continue
            run_id = record.event_log_entry.run_id
            if run_id not in runs:
                runs[run_id] = instance.get_run_by_id(run_id) if run_id else None
                failed_in[run_id] = _failures_of(instance, runs[run_id])
            run = runs[run_id]
            if (run is None or run.is_finished) and key_of[partition] not in failed_in[run_id]:
                newest[asset, partition] = record
    for state in states:
        found = [newest.get((asset, state.key.partition)) for asset in assets]
        latest = [record for record in found if record and record.timestamp > state.evaluated_at.timestamp()]
        if len(latest) == len(assets):
            last = max(latest, key=lambda record: record.timestamp)
            at = datetime.fromtimestamp(last.timestamp, UTC)
            yield _well(state, at, last.storage_id, last.run_id)


def _failures_of(instance: dg.DagsterInstance, run: dg.DagsterRun | None) -> frozenset[AlertKey]:
    """Tell what failed in a run; steps that fail may have materialized first."""
    if run is None or run.status != dg.DagsterRunStatus.FAILURE:
        return frozenset()
    return frozenset(failed_work(instance, run, ""))


def _well(state: AlertState, at: datetime, event_id: int, run_id: str) -> Evaluation:
    return Evaluation(state.key, None, "It has been done since.", at, event_id, run_id)
