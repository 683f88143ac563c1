"""Dead letters in Postgres: the lists that people read, and the re-opening.

What is not here: who writes and closes them (`ledger.py`), and which may pass by themselves (`core/dead_letters.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from vision_assets.clients.postgres import Database, statements
from vision_assets.core.analysis import MAX_CHARGED_ATTEMPTS
from vision_assets.core.dead_letters import STAGES, Reopened, Selection

sql = statements("dead_letters")


@dataclass(frozen=True, slots=True)
class PostgresDeadLetters:
    """Implements `core.dead_letters.DeadLetterLedger`."""

    database: Database

    async def close_gone(self, selection: Selection, *, before: datetime | None, limit: int) -> int:
        """See the Protocol."""
        async with self.database.connection() as connection:
            closed: int = await sql.close_gone(connection, **asdict(selection), before=before, row_limit=limit)
            return closed

    async def reopen(self, selection: Selection, *, limit: int) -> Sequence[Reopened]:
        """See the Protocol."""
        return await self._reopen(selection, limit=limit)

    async def reopen_passing(
        self, passing: Mapping[str, frozenset[str]], *, max_retries: int, before: datetime, limit: int
    ) -> Sequence[Reopened]:
        """See the Protocol."""
        pairs = [(stage, reason) for stage, reasons in passing.items() for reason in sorted(reasons)]
        return await self._reopen(
            Selection(),
            limit=limit,
            passing_stages=[stage for stage, _ in pairs],
            passing_reasons=[reason for _, reason in pairs],
            max_retries=max_retries,
            before=before,
        )

    async def _reopen(
        self,
        selection: Selection,
        *,
        limit: int,
        passing_stages: Sequence[str] | None = None,
        passing_reasons: Sequence[str] | None = None,
        max_retries: int | None = None,
        before: datetime | None = None,
    ) -> Sequence[Reopened]:
        async with self.database.connection() as connection:
            rows = sql.reopen(
                connection,
                **asdict(selection),
                stages=STAGES,
                passing_stages=passing_stages,
                passing_reasons=passing_reasons,
                max_retries=max_retries,
                before=before,
                charged_attempts=MAX_CHARGED_ATTEMPTS - 1,
                row_limit=limit,
            )
            return [Reopened(**row) async for row in rows]


@dataclass(frozen=True, slots=True)
class OpenLetters:
    """Open letters of one tenant, stage and reason.

    Attributes:
        reopened: Of `items`, those that are to do again and were not tried yet.
        retries: The most that one of them was re-opened.
        message: The newest one.
    """

    tenant: str
    stage: str
    reason: str
    items: int
    reopened: int
    retries: int
    last_at: datetime
    message: str


@dataclass(frozen=True, slots=True)
class OpenItem:
    """One open letter.

    Attributes:
        attempts: How often it failed.
        retries: How often it was re-opened.
        reopened_at: It is to do again, and was not tried yet; None: it waits for somebody.
    """

    tenant: str
    stage: str
    reason: str
    item: str
    message: str
    attempts: int
    retries: int
    last_at: datetime
    reopened_at: datetime | None


async def open_letters(database: Database, selection: Selection) -> list[OpenLetters]:
    """Sum up open letters by tenant, stage and reason; the selection's item does not matter."""
    async with database.connection() as connection:
        return [OpenLetters(**row) async for row in sql.open_letters(connection, **_wanted(selection))]


async def open_items(database: Database, selection: Selection, *, limit: int) -> list[OpenItem]:
    """List open letters, the newest first; the selection's item does not matter."""
    async with database.connection() as connection:
        rows = sql.open_items(connection, **_wanted(selection), row_limit=limit)
        return [OpenItem(**row) async for row in rows]


def _wanted(selection: Selection) -> dict[str, Any]:
    return {"tenant_id": selection.tenant_id, "stage": selection.stage, "reason": selection.reason}
