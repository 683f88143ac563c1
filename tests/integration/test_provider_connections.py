"""Connections to the paid providers, as a relay between client and server sees them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import SecretStr

from tests.emulated_gigachat import EmulatedGigaChat
from tests.emulated_openai import KEY, MODEL, EmulatedOpenAI
from tests.pictures import encoded, photo
from tests.results import seen_by
from tests.served import served
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.clients.openai_compatible import OpenAIAccess, OpenAICompatible
from vision_assets.clients.openai_vision import OpenAIVision
from vision_assets.clients.provider_calls import KEEPALIVE_SECONDS
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import VisionProvider

TENANT = TenantId(UUID(int=7))
PICTURE = encoded(photo(320, 240))


@contextmanager
def relay(url: str) -> Iterator[tuple[str, list[object]]]:
    """Stand before a server: give the URL with a port of our own, and the connections made to it so far."""
    port = urlsplit(url).port
    connections: list[object] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, to_server), copy(from_server, writer))

    with served(handle) as own:
        yield url.replace(f":{port}", f":{own}"), connections


async def connections_after_a_pause(vision: VisionProvider, connections: list[object]) -> tuple[int, int]:
    """Count those of two pictures in a row, and those when a third has come after a pause."""
    await seen_by(vision, PICTURE)
    await seen_by(vision, PICTURE)
    in_a_row = len(connections)
    await asyncio.sleep(KEEPALIVE_SECONDS + 0.3)
    await seen_by(vision, PICTURE)
    return in_a_row, len(connections)


async def test_no_call_meets_the_end_of_an_idle_connection(
    gigachat: EmulatedGigaChat, openai_server: EmulatedOpenAI
) -> None:
    """Calls in a row share a connection; one that has idled, and that the server may be closing, is not used again."""
    with relay(gigachat.url) as (url, connections):
        access = gigachat.access(read_seconds=10, deadline_seconds=20)
        through_relay = replace(access, base_url=access.base_url.replace(gigachat.url, url))
        async with GigaChat.open(through_relay) as api:
            vision = GigaChatVision(api, TENANT, model="GigaChat-2-Max")
            assert await connections_after_a_pause(vision, connections) == (1, 2)
    with relay(openai_server.base_url) as (url, connections):
        async with OpenAICompatible.open(OpenAIAccess(url, SecretStr(KEY))) as client:
            assert await connections_after_a_pause(OpenAIVision(client, TENANT, model=MODEL), connections) == (1, 2)
