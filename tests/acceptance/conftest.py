"""Fixtures of the acceptance tests: a machine on which nothing has run yet."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.commands import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A fresh data folder; whatever runs in it is stopped at the end."""
    # Not below pytest's own folder: when we are root, Postgres runs as another user and could not reach it.
    with tempfile.TemporaryDirectory(prefix="vision-assets-") as folder:
        Path(folder).chmod(0o711)
        fresh = Machine(Path(folder))
        yield fresh
        fresh.run("down")
