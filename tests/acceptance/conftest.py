"""Fixtures of the acceptance tests: a machine on which nothing has run yet."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.commands import Machine


@contextmanager
def fresh_machine() -> Iterator[Machine]:
    """A fresh data folder; whatever runs in it is stopped at the end."""
    # Not below pytest's own folder: when we are root, Postgres runs as another user and could not reach it.
    with tempfile.TemporaryDirectory(prefix="vision-assets-") as folder:
        Path(folder).chmod(0o711)
        machine = Machine(Path(folder))
        yield machine
        machine.run("down")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine on which nothing has run yet."""
    with fresh_machine() as machine:
        yield machine


@pytest.fixture
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines on which nothing has run yet."""
    with fresh_machine() as one, fresh_machine() as other:
        yield one, other
