"""One scrape: reads the ledgers, the queues and Dagster's log, and gives Prometheus' text.

Nothing is kept that the next process would miss: counters stand in Postgres. A source that cannot be read shows
nothing, never zeros. What is not here: HTTP (`app.py`), and what the samples are (`metrics.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

import structlog

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.dagster_events import Materialized, last_materializations
from vision_assets.clients.postgres.metrics import Books, Queues, read_books, read_queues
from vision_assets.core.budget import BudgetLimits
from vision_assets.core.errors import TransientError
from vision_assets.core.quota import StorageLimits
from vision_assets.core.tenants import TenantId
from vision_assets.service import metrics
from vision_assets.service.sheet import Sheet
from vision_assets.service.tenants import Rest, bounded, by_tenant, fullest

log = structlog.get_logger(__name__)

BOOKS_SECONDS = 4
KEPT_SECONDS = 60
READ_SECONDS = 8
"""For what is kept afterwards. A scrape may wait for both in turn; Prometheus' scrape_timeout is longer than that."""

Found = TypeVar("Found")


@dataclass(slots=True)
class Source(Generic[Found]):
    """Something that is read for a scrape.

    Attributes:
        allowed_seconds: For one reading.
        kept_seconds: How long a reading is shown again; a failed one, which shows nothing, for as long, so that what
            takes too long is not asked for by every scrape.
    """

    name: str
    allowed_seconds: float
    kept_seconds: float = 0
    _kept: tuple[float, metrics.Reading, Found | None] | None = None

    async def read(self, sheet: Sheet, ask: Callable[[], Awaitable[Found]]) -> Found | None:
        """Read it, or give the last reading, and show how that went.

        Returns:
            None: it could not be read.
        """
        began = time.monotonic()
        if self._kept is None or began - self._kept[0] >= self.kept_seconds:
            self._kept = began, *await self._ask(ask)
        _, reading, found = self._kept
        metrics.show_reading(sheet, reading)
        return found

    async def _ask(self, ask: Callable[[], Awaitable[Found]]) -> tuple[metrics.Reading, Found | None]:
        began, at = time.monotonic(), datetime.now(UTC)
        found, success = None, True
        try:
            async with asyncio.timeout(self.allowed_seconds):
                found = await ask()
        except (TransientError, TimeoutError) as error:
            log.warning("metrics.not_read", source=self.name, error_type=type(error).__name__, error=str(error))
            success = False
        return metrics.Reading(self.name, at, time.monotonic() - began, success), found


@dataclass(slots=True)
class Exporter:
    """Answers scrapes, one after the other.

    Attributes:
        dagster: Dagster's own database.
        tenants_shown: With series of their own.
        kept_seconds: How long a reading is shown again that takes long.
        clock: Aware UTC: selects the day and month of the budget.
    """

    database: Database
    dagster: Database
    storage: StorageLimits
    budget: BudgetLimits
    tenants_shown: int
    kept_seconds: float = KEPT_SECONDS
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _rest: Rest = field(default_factory=Rest)
    _own: set[TenantId] = field(default_factory=set)
    _books: Source[Books] = field(init=False)
    _queues: Source[Queues] = field(init=False)
    _successes: Source[list[Materialized]] = field(init=False)

    def __post_init__(self) -> None:
        self._books = Source("books", BOOKS_SECONDS)
        self._queues = Source("queues", READ_SECONDS, self.kept_seconds)
        self._successes = Source("dagster", READ_SECONDS, self.kept_seconds)

    async def scrape(self) -> bytes:
        """Read what is due to be read, and write everything down."""
        async with self._turn:
            sheet = Sheet()
            books = await self._books.read(sheet, self._read_books)
            if books is not None:
                self._show_books(sheet, books)
                queues, successes = await asyncio.gather(
                    self._queues.read(sheet, lambda: read_queues(self.database)),
                    self._successes.read(sheet, self._read_successes),
                )
                if queues is not None:
                    metrics.show_queues(sheet, queues, self._own)
                if successes is not None:
                    metrics.show_successes(sheet, successes)
            return sheet.text()

    async def ping(self) -> None:
        """Ask the database whether it answers.

        Raises:
            DatabaseUnavailable: It does not.
        """
        async with self.database.connection() as connection:
            await connection.execute("SELECT 1")

    async def _read_books(self) -> Books:
        return await read_books(self.database, day=self.clock().date(), by_tenant=metrics.BY_TENANT)

    async def _read_successes(self) -> list[Materialized]:
        return list(await last_materializations(self.dagster, [str(tenant_id) for tenant_id in self._own]))

    def _show_books(self, sheet: Sheet, books: Books) -> None:
        tenants = [bounded(one, self.storage, self.budget) for one in books.tenants]
        shares = {one.figures.id: one.shares for one in tenants}
        self._own = fullest(shares, self.tenants_shown, before=self._own)
        metrics.show_totals(sheet, books, self.storage, self.budget)
        metrics.show_tenants(sheet, tenants, self._own)
        metrics.show_near_limits(sheet, shares)
        metrics.show_counters(sheet, books.counters)
        rest = self._rest.add(books.tenant_counters, self._own)
        metrics.show_tenant_counters(sheet, by_tenant(books.tenant_counters), rest, self._own)
