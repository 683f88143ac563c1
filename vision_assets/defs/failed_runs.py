"""What of a failed run failed, tenant by tenant, and whether it has been done since: read from Dagster's log.

What is not here: whom that is told (`alerts.py`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg

from vision_assets.core.alerts import AlertKey, AlertState, Evaluation
from vision_assets.defs.new_posts import NEW_POSTS

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

    Of each partition what its failed step was to make and has not: of those partitions that the step itself names, else
    of all that have something left, else of all that it was to make. Steps that could not begin because of it are not
    told of. Of a run that ended without a failed step it is the step that had begun, or all that was to be made if none
    had.

    Args:
        message: Of the run's own failure.
    """
    story = _read(instance, run)
    failed: dict[AlertKey, str] = {}
    for step, event in story.failures.items():
        planned, undone, reasons = story.planned[step], story.undone([step]), _reasons(event)
        for partition in reasons or undone or planned or [run.tags.get(PARTITION, "")]:
            key = _key(run, undone.get(partition) or planned.get(partition) or (), partition)
            failed[key] = reasons.get(partition) or _reason(event)
    if not story.failures:
        undone = story.undone(story.begun) or story.undone(story.planned)
        failed |= {_key(run, assets, partition): message for partition, assets in undone.items()}
    return failed or {_key(run, (), run.tags.get(PARTITION, "")): message}


@dataclass(slots=True)
class _Story:
    """What a run's log says.

    Attributes:
        planned: Step → partition → assets that it was to make.
        done: Assets and partitions that were made and not to be made again afterwards.
        begun: Steps.
        failures: Of steps.
    """

    planned: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    done: set[tuple[str, str]] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    failures: dict[str, dg.DagsterEvent] = field(default_factory=dict)

    def undone(self, steps: Iterable[str]) -> dict[str, set[str]]:
        """Give the assets that steps were to make and have not, by partition."""
        left: dict[str, set[str]] = defaultdict(set)
        for step in steps:
            for partition, assets in self.planned[step].items():
                left[partition] |= {asset for asset in assets if (asset, partition) not in self.done}
        return {partition: assets for partition, assets in left.items() if assets}


def _read(instance: dg.DagsterInstance, run: dg.DagsterRun) -> _Story:
    story = _Story()
    for record in instance.get_records_for_run(run.run_id, of_type=_READ).records:
        event = record.event_log_entry.get_dagster_event()
        step, partition = event.step_key or "", event.partition or ""
        asset = event.asset_key.to_user_string() if event.asset_key else ""
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            story.failures[step] = event
        elif event.event_type == dg.DagsterEventType.STEP_START:
            story.begun.add(step)
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
            # `failures.tell_failed` plans what has gone wrong, be it after it went well in the same run.
            story.planned[step][partition].add(asset)
            story.done.discard((asset, partition))
        else:
            story.done.add((asset, partition))
    return story


def _key(run: dg.DagsterRun, assets: Collection[str], partition: str) -> AlertKey:
    return AlertKey("run", "+".join(sorted(assets)) or f"{JOB}{run.job_name}", "", partition)


def _reasons(event: dg.DagsterEvent) -> Mapping[str, str]:
    """Read which partitions failed, each with its reason, as `steps.run_for_tenants` writes it."""
    told = event.step_failure_data.user_failure_data
    metadata = told.metadata if told else {}
    partitions, reasons = (_json(metadata.get(name)) for name in ("failed_partitions", "failures"))
    own = reasons if isinstance(reasons, dict) else {}
    named = partitions if isinstance(partitions, list) else []
    return {str(key): str(own.get(key) or _reason(event))[:LONGEST_MESSAGE] for key in named}


def _json(value: dg.MetadataValue | None) -> object:
    return value.value if isinstance(value, dg.JsonMetadataValue) else None


def _reason(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description[:LONGEST_MESSAGE]
    error = data.error
    if error is None:
        return event.message or "no reason is told"
    return (error.cause or error).message.strip()[:LONGEST_MESSAGE]


def done_since(
    instance: dg.DagsterInstance, failed: Sequence[AlertState], *, well: Collection[str], now: datetime
) -> Iterator[Evaluation]:
    """Tell which of the work that failed has been done since.

    Args:
        well: Partitions of the tenants whose last turn of `new_posts` went well. Such a turn tells of what has changed
            alone, so that nothing need be materialized.
        now: Aware UTC.
    """
    turns = _run_ids_of_turns(instance, [state for state in failed if state.key.partition in well])
    by_subject: dict[str, list[AlertState]] = defaultdict(list)
    for state in failed:
        if state.run_id in turns and state.key.partition in well:
            yield _well(state, now, state.event_id, "")
        else:
            by_subject[state.key.subject].append(state)
    for subject, states in by_subject.items():
        if subject.startswith(JOB):
            for state in states:
                yield from _job_done(instance, state)
        else:
            yield from _assets_done(instance, subject.split("+"), states)


def _run_ids_of_turns(instance: dg.DagsterInstance, states: Sequence[AlertState]) -> Collection[str]:
    """Give the runs of `new_posts` among those that these failed in."""
    run_ids = list({state.run_id for state in states})
    return set(instance.get_run_ids(dg.RunsFilter(job_name=NEW_POSTS, run_ids=run_ids))) if run_ids else ()


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
    since = min(state.event_id for state in states)
    newest: dict[tuple[str, str], dg.EventLogRecord] = {}
    runs: dict[str, dg.DagsterRun | None] = {}
    failed_in: dict[str, frozenset[AlertKey]] = {}
    key_of = {state.key.partition: state.key for state in states}
    for asset in assets:
        wanted = dg.AssetRecordsFilter(
            dg.AssetKey(asset.split("/")), asset_partitions=partitions or None, after_storage_id=since
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
        latest = [record for record in found if record and record.storage_id > state.event_id]
        if len(latest) == len(assets):
            last = max(latest, key=lambda record: record.storage_id)
            at = datetime.fromtimestamp(last.timestamp, UTC)
            yield _well(state, at, last.storage_id, last.run_id)


def _failures_of(instance: dg.DagsterInstance, run: dg.DagsterRun | None) -> frozenset[AlertKey]:
    """Tell what failed in a run; steps that fail may have materialized first."""
    if run is None or run.status != dg.DagsterRunStatus.FAILURE:
        return frozenset()
    return frozenset(failed_work(instance, run, ""))


def _well(state: AlertState, at: datetime, event_id: int, run_id: str) -> Evaluation:
    """Tell it as later than the failure, whatever the clock says by which it was done."""
    after = state.evaluated_at + timedelta.resolution
    return Evaluation(state.key, None, "It has been done since.", max(at, after), event_id, run_id)
