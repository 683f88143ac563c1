"""Looks at the books again and again while others work. What is not here: what must be true of them (`…_books.py`)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from vision_assets.clients.postgres import Database
from vision_assets.core.errors import TransientError

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_EVERY_SECONDS = 0.2


@dataclass(slots=True)
class Watch:
    """One kind of look.

    Attributes:
        check: Names what is wrong at one moment.
        checks: Looks so far.
        violations: All that was ever wrong.
    """

    check: Callable[[Connection], Awaitable[Sequence[str]]]
    checks: int = 0
    violations: list[str] = field(default_factory=list)

    async def look(self, connection: Connection) -> None:
        """Look once."""
        self.violations += await self.check(connection)
        self.checks += 1

    @asynccontextmanager
    async def beside(self, url: str) -> AsyncIterator[None]:
        """Look all the time while the block runs; a database that is away is looked at again when it is back."""
        task = asyncio.create_task(self._watch(url))
        try:
            yield
        finally:
            if not task.done():
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task  # raises what ended it

    async def _watch(self, url: str) -> None:
        while True:
            with suppress(TransientError):
                async with Database.open(url, max_size=1) as database:
                    while True:
                        async with database.connection() as connection:
                            await self.look(connection)
                        await asyncio.sleep(_EVERY_SECONDS)
            await asyncio.sleep(_EVERY_SECONDS)
