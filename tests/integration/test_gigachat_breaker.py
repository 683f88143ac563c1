"""The circuit breaker of GigaChat's client: an outage is found out, the server is left alone, and its end is seen."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.emulated_gigachat import EmulatedGigaChat
from tests.integration.test_gigachat_client import calls
from vision_assets.clients.gigachat import GigaChat
from vision_assets.core.errors import ProviderUnavailable

RECOVERY_SECONDS = 1.5


async def test_an_outage_is_found_out_once(gigachat: EmulatedGigaChat) -> None:
    """After failures in succession calls fail at once, and the server is left alone."""
    access = gigachat.access(read_seconds=5, deadline_seconds=3)
    gigachat.set_faults({"kind": "server_error", "endpoint": "balance", "status": 502})
    async with GigaChat.open(access) as client:
        results = await asyncio.gather(*(client.balance() for _ in range(8)), return_exceptions=True)
        assert all(isinstance(result, ProviderUnavailable) for result in results)
        asked = calls(gigachat, "balance")
        with pytest.raises(ProviderUnavailable, match="in succession"):
            await client.balance()
        assert calls(gigachat, "balance") == asked


async def outcome(client: GigaChat) -> str:
    """Make one attempt at a call: `answered`, `failed` by the server, or `spared` it."""
    try:
        await client.balance()
    except ProviderUnavailable as error:
        return "spared" if "in succession" in str(error) else "failed"
    return "answered"


@pytest.fixture
async def client_in_an_outage(gigachat: EmulatedGigaChat) -> AsyncIterator[GigaChat]:
    """A client that has found out that the server fails, and leaves it alone; it makes one attempt at a call."""
    gigachat.set_faults({"kind": "server_error", "endpoint": "balance", "status": 503})
    access = gigachat.access(read_seconds=5, deadline_seconds=0)
    access = replace(access, recovery_seconds=RECOVERY_SECONDS)
    async with GigaChat.open(access) as client:
        assert [await outcome(client) for _ in range(6)] == [*["failed"] * 5, "spared"]
        yield client


async def test_an_outage_that_is_over_is_forgotten(client_in_an_outage: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """After the recovery time one answer is enough: then it again takes five failures to leave the server alone."""
    gigachat.set_faults({"kind": "server_error", "endpoint": "balance", "after": 1, "times": 5})
    await asyncio.sleep(RECOVERY_SECONDS)
    outcomes = [await outcome(client_in_an_outage) for _ in range(7)]
    assert outcomes == ["answered", *["failed"] * 5, "spared"]


async def test_an_outage_that_goes_on_is_found_out_by_one_call(
    client_in_an_outage: GigaChat, gigachat: EmulatedGigaChat
) -> None:
    """While it lasts the server gets one call in each recovery time, and the first one that it answers ends it."""
    for _ in range(2):
        before = calls(gigachat, "balance")
        await asyncio.sleep(RECOVERY_SECONDS)
        assert [await outcome(client_in_an_outage) for _ in range(3)] == ["failed", "spared", "spared"]
        assert calls(gigachat, "balance") == before + 1
    gigachat.set_faults()
    await asyncio.sleep(RECOVERY_SECONDS)
    assert [await outcome(client_in_an_outage) for _ in range(2)] == ["answered", "answered"]
