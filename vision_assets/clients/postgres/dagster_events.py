"""Dagster's event log: its retention, as Dagster itself never purges it, and when assets were last materialized.

What is not here: any other look into its tables.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vision_assets.clients.postgres import Database, statements

sql = statements("dagster_events")

BATCH_SIZE = 10_000

KEPT_OF_EACH = 10
"""Materializations of an asset and partition, and outcomes of a check, that stay, however old they are."""


async def prune_events(database: Database, *, before: datetime) -> int:
    """Delete old events in batches, each a transaction of its own, and old outcomes of checks.

    Args:
        database: Dagster's own.
        before: Aware; events from then on stay.

    Returns:
        Number of events and outcomes deleted.

    Raises:
        DatabaseUnavailable, DatabaseConflict: Transient.
    """
    # Dagster writes UTC without a zone.
    cut = before.astimezone(UTC).replace(tzinfo=None)
    deleted, last_id, has_old = 0, 0, True
    while has_old:
        async with database.connection() as connection:
            done = await sql.prune_events(
                connection, after_id=last_id, before=cut, kept=KEPT_OF_EACH, row_limit=BATCH_SIZE
            )
        deleted, last_id, has_old = deleted + done["deleted"], done["last_id"], done["has_old"]
    async with database.connection() as connection:
        status: str = await sql.prune_checks(connection, before=cut, kept=KEPT_OF_EACH)
    return deleted + int(status.removeprefix("DELETE "))


@dataclass(frozen=True, slots=True)
class Materialized:
    """When an asset was last materialized.

    Attributes:
        partition: None: whichever was the last one.
        at: Aware UTC.
    """

    asset: str
    partition: str | None
    at: datetime


async def last_materializations(database: Database, partitions: Sequence[str]) -> Sequence[Materialized]:
    """Tell when each asset was last materialized: for any partition, and for each of these where it ever was.

    Args:
        database: Dagster's own; as long as Dagster has not made its tables, nothing was materialized.

    Raises:
        DatabaseUnavailable, DatabaseConflict: Transient.
    """
    async with database.connection() as connection:
        if not await sql.has_tables(connection):
            return []
        found = [row async for row in sql.newest_materializations(connection)]
        found += [row async for row in sql.last_materializations(connection, partitions=list(partitions))]
    return [
        Materialized(
            asset="/".join(json.loads(row["asset_key"])),
            partition=row["partition"],
            at=row["timestamp"].replace(tzinfo=UTC),
        )
        for row in found
    ]
