"""The line of tenants that have something to do, in Postgres. What is not here: who works on them (`core/crew.py`)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from vision_assets.clients.postgres import Database, statements
from vision_assets.core.storable_text import storable
from vision_assets.core.tenants import Tenant, TenantId
from vision_assets.core.turns import NO_POST, Taken, Turn, Waiting

sql = statements("turns")

MAX_CHANGES = 10_000
"""That a turn sees at most; the others are seen by the tenant's next one, which then finds nothing to do."""


@dataclass(frozen=True, slots=True)
class PostgresLine:
    """Implements `core.turns.Line`; beside it, what the sensor asks."""

    database: Database

    async def claim(self, run_id: str, *, lease: timedelta) -> Turn | None:
        """See the Protocol."""
        while True:
            async with self.database.connection() as connection:
                row = await sql.claim(connection, run_id=run_id, lease=lease, row_limit=MAX_CHANGES)
            if row is None:
                return None
            if row["is_won"]:
                tenant = Tenant(TenantId(row["id"]), row["name"], row["settings"])
                return Turn(
                    tenant,
                    run_id,
                    row["began_at"],
                    row["attempts"],
                    row["change_ids"],
                    since=row["since"],
                    is_untold=row["is_untold"],
                )

    async def prolong(self, run_id: str, turns: Sequence[Turn], *, lease: timedelta) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.prolong(
                connection,
                run_id=run_id,
                lease=lease,
                tenant_ids=[turn.tenant.id for turn in turns],
                began_at=[turn.began_at for turn in turns],
            )

    async def end(self, turn: Turn, *, more_since: int | None = None, is_told: bool = True) -> bool:
        """See the Protocol."""
        return await self._end(turn, more_since=more_since, attempts=0, rest=timedelta(), error=None, is_told=is_told)

    async def end_failed(
        self, turn: Turn, error: str, *, rest: timedelta, progressed: bool = False, is_told: bool = True
    ) -> bool:
        """See the Protocol."""
        attempts = 1 if progressed else turn.attempts
        return await self._end(turn, more_since=0, attempts=attempts, rest=rest, error=storable(error), is_told=is_told)

    async def _end(
        self,
        turn: Turn,
        *,
        more_since: int | None,
        attempts: int,
        rest: timedelta,
        error: str | None,
        is_told: bool,
    ) -> bool:
        async with self.database.connection() as connection:
            was_ours: bool = await sql.end_turn(
                connection,
                **_key(turn),
                attempts=attempts,
                rest=rest,
                error=error,
                change_ids=turn.change_ids,
                more_since=more_since,
                is_told=is_told,
                has_swept=turn.since == 0 and more_since is None,
            )
            return was_ours

    async def told(self, run_id: str, tenant_ids: Collection[TenantId]) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.told(connection, run_id=run_id, tenant_ids=list(tenant_ids))

    async def give_back(self, turn: Turn) -> None:
        """See the Protocol."""
        async with self.database.connection() as connection:
            await sql.give_back(connection, **_key(turn))

    async def taken(self) -> list[Taken]:
        """List the turns that runs have now."""
        async with self.database.connection() as connection:
            return [
                Taken(TenantId(row["tenant_id"]), row["run_id"], row["attempts"]) async for row in sql.taken(connection)
            ]

    async def take_back(self, rests: Mapping[Taken, timedelta]) -> None:
        """End turns whose runs will not; their tenants rest so long."""
        async with self.database.connection() as connection:
            await sql.take_back(
                connection,
                tenant_ids=[turn.tenant_id for turn in rests],
                rests=list(rests.values()),
                run_ids=[turn.run_id for turn in rests],
            )

    async def owing(self) -> set[str]:
        """List the runs that have yet to tell of turns that have ended."""
        async with self.database.connection() as connection:
            return {row["run_id"] async for row in sql.owing(connection)}

    async def add_untold(self, run_ids: Collection[str]) -> None:
        """Put the tenants in line of whose turns these runs, which have ended, have not told."""
        async with self.database.connection() as connection:
            await sql.add_untold(connection, run_ids=list(run_ids), no_post=NO_POST)

    async def add_due(self, now: datetime) -> None:
        """Put the tenants in line that have deferred pictures whose time has come.

        Args:
            now: Aware UTC.
        """
        async with self.database.connection() as connection:
            await sql.add_due(connection, now=now, no_post=NO_POST)

    async def first_waiting(self) -> Waiting | None:
        """Tell of the first in line whom nobody has and that does not rest."""
        async with self.database.connection() as connection:
            row = await sql.first_waiting(connection)
        return Waiting(row["id"], row["seconds"]) if row else None

    async def well(self, partitions: Sequence[str]) -> frozenset[str]:
        """Give those of the partitions whose tenants' last turn went well."""
        async with self.database.connection() as connection:
            return frozenset([row["partition_key"] async for row in sql.well(connection, partitions=partitions)])


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant in line, at work, or whose last turn did not end well.

    Attributes:
        since: Of its oldest change in line, aware UTC; None: it is not in line.
        run_id: That works on it; None: nobody does.
        attempts: Turns in succession, with the present one, since one ended well or did something before it failed;
            None: it had no turn yet.
        error: Of the last turn; None: that went well.
        free_at: Until then its run has it, or it rests; aware UTC.
        rests: After a failure, until `free_at`.
    """

    tenant: str
    active: bool
    since: datetime | None
    run_id: str | None
    attempts: int | None
    error: str | None
    free_at: datetime | None
    rests: bool | None


async def standing(database: Database, tenant_id: TenantId | None) -> list[Standing]:
    """List how tenants stand that have something to do, or one; who waits longest first."""
    async with database.connection() as connection:
        return [Standing(**row) async for row in sql.standing(connection, tenant_id=tenant_id)]


async def end_rests(database: Database, tenant_id: TenantId | None) -> list[str]:
    """Let tenants that rest be taken at once, or one; tells their names."""
    async with database.connection() as connection:
        return [row["tenant"] async for row in sql.end_rests(connection, tenant_id=tenant_id)]


def _key(turn: Turn) -> dict[str, object]:
    return {"tenant_id": turn.tenant.id, "run_id": turn.run_id, "began_at": turn.began_at}
