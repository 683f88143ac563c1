"""Dagster's storage on Postgres, with connections that are kept; `dagster.yaml` names it.

dagster-postgres connects anew for each event, twice. What is not here: anything about what is stored.
"""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, Self

import dagster as dg
from dagster._core.events.log import EventLogEntry
from dagster._serdes import ConfigurableClassData
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine
from sqlalchemy.engine import Connection, Engine


@cache
def kept_engine(postgres_url: str) -> Engine:
    """Give this process' engine, which keeps one connection and opens more while it needs them.

    One a process, because a code server makes an instance for each request, and each would keep connections of its own.
    """
    return create_pg_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=-1,
        pool_pre_ping=True,  # the server may have been restarted meanwhile
    )


_BORROWED: ContextVar[Connection | None] = ContextVar("_BORROWED", default=None)


class KeptEventLogStorage(PostgresEventLogStorage):
    """Like `PostgresEventLogStorage`; all that belongs to an event goes over one connection, asked once if it lives."""

    def store_event(self, event: EventLogEntry) -> None:
        """See `EventLogStorage`."""
        with super()._connect() as connection:
            token = _BORROWED.set(connection)
            try:
                super().store_event(event)
            finally:
                _BORROWED.reset(token)

    def _connect(self) -> AbstractContextManager[Connection]:
        borrowed = _BORROWED.get()
        return nullcontext(borrowed) if borrowed is not None else super()._connect()


class KeptPostgresStorage(DagsterPostgresStorage):
    """Like `DagsterPostgresStorage`, over the engine of the process."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        self._event_log_storage = KeptEventLogStorage(postgres_url, should_autocreate_tables=False)  # done just now
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = kept_engine(postgres_url)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """See `ConfigurableClass`."""
        return {"postgres_url": dg.Field(dg.StringSource, description="postgresql+psycopg2://…")}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        """See `ConfigurableClass`."""
        return cls(config_value["postgres_url"], inst_data)
