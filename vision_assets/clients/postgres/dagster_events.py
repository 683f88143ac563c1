"""Retention of Dagster's event log, which Dagster itself never purges.

What is not here: any other look into its tables.
"""

from datetime import UTC, datetime

from vision_assets.clients.postgres import Database, statements

sql = statements("dagster_events")

BATCH_SIZE = 10_000


async def prune_events(database: Database, *, before: datetime) -> int:
    """Delete old events in batches, each a transaction of its own.

    Args:
        database: Dagster's own.
        before: Aware; events from then on stay.

    Returns:
        Number of events deleted.
    """
    # Dagster writes UTC without a zone.
    cut = before.astimezone(UTC).replace(tzinfo=None)
    deleted = 0
    while True:
        async with database.connection() as connection:
            status: str = await sql.prune_events(connection, before=cut, row_limit=BATCH_SIZE)
        batch = int(status.removeprefix("DELETE "))
        deleted += batch
        if batch < BATCH_SIZE:
            return deleted
