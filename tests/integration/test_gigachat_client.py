"""The client of GigaChat against the emulated server, over HTTPS: every fault of its contract in turn."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from gigachat.models import ChatCompletion
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.emulated_gigachat import EmulatedGigaChat
from tests.pictures import encoded, photo
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_wire import GigaChatAccess
from vision_assets.clients.provider_calls import retry_after_seconds
from vision_assets.core.errors import (
    ConfigurationError,
    InputRejected,
    ProviderBudgetGone,
    ProviderUnavailable,
    VisionAssetsError,
)
from vision_assets.core.tenants import TenantId

TENANT = TenantId(UUID(int=7))
MODEL = "GigaChat-2-Max"
PICTURE = encoded(photo(320, 240))


@pytest.fixture
def access(gigachat: EmulatedGigaChat) -> GigaChatAccess:
    """Access to the emulated server, with short time-outs."""
    return gigachat.access(read_seconds=0.7, deadline_seconds=8)


@pytest.fixture
async def client(access: GigaChatAccess) -> AsyncIterator[GigaChat]:
    """A client in the test's loop."""
    async with GigaChat.open(access) as opened:
        yield opened


async def ask(client: GigaChat, **more: Any) -> ChatCompletion:
    """Upload a picture, ask about it, delete it."""
    async with client.uploaded(PICTURE, mime="image/jpeg") as file_id:
        return await client.chat(
            TENANT,
            {"model": MODEL, "messages": [{"role": "user", "content": "Опиши.", "attachments": [file_id]}], **more},
        )


def calls(gigachat: EmulatedGigaChat, endpoint: str) -> int:
    """Count the calls of an endpoint that were answered or broken off."""
    by_tenant = gigachat.counts()["calls"].values()
    return sum(sum(endpoints.get(endpoint, {}).values()) for endpoints in by_tenant)


async def test_a_picture_is_seen_and_nothing_stays(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """One call: a token, an upload, an answer, a deletion; billed to the tenant, to the token."""
    completion = await ask(client)
    assert completion.choices[0].finish_reason == "stop"
    [bill] = gigachat.bills()
    assert (bill["tenant"], bill["usage"]["total_tokens"]) == (str(TENANT), completion.usage.total_tokens)
    assert gigachat.files() == []
    assert calls(gigachat, "oauth") == 1


async def test_the_environment_changes_nothing(
    gigachat: EmulatedGigaChat, access: GigaChatAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`GIGACHAT_*` of the SDK's own are not read, so that nobody turns the verification of certificates off by them."""
    monkeypatch.setenv("GIGACHAT_VERIFY_SSL_CERTS", "false")
    monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "stolen")
    monkeypatch.setenv("GIGACHAT_MAX_RETRIES", "50")
    async with GigaChat.open(access) as client:
        await ask(client)
    async with GigaChat.open(replace(access, ca_file=None, deadline_seconds=0.5)) as client:
        with pytest.raises(ProviderUnavailable, match="certificate") as failed:
            await client.balance()
    assert not failed.value.sent
    assert calls(gigachat, "oauth") == 1


Faults = list[dict[str, Any]]


@pytest.mark.parametrize(
    "faults",
    [
        [{"kind": "token_expired", "endpoint": "chat", "times": 1}],
        [{"kind": "rate_limited", "endpoint": "chat", "times": 2}],
        [{"kind": "rate_limited", "endpoint": "chat", "times": 1, "retry_after": "seconds"}],
        [{"kind": "rate_limited", "endpoint": "chat", "times": 1, "retry_after": "http_date"}],
        [{"kind": "rate_limited", "endpoint": "oauth", "times": 1}],
        [{"kind": "server_error", "endpoint": "chat", "times": 2, "status": 503}],
        [{"kind": "server_error", "endpoint": "files", "times": 2, "status": 500}],
        [{"kind": "hang", "endpoint": "files.upload", "times": 1}],
        [{"kind": "drop", "endpoint": "oauth", "times": 1}],
        [{"kind": "expires_at_in_seconds"}],
        [{"kind": "truncated_json", "endpoint": "files.upload", "times": 1}],
        [{"kind": "server_error", "endpoint": "files.delete", "times": 1}],
    ],
    ids=lambda faults: f"{faults[0]['kind']}-{faults[0].get('endpoint', '')}-{faults[0].get('retry_after', '')}",
)
async def test_what_passes_is_waited_out(client: GigaChat, gigachat: EmulatedGigaChat, faults: Faults) -> None:
    """What certainly was not billed is tried again until it works, and is billed once."""
    gigachat.set_faults(*faults)
    completion = await ask(client)
    assert all(fault["hit"] for fault in gigachat.faults())
    assert [bill["usage"]["total_tokens"] for bill in gigachat.bills()] == [completion.usage.total_tokens]
    if faults[0].get("endpoint") != "files.upload":  # an upload whose answer was lost is the janitor's
        assert gigachat.files() == []
    if faults[0]["kind"] == "expires_at_in_seconds":
        assert calls(gigachat, "oauth") == 1, "the token was known to last"


async def test_a_wait_is_as_long_as_asked_for(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """Nobody comes back earlier than `Retry-After` says, and one that is too long ends the call instead."""
    gigachat.set_faults(
        {"kind": "rate_limited", "endpoint": "chat", "times": 1, "retry_after": "seconds", "retry_after_seconds": 2}
    )
    started = time.monotonic()
    await ask(client)
    assert time.monotonic() - started >= 2
    gigachat.set_faults(
        {"kind": "rate_limited", "endpoint": "chat", "retry_after": "seconds", "retry_after_seconds": 3600}
    )
    started = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="429") as failed:
        await ask(client)
    assert time.monotonic() - started < 5
    assert (failed.value.sent, failed.value.retry_after_seconds) == (False, 3600)


@pytest.mark.parametrize(
    ("fault", "billed"),
    [
        ({"kind": "hang"}, 0),
        ({"kind": "hang_after_billing"}, 1),
        ({"kind": "drop"}, 0),
        ({"kind": "drop", "when": "after_billing"}, 1),
        ({"kind": "truncated_json"}, 1),
        ({"kind": "malformed_json"}, 1),
        ({"kind": "malformed_json", "shape": "wrong_shape"}, 1),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
async def test_what_may_have_been_billed_is_not_tried_again(
    client: GigaChat, gigachat: EmulatedGigaChat, fault: dict[str, Any], billed: int
) -> None:
    """Without an answer that can be read nobody knows, so the caller is told that it may have been billed."""
    gigachat.set_faults({**fault, "endpoint": "chat"})
    with pytest.raises(ProviderUnavailable) as failed:
        await ask(client)
    assert failed.value.sent
    assert gigachat.faults()[0]["hit"] == 1
    assert len(gigachat.bills()) == billed
    assert gigachat.files() == []


@pytest.mark.parametrize(
    ("fault", "change", "expected"),
    [
        ({"kind": "payment_required", "endpoint": "chat"}, {}, (ProviderBudgetGone, "Top the account up")),
        (None, {"model": "GigaChat-9"}, (ConfigurationError, "GIGACHAT_MODEL")),
        (None, {"messages": []}, (InputRejected, "GigaChat answered 4")),
        (None, {"messages": [{"role": "user", "content": "?", "attachments": ["nothing"]}]}, (InputRejected, "422")),
    ],
)
async def test_what_will_not_pass_is_told_at_once(
    client: GigaChat,
    gigachat: EmulatedGigaChat,
    fault: dict[str, Any] | None,
    change: dict[str, Any],
    expected: tuple[type[VisionAssetsError], str],
) -> None:
    """What no repetition mends is asked once, is not billed, and says what to do."""
    if fault:
        gigachat.set_faults(fault)
    with pytest.raises(expected[0], match=expected[1]):
        await ask(client, **change)
    assert calls(gigachat, "chat") == 1
    assert gigachat.bills() == []
    assert gigachat.files() == []


@pytest.mark.parametrize("change", [{"credentials": SecretStr("bm86Ym9keQ==")}, {"scope": "GIGACHAT_API_PERS"}])
async def test_wrong_credentials_are_a_setting(
    access: GigaChatAccess, gigachat: EmulatedGigaChat, change: dict[str, Any]
) -> None:
    """The operator hears which settings to look at, and not the credentials themselves."""
    async with GigaChat.open(replace(access, **change)) as client:
        with pytest.raises(ConfigurationError) as failed:
            await client.balance()
    assert "GIGACHAT_CREDENTIALS" in str(failed.value)
    assert "bm86Ym9keQ" not in repr(failed.value) + repr(failed.value.__cause__)
    assert calls(gigachat, "balance") == 0


async def test_a_secret_that_cannot_be_sent_is_not_told(access: GigaChatAccess) -> None:
    """Credentials that fit into no header are a setting too, and stand in no text, not even in the error's cause."""
    async with GigaChat.open(replace(access, credentials=SecretStr("c2VjcmV0\nc2VjcmV0"))) as client:
        with pytest.raises(ConfigurationError, match="GIGACHAT_CREDENTIALS") as failed:
            await client.balance()
    assert "c2VjcmV0" not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("wrong", ["base_url", "auth_url"])
async def test_a_wrong_address_rejects_no_picture(access: GigaChatAccess, wrong: str) -> None:
    """A server that does not know what it is asked says nothing of the picture."""
    change: dict[str, Any] = {wrong: getattr(access, wrong) + "/nowhere"}
    async with GigaChat.open(replace(access, deadline_seconds=2, **change)) as client:
        with pytest.raises((ConfigurationError, ProviderUnavailable)):
            await ask(client)


@pytest.mark.parametrize("fault", [{"kind": "malformed_json"}, {"kind": "drop", "when": "after_billing"}])
async def test_a_file_that_is_gone_already_is_deleted(
    client: GigaChat, gigachat: EmulatedGigaChat, fault: dict[str, Any]
) -> None:
    """A deletion whose answer is lost is made again, and "no such file" is what was wanted."""
    gigachat.set_faults({**fault, "endpoint": "files.delete", "times": 1})
    with capture_logs() as logs:
        await ask(client)
    assert gigachat.faults()[0]["hit"] == 1
    assert gigachat.files() == []
    assert "gigachat.file_left" not in {line["event"] for line in logs}


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7),
        ("Wed, 21 Oct 2026 07:28:10 GMT", 10),
        ("Wed, 21 Oct 2026 07:28:10 -0000", 10),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_every_form(told: str, seconds: float | None) -> None:
    """Seconds, dates with and without a zone, and what says nothing."""
    now = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)
    assert retry_after_seconds(httpx.Headers({"Retry-After": told}), now=now) == seconds


async def test_one_refresh_serves_all(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """Ten calls at once whose token has expired fetch one new token."""
    await client.balance()
    gigachat.set_options(latency={"mean_seconds": 0.1, "sigma": 0.8}, latency_endpoints=["balance"])
    gigachat.set_faults({"kind": "token_expired", "endpoint": "balance", "times": 1})
    before = calls(gigachat, "oauth")
    await asyncio.gather(*(client.balance() for _ in range(10)))
    assert calls(gigachat, "oauth") == before + 1


async def test_arguments_come_as_an_object_either_way(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """The specification says text, traffic says object: both are read alike."""
    function = {
        "name": "describe",
        "parameters": {
            "type": "object",
            "properties": {"description": {"type": "string"}},
            "required": ["description"],
        },
    }
    forced = {"functions": [function], "function_call": {"name": "describe"}}
    seen = []
    for faults in ([], [{"kind": "arguments_as_string"}]):
        gigachat.set_faults(*faults)
        call = (await ask(client, **forced)).choices[0].message.function_call
        assert call is not None
        seen.append(call.arguments)
    assert seen[0] == seen[1]
    assert seen[0]
    assert seen[0]["description"]


async def test_cancelled_calls_leave_no_file(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """Whoever is cancelled while the model thinks has his file deleted all the same."""
    gigachat.set_faults({"kind": "hang", "endpoint": "chat"})
    asking = asyncio.create_task(ask(client))
    while not gigachat.faults()[0]["hit"]:  # noqa: ASYNC110 - the server tells no event
        await asyncio.sleep(0.02)
    assert len(gigachat.files()) == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert gigachat.files() == []


async def test_the_janitor_deletes_old_files_of_ours(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """A file that could not be deleted stays, and goes with the next round; others' files and young ones are left."""
    gigachat.set_faults({"kind": "files_cannot_be_deleted"})
    await ask(replace(client))
    assert len(gigachat.files()) == 1
    gigachat.set_faults()
    await client._sdk.aupload_file(("report.jpeg", PICTURE, "image/jpeg"))
    assert await client.delete_leftovers() == 0
    assert await client.delete_leftovers(now=datetime.now(UTC) + timedelta(hours=2)) == 1
    assert [file["filename"] for file in gigachat.files()] == ["report.jpeg"]


async def test_texts_are_embedded_in_batches_and_in_order(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """More texts than a call may have make several, and every text gets its own vector."""
    texts = [f"текст {number}" for number in range(230)]
    gigachat.set_faults({"kind": "embeddings_shuffled"})
    vectors = await client.embed(texts, model="Embeddings")
    gigachat.set_faults()
    assert vectors[150] == (await client.embed([texts[150]], model="Embeddings"))[0]
    assert {len(vector) for vector in vectors} == {1024}
    assert calls(gigachat, "embeddings") == 4


async def test_a_balance_is_told_where_there_is_one(client: GigaChat, gigachat: EmulatedGigaChat) -> None:
    """Prepaid accounts have a balance; for the others it is None, and no error."""
    balance = await client.balance()
    assert balance
    assert all(value > 0 for value in balance.values())
    gigachat.set_faults({"kind": "balance_forbidden"})
    assert await client.balance() is None
