"""Retention of Dagster's event log, on Dagster's own tables."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import dagster as dg
import psycopg2
from dagster._core.event_api import PartitionKeyFilter
from dagster_postgres import PostgresEventLogStorage

from tests.recorded import recording
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.dagster_events import BATCH_SIZE, KEPT_OF_EACH, prune_events

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


MEDIA = dg.AssetKey("media_objects")
HASHES = dg.AssetKey("phash_index")


def test_the_newest_of_each_asset_check_and_partition_stay(bare_database: str, tmp_path: Path) -> None:
    """Of what is old the newest few, so that Dagster tells the same states; of what is not old everything."""

    def materialize(key: dg.AssetKey, partition: str | None, times: int = 1) -> None:
        for number in range(times):
            tags = {"dagster/data_version": str(number)}
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, tags=tags))

    def check(partition: str, *outcomes: bool) -> None:
        for passed in outcomes:
            outcome = dg.AssetCheckEvaluation(asset_key=MEDIA, check_name="c", partition=partition, passed=passed)
            event_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
            instance.report_dagster_event(dg.DagsterEvent(event_type, "job", event_specific_data=outcome), str(uuid4()))

    def materialized(key: dg.AssetKey, *partitions: str) -> int:
        wanted = dg.AssetRecordsFilter(key, asset_partitions=list(partitions) or None)
        return len(instance.fetch_materializations(wanted, limit=100).records)

    def checked(partition: str) -> list[str]:
        found = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(MEDIA, "c"), limit=100, partition_filter=PartitionKeyFilter(key=partition)
        )
        return [one.status.value for one in found]

    with recording(tmp_path, bare_database) as instance:
        materialize(MEDIA, "quiet")
        materialize(MEDIA, "busy", KEPT_OF_EACH + 2)
        materialize(HASHES, None, KEPT_OF_EACH + 3)
        check("quiet", False)
        check("busy", *[True] * (KEPT_OF_EACH + 1), False)
        age(bare_database, timedelta(days=100))
        materialize(MEDIA, "busy", 3)
        check("busy", True)
        before = datetime.now(UTC) - timedelta(days=30)
        # Five of busy, three without partition, three outcomes; outcomes stand in the log, too, all of which go.
        assert asyncio.run(prune(bare_database, before)) == 5 + 3 + 3 + (KEPT_OF_EACH + 3)
        assert asyncio.run(prune(bare_database, before)) == 0
        assert (materialized(MEDIA, "quiet"), materialized(MEDIA, "busy")) == (1, KEPT_OF_EACH)
        assert materialized(HASHES) == KEPT_OF_EACH
        assert instance.get_materialized_partitions(MEDIA) == {"quiet", "busy"}
        assert checked("quiet") == ["FAILED"]
        assert checked("busy") == ["SUCCEEDED", "FAILED", *["SUCCEEDED"] * (KEPT_OF_EACH - 2)]
    with psycopg2.connect(bare_database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(e.id) FROM asset_event_tags LEFT JOIN event_logs e ON e.id = event_id")
        assert cursor.fetchone() == (2 * KEPT_OF_EACH + 1,) * 2
    connection.close()


async def test_more_than_a_batch(bare_database: str) -> None:
    """Whatever stays in between, all that is old goes, and what is not stays."""
    url = urlsplit(bare_database)._replace(scheme="postgresql+psycopg2").geturl()
    PostgresEventLogStorage.create_clean_storage(url).dispose()
    async with Database.open(bare_database, max_size=1) as database:
        await database.pool.execute(
            "INSERT INTO event_logs (run_id, event, timestamp, asset_key, dagster_event_type, partition)"
            " SELECT 'run', '{}', CASE WHEN n > 5 THEN $1::timestamp ELSE $2::timestamp END,"
            " a, 'ASSET_MATERIALIZATION', n::text FROM generate_series(1, $3::int) n, (VALUES ('a'), (NULL)) AS of (a)",
            *((NOW - timedelta(days=100)).replace(tzinfo=None), NOW.replace(tzinfo=None), BATCH_SIZE),
        )
        assert await prune_events(database, before=NOW - timedelta(days=30)) == BATCH_SIZE - 5
        assert await database.pool.fetchval("SELECT count(*) FROM event_logs") == BATCH_SIZE + 5


def age(url: str, by: timedelta) -> None:
    """Let everything that Dagster has recorded be older."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE event_logs SET timestamp = timestamp - %s", (by,))
        cursor.execute(
            "UPDATE asset_check_executions SET evaluation_event_timestamp = evaluation_event_timestamp - %s", (by,)
        )
    connection.close()


async def prune(url: str, before: datetime) -> int:
    """Do what the daily job does."""
    async with Database.open(url, max_size=1) as database:
        return await prune_events(database, before=before)


def _insert(database_url: str, moment: datetime, event_type: str, asset: str | None) -> None:
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, asset_key)"
            " VALUES (%s, %s, %s, %s, %s)",
            ("run", "{}", event_type, moment.replace(tzinfo=None), asset),
        )
    connection.close()
