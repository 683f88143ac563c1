"""What tests of every folder share: the real embedded parts, and a database and bucket for each test."""

from collections.abc import Generator, Iterator
from contextlib import closing
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import sql

from tests.devstack import own_data_dir
from vision_assets.clients.postgres.migrate import migrate
from vision_assets.devstack import s3
from vision_assets.devstack.parts import start_parts
from vision_assets.logs import configure_logging
from vision_assets.settings import Settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the kill and race tests run in their long form."""
    parser.addoption("--long", action="store_true", help="run the chaos tests in their long form")


def pytest_configure() -> None:
    """Log as the project does; by itself, structlog draws each traceback with all local variables, for seconds."""
    configure_logging()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell out half characters in what a test has logged: they cannot be sent by the process that ran it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def parts() -> Iterator[Settings]:
    """Run the embedded parts for the whole session and give the settings that lead to them."""
    with own_data_dir():
        start_parts()
        yield Settings()


def _execute(url: str, statement: str, *names: str) -> None:
    """Run a statement that cannot run in a transaction; `{}` stands for a name."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


@pytest.fixture(scope="session")
def server(parts: Settings) -> str:
    """Give the URL of the Postgres server's maintenance database."""
    assert parts.database_url
    return urlsplit(parts.database_url.get_secret_value())._replace(path="/postgres").geturl()


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """Migrate a database once, to be cloned, and give its name."""
    name = "template_migrated"
    _execute(server, "CREATE DATABASE {}", name)
    migrate(urlsplit(server)._replace(path=f"/{name}").geturl())
    return name


def cloned(server: str, template: str) -> Iterator[str]:
    """Give the URL of a copy of the template database, and drop it afterwards."""
    name = f"test_{uuid4().hex}"
    _execute(server, "CREATE DATABASE {} TEMPLATE {}", name, template)
    yield urlsplit(server)._replace(path=f"/{name}").geturl()
    _execute(server, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def database(server: str, template: str) -> Iterator[str]:
    """Give the URL of a migrated, empty database of this test's own."""
    yield from cloned(server, template)


@pytest.fixture
def bare_database(server: str) -> Iterator[str]:
    """Give the URL of a database without any table."""
    yield from cloned(server, "template0")


@pytest.fixture
def bucket(parts: Settings) -> str:
    """Give the name of an empty bucket of this test's own."""
    return new_bucket(parts)


def new_bucket(parts: Settings) -> str:
    """Make an empty bucket and give its name."""
    name = f"test-{uuid4().hex[:16]}"
    port = urlsplit(parts.s3_endpoint_url or "").port
    assert port
    s3.create_bucket(port, name)
    return name


@pytest.fixture
def qdrant(parts: Settings) -> str:
    """Give the URL of the search engine."""
    assert parts.qdrant_url
    return parts.qdrant_url
