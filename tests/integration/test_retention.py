"""Retention of Dagster's event log, on Dagster's own tables."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import dagster as dg
import psycopg2
from dagster_postgres import PostgresEventLogStorage

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.dagster_events import prune_events

NOW = datetime(2026, 11, 1, tzinfo=UTC)


async def test_old_logs_go_and_materializations_stay(bare_database: str) -> None:
    """Old log events are deleted; what the partitions' states are made of stays, whatever its age."""
    url = urlsplit(bare_database)._replace(scheme="postgresql+psycopg2").geturl()
    storage = PostgresEventLogStorage.create_clean_storage(url)
    for age_days in (1, 100):
        for event_type, asset in (
            (dg.DagsterEventType.STEP_SUCCESS, None),
            (dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, "media_objects"),
            (dg.DagsterEventType.ASSET_MATERIALIZATION, "media_objects"),
        ):
            _insert(bare_database, NOW - timedelta(days=age_days), event_type.value, asset)
    storage.dispose()
    async with Database.open(bare_database, max_size=1) as database:
        assert await prune_events(database, before=NOW - timedelta(days=30)) == 2
        assert await prune_events(database, before=NOW - timedelta(days=30)) == 0
        left = await database.pool.fetch("SELECT dagster_event_type AS kind, timestamp FROM event_logs ORDER BY id")
    assert [row["kind"] for row in left if row["timestamp"].month == 10] == [
        "STEP_SUCCESS",
        "ASSET_MATERIALIZATION_PLANNED",
        "ASSET_MATERIALIZATION",
    ]
    assert [row["kind"] for row in left if row["timestamp"].month != 10] == ["ASSET_MATERIALIZATION"]


def _insert(database_url: str, moment: datetime, event_type: str, asset: str | None) -> None:
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, asset_key)"
            " VALUES (%s, %s, %s, %s, %s)",
            ("run", "{}", event_type, moment.replace(tzinfo=None), asset),
        )
    connection.close()
