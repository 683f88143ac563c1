"""Postgres: the pool, and the named SQL statements beside the modules that run them.

One module and one `.sql` file a subject. What is not here: decisions (`core/`).
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import aiosql
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from vision_assets.core.errors import DatabaseConflict, DatabaseUnavailable

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"


def statements(subject: str) -> Any:
    """Load the named statements of one subject.

    Args:
        subject: Name of the `.sql` file beside this module.
    """
    return aiosql.from_path(Path(__file__).with_name(f"{subject}.sql"), "asyncpg")


async def _set_codecs(connection: "asyncpg.Connection[Any]") -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + json.dumps(value, ensure_ascii=False).encode(),
        decoder=lambda body: json.loads(body[1:]),
        format="binary",
    )


async def _leave(_: "asyncpg.Connection[Any]") -> None:
    """Reset nothing, which is a round trip less; what is left of a transaction the pool has ended before."""


_SESSIONS = {
    # Statements take arrays of any length, of which the planner knows nothing: it would make one plan again and again.
    "plan_cache_mode": "force_generic_plan",
    # A process that freezes while it holds a lock for which others wait must not stop them for long.
    "idle_in_transaction_session_timeout": "15s",
    "lock_timeout": "30s",
}
_BRIEF_SESSIONS = {**_SESSIONS, "idle_in_transaction_session_timeout": "5s"}
_CONNECT_SECONDS = 10


_UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver says of a connection that broke in the middle of an answer
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


_CONFLICTS = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,  # statement time-out
)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the driver's passing faults into the project's errors."""
    try:
        yield
    except _CONFLICTS as error:
        raise DatabaseConflict(f"Postgres gave way to another transaction: {error}") from error
    except _UNREACHABLE as error:
        raise DatabaseUnavailable(
            f"Postgres does not answer: {error or type(error).__name__}. Start the parts with `vision-assets up`, "
            "or check DATABASE_URL."
        ) from error


@dataclass(frozen=True, slots=True)
class Database:
    """A pool of the event loop that runs.

    Attributes:
        patience_seconds: For one statement, and as long for a free connection; then the server counts as away.
    """

    pool: "asyncpg.Pool[asyncpg.Record]"
    patience_seconds: float

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database_url: str, *, max_size: int = 8, brief: bool = False, patience_seconds: float = 600
    ) -> "AsyncIterator[Database]":
        """Open a pool and close it at the end.

        Args:
            database_url: postgresql://user:password@host:port/database.
            max_size: Connections at most.
            brief: All that is done in its sessions is, and none is opened before it is needed.
            patience_seconds: For one statement. A server that is silent, not gone, is noticed by nothing else.

        Raises:
            DatabaseUnavailable: Nobody answers there.
        """
        with _translated():
            pool = await asyncpg.create_pool(
                database_url,
                min_size=0 if brief else 1,
                max_size=max_size,
                init=_set_codecs,
                reset=_leave,
                server_settings=_BRIEF_SESSIONS if brief else _SESSIONS,
                timeout=_CONNECT_SECONDS,
                command_timeout=patience_seconds,
            )
        async with pool:
            yield cls(pool, patience_seconds)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; each statement commits by itself.

        Raises:
            DatabaseUnavailable: Transient.
        """
        with _translated():
            async with self.pool.acquire(timeout=self.patience_seconds) as connection:
                yield connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Lend a connection whose session may be changed, as by a lock that outlives transactions; it is reset after.

        Raises:
            DatabaseUnavailable: Transient.
        """
        async with self.connection() as connection:
            try:
                yield connection
            finally:
                try:
                    await connection.reset()
                except BaseException:
                    connection.terminate()
                    raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside one transaction.

        Raises:
            DatabaseUnavailable: Transient; whether it was committed is unknown when the commit itself broke off.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection
