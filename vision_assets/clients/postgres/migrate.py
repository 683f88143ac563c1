"""Bring the schema of a database to a revision (alembic, without an ini file).

What does not belong here: the revisions themselves (`migrations/versions`) and queries (the modules beside this one).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

_SCRIPTS = Path(__file__).resolve().parents[3] / "migrations"
# Dagster keeps an `alembic_version` of its own, and may share the database.
VERSION_TABLE = "vision_assets_version"
_LOCK = 4_620_153_001  # any number, the same for every migration of this project


@contextmanager
def _locked(database_url: str) -> Iterator[Connection]:
    """Connect, and hold the migration lock; a process that dies lets go of it."""
    # The driver is named because SQLAlchemy 2.1 takes another one for a plain postgresql://.
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        connection.commit()
        yield connection


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def migrate(database_url: str, revision: str = "head") -> None:
    """Upgrade a database. Two at once are safe: the second waits and finds nothing to do.

    Args:
        database_url: `postgresql://user:password@host:port/database`, with any driver named.
        revision: A revision or `head`.
    """
    with _locked(database_url) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database_url: str, revision: str = "base") -> None:
    """Take a database back to a revision; `base` is an empty schema, and its data is gone."""
    with _locked(database_url) as connection:
        command.downgrade(_config(connection), revision)


def current_revision(database_url: str) -> str | None:
    """Tell a database's revision; None before the first migration."""
    with _locked(database_url) as connection:
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
