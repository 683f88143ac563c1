"""A database of a benchmark's own beside the project's, so that nobody's books are touched."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg2
from psycopg2 import sql

from vision_assets.clients.postgres.migrate import migrate
from vision_assets.settings import Settings


def execute(database_url: str, *statements: "str | sql.Composed") -> None:
    """Run statements, each committed by itself."""
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def url_of(name: str) -> str:
    """Tell the URL of a database on the project's server; `postgres` is always there."""
    configured = Settings().database_url
    assert configured is not None  # the parts run
    return urlsplit(configured.get_secret_value())._replace(path=f"/{name}").geturl()


@contextmanager
def scratch_database() -> Iterator[str]:
    """Make a database with the project's schema on the project's server, give its name, and drop it afterwards."""
    name = f"benchmark_{uuid4().hex}"
    server = url_of("postgres")
    execute(server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        migrate(url_of(name))
        yield name
    finally:
        execute(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def server_facts(database_url: str) -> dict[str, str]:
    """Tell what the server is and how durable its commits are."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        facts = {}
        for name in names:
            cursor.execute("SELECT current_setting(%s)", (name,))
            facts[name] = cursor.fetchone()[0]
    return facts
