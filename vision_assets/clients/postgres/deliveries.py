"""Messages of alerts on their way, and what people may see of alerts.

What is not here: what makes a message (`alerts.py`), and when it is sent (`core/alert_delivery.py`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from vision_assets.clients.postgres import Connection, Database
from vision_assets.clients.postgres.alerts import sql, state_of, told_of
from vision_assets.core.alert_delivery import ChannelName, Delivery, Ended
from vision_assets.core.alert_messages import AlertMessage, Topic
from vision_assets.core.alerts import AlertState


@dataclass(frozen=True, slots=True)
class PostgresDeliveries:
    """Implements `core.alert_delivery.DeliveryBook`.

    Attributes:
        ui_url: Of Dagster's UI, for links; None: there are none.
    """

    database: Database
    ui_url: str | None = None

    @asynccontextmanager
    async def alone(self, channel: ChannelName) -> AsyncIterator[bool]:
        """See the Protocol. A sender that is killed keeps nobody out: the lock goes with its connection."""
        async with self.database.session() as connection:
            yield await sql.try_lock_channel(connection, channel=channel)

    async def first(self, channel: ChannelName, *, now: datetime) -> Delivery | None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            row = await sql.first_delivery(connection, channel=channel)
            if row is None or (row["state"] == "pending" and row["next_at"] > now):
                return None
            message = await _message(connection, row, self.ui_url)
        # Only its sender writes `sending`, and nobody else sends now: whoever wrote it is dead.
        return Delivery(
            seq=row["seq"],
            message=message,
            written_at=row["created_at"],
            parts_sent=row["parts_sent"],
            attempts=row["attempts"],
            is_interrupted=row["state"] == "sending",
            error=row["error"],
        )

    async def begin(self, delivery: Delivery, channel: ChannelName) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.begin(connection, message_seq=delivery.seq, channel=channel)

    async def part_sent(self, delivery: Delivery, channel: ChannelName) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.part_sent(connection, message_seq=delivery.seq, channel=channel)

    async def wait(self, delivery: Delivery, channel: ChannelName, *, until: datetime, error: str | None) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.wait(connection, message_seq=delivery.seq, channel=channel, next_at=until, error=error)

    async def end(
        self, delivery: Delivery, channel: ChannelName, state: Ended, *, now: datetime, error: str | None
    ) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.end_delivery(
                connection, message_seq=delivery.seq, channel=channel, state=state, now=now, error=error
            )


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What became of a message over one channel.

    Attributes:
        next_at: When it is tried again, while its state is `pending`.
    """

    channel: ChannelName
    state: str
    attempts: int
    next_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class MessageReport:
    """A message, and what became of it; without a channel it stayed here."""

    created_at: datetime
    message: AlertMessage
    deliveries: Sequence[DeliveryReport]


async def open_alerts(database: Database) -> Sequence[tuple[AlertState, str | None]]:
    """List what is wrong or flaps, with the tenant's name, the newest first."""
    async with database.connection() as connection:
        return [(state_of(row), row["tenant"]) async for row in sql.open_states(connection, source=None)]


async def recent_messages(database: Database, *, limit: int) -> Sequence[MessageReport]:
    """List the newest messages, the newest first.

    Args:
        limit: Messages.
    """
    async with database.connection() as connection:
        rows = [row async for row in sql.recent_deliveries(connection, row_limit=limit)]
        reports = []
        for _, of_message in groupby(rows, key=lambda row: row["seq"]):
            deliveries = list(of_message)
            message = await _message(connection, deliveries[0], None)
            reports.append(
                MessageReport(
                    deliveries[0]["created_at"], message, [_report(row) for row in deliveries if row["channel"]]
                )
            )
        return reports


def _report(row: Mapping[str, Any]) -> DeliveryReport:
    return DeliveryReport(row["channel"], row["state"], row["attempts"], row["next_at"], row["error"])


async def _message(connection: Connection, row: Mapping[str, Any], ui_url: str | None) -> AlertMessage:
    told = [told_of(event) async for event in sql.events(connection, message_seq=row["seq"])]
    topic = Topic(row["source"], row["subject"], row["check_name"], row["kind"])
    return AlertMessage(row["id"], topic, told, ui_url)
