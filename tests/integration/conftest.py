"""Fixtures of the integration tests: the core's passes over the real parts, and the emulated provider."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.bench import Bench, NewBench
from tests.emulated_gigachat import EmulatedGigaChat, emulated_gigachat
from tests.emulated_openai import EmulatedOpenAI, emulated_openai
from tests.world import World, open_world
from vision_assets.clients.postgres.budget import PostgresBudget
from vision_assets.settings import Settings


@pytest.fixture
async def world(database: str, bucket: str, parts: Settings) -> AsyncIterator[World]:
    """A fresh database and a fresh bucket."""
    async with open_world(database, bucket, parts) as opened:
        yield opened


@pytest.fixture(scope="session")
def gigachat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedGigaChat]:
    """Run the emulated GigaChat for the whole session."""
    with emulated_gigachat(tmp_path_factory.mktemp("gigachat")) as server:
        yield server


@pytest.fixture
def gigachat(gigachat_server: EmulatedGigaChat) -> EmulatedGigaChat:
    """Give the emulated GigaChat as if it had just been started."""
    gigachat_server.reset()
    return gigachat_server


@pytest.fixture
def gigachat_api(gigachat: EmulatedGigaChat) -> Iterator[httpx.Client]:
    """A plain client of one tenant, with a token."""
    with httpx.Client(
        verify=gigachat.trust, base_url=gigachat.base_url, headers=gigachat.headers("tenant-a"), trust_env=False
    ) as client:
        yield client


@pytest.fixture
async def new_bench(world: World, database: str, bucket: str, parts: Settings) -> AsyncIterator[NewBench]:
    """Make a bench for a tenant of this name."""
    async with AsyncExitStack() as stack:

        async def make(name: str) -> Bench:
            return Bench(
                worlds=lambda: stack.enter_async_context(open_world(database, bucket, parts)),
                ledgers=lambda: stack.enter_async_context(PostgresBudget.open(database)),
                world=world,
                tenant=await world.tenant(name),
            )

        yield make


@pytest.fixture(scope="session")
def openai_at_work() -> Iterator[EmulatedOpenAI]:
    """Run the emulated API that speaks as OpenAI's for the whole session."""
    with emulated_openai() as server:
        yield server


@pytest.fixture
def openai_server(openai_at_work: EmulatedOpenAI) -> EmulatedOpenAI:
    """Give it as if it had just been started."""
    openai_at_work.reset()
    return openai_at_work
