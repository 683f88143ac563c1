"""States, transitions and messages of alerts, in one transaction.

What is not here: any decision (`core/alerts.py`, `core/alert_messages.py`), and how messages go out (`deliveries.py`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog

from vision_assets.clients.postgres import Connection, Database, statements
from vision_assets.core.alert_delivery import ChannelName
from vision_assets.core.alert_messages import AlertMessage, Lately, Told, Topic, plan
from vision_assets.core.alerts import (
    BY_HAND,
    AlertKey,
    AlertRules,
    AlertState,
    Evaluation,
    TakenIn,
    Transition,
    close,
    step,
)
from vision_assets.core.levels import Severity
from vision_assets.core.storable_text import storable

log = structlog.get_logger(__name__)
sql = statements("alerts")

KEPT = timedelta(days=90)
"""Messages, with what became of them."""


@dataclass(frozen=True, slots=True)
class PostgresAlerts:
    """Implements `core.alerts.AlertBook`.

    Attributes:
        channels: That messages are to go out over.
    """

    database: Database
    channels: Sequence[ChannelName] = ()

    async def take_in(self, evaluations: Sequence[Evaluation], *, rules: AlertRules, now: datetime) -> TakenIn:
        """See the Protocol."""
        async with self.database.transaction() as connection:
            await sql.lock(connection)
            keys = {evaluation.key for evaluation in evaluations}
            states = {
                state.key: state for state in [state_of(row) async for row in sql.states(connection, **_keys(keys))]
            }
            tenants = await _tenants(connection, {key.partition for key in keys | set(states)})
            gone = frozenset(key for key in keys | set(states) if tenants.get(key.partition, "") is None)
            changed, transitions = step(states, evaluations, gone=gone, rules=rules, now=now)
            await _save_states(connection, list(changed.values()))
            await _insert_events(connection, transitions, tenants)
            messages = await self._write_messages(connection, rules=rules, now=now)
            await sql.prune(connection, before=now - KEPT)
        for message in messages:
            log.warning(
                f"alert.{message.topic.kind}",
                title=message.title(),
                message_id=str(message.id),
                channels=",".join(self.channels) or "none",
            )
        return TakenIn(transitions, len(messages))

    async def close(self, is_meant: Callable[[AlertKey], bool], *, now: datetime) -> int:
        """Close what is open, by hand; `take_in` writes what people are told of it, over the channels that it knows.

        Returns:
            Number of alerts that were open.
        """
        async with self.database.transaction() as connection:
            await sql.lock(connection)
            states = [state_of(row) async for row in sql.states(connection, **_keys([]))]
            closed = [close(state, BY_HAND, now=now) for state in states if is_meant(state.key)]
            tenants = await _tenants(connection, {state.key.partition for state, _ in closed})
            await _save_states(connection, [state for state, _ in closed])
            await _insert_events(connection, [transition for _, transition in closed if transition], tenants)
        return len(closed)

    async def _write_messages(self, connection: Connection, *, rules: AlertRules, now: datetime) -> list[AlertMessage]:
        waiting = [row async for row in sql.waiting(connection)]
        if not waiting:
            return []
        lately = {
            Topic(row["source"], row["subject"], row["check_name"], row["kind"]): Lately(
                row["grouped_at"], row["alone"]
            )
            async for row in sql.lately(connection, after=now - rules.group_pause)
        }
        told = [told_of(row) for row in waiting]
        written = []
        for one in plan([each.transition for each in told], lately=lately, rules=rules, now=now):
            message = AlertMessage(uuid4(), one.topic, [told[place] for place in one.members])
            await sql.insert_message(
                connection,
                id=message.id,
                kind=one.topic.kind,
                source=one.topic.source,
                subject=one.topic.subject,
                check_name=one.topic.check,
                grouped=one.grouped,
                now=now,
                event_seqs=[waiting[place]["seq"] for place in one.members],
                channels=list(self.channels),
            )
            written.append(message)
        return written

    async def open_runs(self) -> Sequence[AlertState]:
        """See the Protocol."""
        async with self.database.connection() as connection:
            return [state_of(row) async for row in sql.open_states(connection, source="run")]


async def _tenants(connection: Connection, partitions: Iterable[str]) -> Mapping[str, str | None]:
    """Tell the names of partitions' tenants; None of one that is not active, or not there any more."""
    ids = {partition: one for partition in partitions if (one := _uuid(partition))}
    names = {row["partition_key"]: row["name"] async for row in sql.tenants(connection, ids=list(ids.values()))}
    return {partition: names.get(str(one)) for partition, one in ids.items()}


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _keys(keys: Iterable[AlertKey]) -> dict[str, list[str]]:
    listed = list(keys)
    return {
        "sources": [key.source for key in listed],
        "subjects": [key.subject for key in listed],
        "checks": [key.check for key in listed],
        "partitions": [key.partition for key in listed],
    }


async def _save_states(connection: Connection, states: Sequence[AlertState]) -> None:
    if states:
        await sql.save_states(
            connection,
            **_keys(state.key for state in states),
            severities=[state.severity for state in states],
            failed_as=[state.failed_as for state in states],
            messages=[storable(state.message) for state in states],
            run_ids=[state.run_id for state in states],
            evaluated=[state.evaluated_at for state in states],
            event_ids=[state.event_id for state in states],
            opened=[state.opened_at for state in states],
            told=[state.told_at for state in states],
            changes=[_array(state.changes) for state in states],
            flapping=[state.is_flapping for state in states],
        )


def _array(moments: Sequence[datetime]) -> str:
    """Write an array as Postgres reads it: an array of arrays cannot be a parameter."""
    return "{" + ",".join(json.dumps(moment.isoformat()) for moment in moments) + "}"


async def _insert_events(
    connection: Connection, transitions: Sequence[Transition], tenants: Mapping[str, str | None]
) -> None:
    if transitions:
        await sql.insert_events(
            connection,
            **_keys(one.key for one in transitions),
            events=[one.event for one in transitions],
            kinds=[one.kind for one in transitions],
            severities=[one.severity for one in transitions],
            failed_as=[one.failed_as for one in transitions],
            messages=[storable(one.message) for one in transitions],
            run_ids=[one.run_id for one in transitions],
            opened=[one.opened_at for one in transitions],
            happened=[one.at for one in transitions],
            tenants=[tenants.get(one.key.partition) for one in transitions],
        )


def state_of(row: Mapping[str, Any]) -> AlertState:
    """Read a state."""
    severity: Severity | None = row["severity"]
    return AlertState(
        key=_key(row),
        severity=severity,
        failed_as=row["failed_as"],
        message=row["message"],
        run_id=row["run_id"],
        evaluated_at=row["evaluated_at"],
        event_id=row["event_id"],
        opened_at=row["opened_at"],
        told_at=row["told_at"],
        changes=tuple(row["changes"]),
        is_flapping=row["is_flapping"],
    )


def told_of(row: Mapping[str, Any]) -> Told:
    """Read a transition."""
    return Told(
        Transition(
            key=_key(row),
            kind=row["kind"],
            event=row["event"],
            severity=row["severity"],
            failed_as=row["failed_as"],
            message=row["message"],
            run_id=row["run_id"],
            opened_at=row["opened_at"],
            at=row["happened_at"],
        ),
        row["tenant"],
    )


def _key(row: Mapping[str, Any]) -> AlertKey:
    return AlertKey(row["source"], row["subject"], row["check_name"], row["partition_key"])
