"""Who may call the emulated GigaChat and how much: OAuth, streams, latency, bills under load, TLS.

What is not here: what it answers (`test_gigachat_emulator.py`) and its faults (`test_gigachat_emulator_faults.py`).
"""

import asyncio
import base64
import math
import random
import ssl
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.emulated_gigachat import EmulatedGigaChat, emulated_gigachat
from vision_assets.devstack.gigachat import BUSINESS, PERSONAL
from vision_assets.devstack.gigachat_options import LognormalLatency
from vision_assets.devstack.gigachat_tls import server_context
from vision_assets.devstack.processes import free_port

MODEL = "GigaChat-2-Max"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Привет"}]}


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("changes", "scope", "told"),
    [
        ({}, "GIGACHAT_API", (400, 1)),
        ({"RqUID": ""}, "GIGACHAT_API_B2B", (400, 2)),
        ({"Authorization": "Basic ???"}, "GIGACHAT_API_B2B", (400, 4)),
        ({}, "", (400, 5)),
        ({"Authorization": _basic("business:wrong")}, "GIGACHAT_API_B2B", (401, 6)),
        ({}, "GIGACHAT_API_PERS", (400, 7)),
        ({}, "GIGACHAT_API_CORP", (200, None)),
    ],
)
def test_oauth(
    gigachat: EmulatedGigaChat,
    gigachat_api: httpx.Client,
    changes: dict[str, str],
    scope: str,
    told: tuple[int, int | None],
) -> None:
    """Each of the API's codes; a good request gives a token for half an hour, in milliseconds."""
    headers = {"Authorization": f"Basic {BUSINESS.credentials}", "RqUID": str(uuid4()), **changes}
    answer = gigachat_api.post(gigachat.auth_url, headers=headers, data={"scope": scope})
    assert (answer.status_code, answer.json().get("code")) == told
    if answer.status_code == 200:
        assert 29 * 60 < answer.json()["expires_at"] / 1000 - time.time() < 31 * 60


def test_oauth_is_limited_to_ten_a_second(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """The eleventh request of a second is refused, those of another account are not."""
    gigachat.reset()
    headers = {"Authorization": f"Basic {BUSINESS.credentials}", "RqUID": str(uuid4())}
    started = time.monotonic()
    statuses = [
        gigachat_api.post(gigachat.auth_url, headers=headers, data={"scope": "GIGACHAT_API_B2B"}).status_code
        for _ in range(11)
    ]
    assert time.monotonic() - started < 1, "too slow a machine for this test"
    assert statuses == [200] * 10 + [429]
    assert gigachat.token(PERSONAL, "GIGACHAT_API_PERS")
    assert gigachat.counts()["oauth_calls"] == 12


def test_callers_that_are_refused(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """No token, a wrong token, a token that is over, no user agent; identifiers come back all the same."""
    for authorization in ("", "Bearer wrong"):
        answer = gigachat_api.get("/models", headers={"Authorization": authorization})
        assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized")
    answer = gigachat_api.get("/models", headers={"User-Agent": "", "X-Request-ID": "r", "X-Session-ID": "s"})
    assert (answer.status_code, answer.json()["message"]) == (403, "Permission denied")
    assert (answer.headers["X-Request-Id"], answer.headers["X-Session-Id"]) == ("r", "s")
    gigachat.set_options(token_lifetime_seconds=0.05)
    headers = gigachat.headers()
    time.sleep(0.06)
    answer = gigachat_api.get("/models", headers=headers)
    assert (answer.status_code, answer.json()["message"]) == (401, "Token has expired")


async def test_bills_are_exact_under_fifty_calls_at_once(gigachat: EmulatedGigaChat) -> None:
    """What the clients were told is what was billed, by tenant and kind; refused calls cost nothing."""
    gigachat.set_options(streams={"GIGACHAT_API_B2B": 50}, latency={"mean_seconds": 0.3, "sigma": 0.5})
    headers = gigachat.headers()
    told: dict[str, int] = {}
    async with httpx.AsyncClient(
        verify=gigachat.trust, base_url=gigachat.base_url, headers=headers, timeout=30, trust_env=False
    ) as client:

        async def ask(number: int) -> None:
            tenant = f"tenant-{number % 5}"
            model = "GPT" if number % 10 == 9 else MODEL
            body = {"model": model, "messages": [{"role": "user", "content": "слово " * (number + 1)}]}
            answer = await client.post("/chat/completions", json=body, headers={"X-Client-ID": tenant})
            if answer.status_code == 200:
                told[tenant] = told.get(tenant, 0) + answer.json()["usage"]["total_tokens"]

        await asyncio.gather(*(ask(number) for number in range(50)))
    counts = gigachat.counts()
    billed = {tenant: kinds["chat"]["total_tokens"] for tenant, kinds in counts["billed"].items()}
    assert billed == told
    assert len(counts["bills"]) == 45
    assert counts["calls"]["tenant-4"]["chat"] == {"200": 5, "404": 5}
    assert counts["streams"]["chat"]["max"] > 10


@pytest.mark.parametrize(
    ("account", "scope", "limit"), [(PERSONAL, "GIGACHAT_API_PERS", 1), (BUSINESS, "GIGACHAT_API_B2B", 10)]
)
async def test_streams_are_limited(gigachat: EmulatedGigaChat, account: Any, scope: str, limit: int) -> None:
    """A personal account has one call at once, a business ten; one more is refused until a client goes away."""
    gigachat.set_faults({"kind": "hang", "endpoint": "chat", "times": limit})
    url, body = f"{gigachat.base_url}/chat/completions", CHAT
    headers = gigachat.headers(account=account, scope=scope)

    async with httpx.AsyncClient(verify=gigachat.trust, headers=headers, trust_env=False, timeout=30) as client:
        calls = [asyncio.create_task(client.post(url, json=body)) for _ in range(limit)]
        await asyncio.to_thread(gigachat.await_streams, limit)
        refused = await client.post(url, json=body)
        assert (refused.status_code, refused.json()["message"]) == (429, "Too many requests")
        assert (await client.get(f"{gigachat.base_url}/models")).status_code == 200
        for call in calls:
            call.cancel()
        await asyncio.to_thread(gigachat.await_streams, 0)
        assert (await client.post(url, json=body)).status_code == 200
    assert gigachat.counts()["streams"]["chat"] == {"now": 0, "max": limit}
    assert len(gigachat.bills()) == 1


def test_calls_take_as_long_as_they_are_told_to(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A constant latency is waited for, by chats and not by the models' list."""
    gigachat.set_options(latency={"seconds": 0.4})
    starts = [time.perf_counter()]
    assert gigachat_api.post("/chat/completions", json=CHAT).status_code == 200
    starts.append(time.perf_counter())
    assert gigachat_api.get("/models").status_code == 200
    starts.append(time.perf_counter())
    assert starts[1] - starts[0] >= 0.4 > starts[2] - starts[1]


def test_latencies_have_the_given_distribution() -> None:
    """Drawn latencies have the mean that was asked for and the spread of their logarithms, and repeat with the seed."""
    latency = LognormalLatency(mean_seconds=0.4, sigma=0.2)
    draws = [[latency.draw(source) for _ in range(5000)] for source in (random.Random(1), random.Random(1))]
    assert draws[0] == draws[1]
    assert statistics.fmean(draws[0]) == pytest.approx(0.4, rel=0.02)
    assert statistics.stdev(map(math.log, draws[0])) == pytest.approx(0.2, rel=0.05)


def test_clients_that_do_not_trust_the_authority_are_kept_out(gigachat: EmulatedGigaChat) -> None:
    """Without the CA no connection is made; the SDK has the same idea of trust."""
    with (
        httpx.Client(verify=ssl.create_default_context(), trust_env=False) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.get(f"{gigachat.base_url}/models")


def test_it_runs_alone_and_is_trusted_after_a_restart(tmp_path: Path) -> None:
    """The program serves, ends on a signal, and has the same authority when it comes again."""
    server_context(tmp_path / "g")
    authority = (tmp_path / "g" / "ca.pem").read_bytes()
    trust = ssl.create_default_context(cafile=tmp_path / "g" / "ca.pem")
    port = free_port()
    program = [
        sys.executable,
        "-m",
        "vision_assets.devstack.gigachat",
        "--port",
        str(port),
        "--dir",
        str(tmp_path / "g"),
    ]
    with subprocess.Popen(program) as process, httpx.Client(verify=trust, trust_env=False) as client:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    assert client.get(f"https://127.0.0.1:{port}/emulator/counts").json()["bills"] == []
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
        finally:
            process.terminate()
        assert process.wait(10) in (0, -15)
    assert (tmp_path / "g" / "ca.pem").read_bytes() == authority
    assert (tmp_path / "g" / "ca.key").stat().st_mode & 0o077 == 0


async def test_it_ends_at_once_while_calls_hang(tmp_path: Path) -> None:
    """A hung call does not keep the server: its connection is dropped."""
    with emulated_gigachat(tmp_path) as own:
        own.set_faults({"kind": "hang", "endpoint": "chat"})
        headers, url = own.headers(), f"{own.base_url}/chat/completions"
        client = httpx.AsyncClient(verify=own.trust, headers=headers, trust_env=False, timeout=30)
        call = asyncio.create_task(client.post(url, json=CHAT))
        await asyncio.to_thread(own.await_streams, 1)
        start = time.monotonic()
    assert time.monotonic() - start < 4
    with pytest.raises(httpx.TransportError):
        await call
    await client.aclose()
