"""Fixtures of the safety tests: the core's passes over the real parts."""

from collections.abc import AsyncIterator

import pytest

from tests.world import World, open_world
from vision_assets.settings import Settings


@pytest.fixture
async def world(database: str, bucket: str, parts: Settings) -> AsyncIterator[World]:
    """A fresh database and a fresh bucket."""
    async with open_world(database, bucket, parts) as opened:
        yield opened
