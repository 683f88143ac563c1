"""Every fault of the emulated GigaChat, shown once, and how faults are limited to calls.

What is not here: what a client makes of them.
"""

import asyncio
import json
import time
from email.utils import parsedate_to_datetime
from typing import Any, get_args
from uuid import uuid4

import httpx
import pytest

from tests.emulated_gigachat import EmulatedGigaChat
from tests.pictures import encoded, photo
from vision_assets.devstack.gigachat import BUSINESS
from vision_assets.devstack.gigachat_faults import Plain
from vision_assets.devstack.gigachat_words import APOLOGY

MESSAGE = {"role": "user", "content": "Опиши словами"}
CHAT: dict[str, Any] = {"model": "GigaChat-2-Max", "messages": [MESSAGE]}
FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "schema": {"type": "object", "properties": {"is_meme": {"type": "boolean"}, "labels": {"type": "array"}}},
}
FORCED: dict[str, Any] = {
    "functions": [{"name": "save", "parameters": FORMAT["schema"]}],
    "function_call": {"name": "save"},
}


def chatted(gigachat_api: httpx.Client, timeout_seconds: float = 20, **options: Any) -> httpx.Response:
    """Ask something."""
    return gigachat_api.post("/chat/completions", json=CHAT | options, timeout=timeout_seconds)


def choice(answer: httpx.Response) -> Any:
    """Give the one choice of an answer."""
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_token_expired(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """In the middle of a run every token is over; a new one is good."""
    gigachat.set_faults({"kind": "token_expired", "after": 2, "times": 1})
    answers = [chatted(gigachat_api) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 401, 401]
    assert answers[2].json() == {"status": 401, "message": "Token has expired"}
    gigachat_api.headers.update(gigachat.headers())
    assert chatted(gigachat_api).status_code == 200
    assert len(gigachat.bills()) == 3


def test_rate_limited(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A burst of 429 without Retry-After, then with seconds, then with a date; then it is over."""
    gigachat.set_faults(
        {"kind": "rate_limited", "times": 2},
        {"kind": "rate_limited", "times": 1, "retry_after": "seconds", "retry_after_seconds": 7},
        {"kind": "rate_limited", "times": 1, "retry_after": "http_date", "retry_after_seconds": 60},
    )
    answers = [chatted(gigachat_api) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [429, 429, 429, 429, 200]
    assert [answer.headers.get("Retry-After") for answer in answers[:3]] == [None, None, "7"]
    assert 58 < parsedate_to_datetime(answers[3].headers["Retry-After"]).timestamp() - time.time() < 62
    assert len(gigachat.bills()) == 1


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "payment_required"}, 402),
        ({"kind": "server_error"}, 500),
        ({"kind": "server_error", "status": 502}, 502),
        ({"kind": "server_error", "status": 503}, 503),
    ],
)
def test_refusals_cost_nothing(
    gigachat: EmulatedGigaChat, gigachat_api: httpx.Client, fault: dict[str, Any], status: int
) -> None:
    """The status is answered in the API's form, is counted, and is not billed."""
    gigachat.set_faults(fault)
    answer = chatted(gigachat_api)
    assert answer.status_code == answer.json()["status"] == status
    assert gigachat.counts()["calls"]["tenant-a"]["chat"] == {str(status): 1}
    assert gigachat.bills() == []


@pytest.mark.parametrize(("kind", "bills"), [("hang", 0), ("hang_after_billing", 1)])
def test_hang(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client, kind: str, bills: int) -> None:
    """No answer comes; the call was billed or not; the next one is answered."""
    gigachat.set_faults({"kind": kind, "times": 1})
    with pytest.raises(httpx.ReadTimeout):
        chatted(gigachat_api, timeout_seconds=0.5)
    assert len(gigachat.bills()) == bills
    assert gigachat.counts()["calls"]["tenant-a"]["chat"] == {"hang": 1}
    assert chatted(gigachat_api).status_code == 200


@pytest.mark.parametrize(("when", "bills"), [("before_billing", 0), ("after_billing", 1)])
def test_drop(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client, when: str, bills: int) -> None:
    """The connection is closed at once without an answer; the call was billed or not."""
    gigachat.set_faults({"kind": "drop", "when": when, "times": 1})
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        chatted(gigachat_api)
    assert len(gigachat.bills()) == bills
    assert gigachat.counts()["calls"]["tenant-a"]["chat"] == {"drop": 1}
    assert chatted(gigachat_api).status_code == 200


def test_an_upload_whose_answer_is_lost_leaves_a_file(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """After-billing faults come when the work is done, where nothing is billed too."""
    gigachat.set_faults({"kind": "drop", "when": "after_billing", "endpoint": "files.upload"})
    with pytest.raises(httpx.TransportError):
        gigachat_api.post(
            "/files", files={"file": ("a", encoded(photo(96, 96)), "image/jpeg")}, data={"purpose": "general"}
        )
    assert len(gigachat.files()) == 1


def test_truncated_json(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A 200 with half of its body, billed."""
    gigachat.set_faults({"kind": "truncated_json"})
    answer = chatted(gigachat_api)
    assert answer.status_code == 200
    assert answer.text.startswith('{"choices":')
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert len(gigachat.bills()) == 1


def test_malformed_json(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A 200 with no JSON, and one with JSON of another shape, both billed."""
    gigachat.set_faults({"kind": "malformed_json", "times": 1}, {"kind": "malformed_json", "shape": "wrong_shape"})
    answers = [chatted(gigachat_api), chatted(gigachat_api)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].text.startswith("<html>")
    assert answers[1].json()["choices"] == "none"
    assert len(gigachat.bills()) == 2


def test_blacklist(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """An apology as a 200, billed with one token."""
    gigachat.set_faults({"kind": "blacklist"})
    answer = chatted(gigachat_api, response_format=FORMAT)
    assert (choice(answer)["finish_reason"], choice(answer)["message"]["content"]) == ("blacklist", APOLOGY)
    usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1, "precached_prompt_tokens": 0}
    assert answer.json()["usage"] == usage == gigachat.bills()[0]["usage"]


def test_length(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """An answer that ends in its middle once, text and arguments alike, and costs what it has."""
    whole = choice(chatted(gigachat_api, response_format=FORMAT))["message"]["content"]
    gigachat.set_faults({"kind": "length", "times": 2})
    cut = chatted(gigachat_api, response_format=FORMAT)
    assert choice(cut)["finish_reason"] == "length"
    assert whole.startswith(choice(cut)["message"]["content"])
    assert cut.json()["usage"]["completion_tokens"] == -(-len(whole) // 4) // 2
    forced = choice(chatted(gigachat_api, **FORCED))
    assert forced["finish_reason"] == "length"
    assert whole.startswith(forced["message"]["function_call"]["arguments"])
    assert choice(chatted(gigachat_api))["finish_reason"] == "stop"


def test_prose(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """Words where JSON or a function call was asked for."""
    gigachat.set_faults({"kind": "prose"})
    schema: dict[str, Any] = {"response_format": FORMAT}
    for options in (schema, FORCED):
        told = choice(chatted(gigachat_api, **options))
        assert told["finish_reason"] == "stop"
        assert told["message"]["content"] == "Расскажу своими словами. Опиши словами"
        assert "function_call" not in told["message"]


def test_broken_json(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """Nearly JSON, in a text and in arguments."""
    gigachat.set_faults({"kind": "broken_json"})
    broken = "{'is_meme': false, 'labels': ['опиши', 'словами'],}"
    assert choice(chatted(gigachat_api, response_format=FORMAT))["message"]["content"] == broken
    assert choice(chatted(gigachat_api, **FORCED))["message"]["function_call"]["arguments"] == broken


def test_arguments_as_string(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """Arguments are an object, and by the fault the same object as a string."""
    gigachat.set_faults({"kind": "arguments_as_string", "after": 1})
    first, second = (choice(chatted(gigachat_api, **FORCED))["message"]["function_call"]["arguments"] for _ in range(2))
    assert first == {"is_meme": False, "labels": ["опиши", "словами"]} == json.loads(second)


def test_response_format_unsupported(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A schema is refused, a forced function is not."""
    gigachat.set_faults({"kind": "response_format_unsupported"})
    answer = chatted(gigachat_api, response_format=FORMAT)
    assert (answer.status_code, answer.json()["message"]) == (
        422,
        "Invalid params: response_format is not supported",
    )
    assert choice(chatted(gigachat_api, **FORCED))["finish_reason"] == "function_call"
    assert len(gigachat.bills()) == 1


def test_embeddings_shuffled(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """Results come in another order, each with its index."""
    body = {"model": "Embeddings", "input": ["один", "два", "три"]}
    ordered = gigachat_api.post("/embeddings", json=body).json()["data"]
    gigachat.set_faults({"kind": "embeddings_shuffled"})
    shuffled = gigachat_api.post("/embeddings", json=body).json()["data"]
    assert [one["index"] for one in shuffled] == [1, 0, 2]
    assert sorted(shuffled, key=lambda one: one["index"]) == ordered


def test_expires_at_in_seconds(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """The expiry of a token in seconds."""
    gigachat.set_faults({"kind": "expires_at_in_seconds"})
    headers = {"Authorization": f"Basic {BUSINESS.credentials}", "RqUID": str(uuid4())}
    answer = gigachat_api.post(gigachat.auth_url, headers=headers, data={"scope": "GIGACHAT_API_B2B"})
    assert 29 * 60 < answer.json()["expires_at"] - time.time() < 31 * 60


def test_files_cannot_be_deleted(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A deletion is refused and the file stays."""
    part = ("a", encoded(photo(96, 96)), "image/jpeg")
    file = gigachat_api.post("/files", files={"file": part}, data={"purpose": "general"}).json()["id"]
    gigachat.set_faults({"kind": "files_cannot_be_deleted", "times": 1})
    assert gigachat_api.post(f"/files/{file}/delete").status_code == 403
    assert len(gigachat.files()) == 1
    assert gigachat_api.post(f"/files/{file}/delete").status_code == 200


def test_balance_forbidden(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A pay-as-you-go account has no balance."""
    gigachat.set_faults({"kind": "balance_forbidden"})
    answer = gigachat_api.get("/balance")
    assert (answer.status_code, answer.json()["message"]) == (403, "Permission denied")


def test_faults_are_limited_to_endpoint_tenant_and_number(
    gigachat: EmulatedGigaChat, gigachat_api: httpx.Client
) -> None:
    """Only the calls that are meant are hit, and the report says how many were."""
    gigachat.set_faults(
        {"kind": "server_error", "endpoint": "chat", "tenant": "tenant-b", "after": 1, "times": 2},
        {"kind": "payment_required", "endpoint": "files"},
    )
    statuses = [
        gigachat_api.post("/chat/completions", json=CHAT, headers={"X-Client-ID": tenant}).status_code
        for tenant in ("tenant-b", "tenant-a", "tenant-b", "tenant-b", "tenant-b")
    ]
    assert statuses == [200, 200, 500, 500, 200]
    assert gigachat_api.get("/files").status_code == 402
    assert gigachat_api.get("/models").status_code == 200
    assert [(one["kind"], one["met"], one["hit"]) for one in gigachat.faults()] == [
        ("server_error", 4, 2),
        ("payment_required", 1, 1),
    ]
    gigachat_api.delete(f"{gigachat.url}/emulator/faults")
    assert gigachat.faults() == []
    assert gigachat_api.get("/files").status_code == 200


@pytest.mark.parametrize(
    ("what", "body", "message"),
    [
        ("faults", [{"kind": "earthquake"}], "earthquake"),
        ("faults", [{"kind": "hang", "status": 500}], "Extra inputs are not permitted"),
        ("faults", [{"kind": "server_error", "status": 404}], "Input should be 500, 502 or 503"),
        ("faults", [{"kind": "blacklist", "endpoint": "oauth"}], "blacklist has no meaning at oauth"),
        ("faults", {"kind": "hang"}, "valid array"),
        ("options", {"streams": {"GIGACHAT_API": 1}}, "GIGACHAT_API_PERS"),
        ("options", {"latency": {"seconds": -1}}, "greater than or equal to 0"),
    ],
)
def test_wrong_control_requests_are_explained(
    gigachat: EmulatedGigaChat, gigachat_api: httpx.Client, what: str, body: Any, message: str
) -> None:
    """A control request that means nothing is refused with the reason, and changes nothing."""
    before = gigachat_api.get(f"{gigachat.url}/emulator/{what}").json()
    answer = gigachat_api.put(f"{gigachat.url}/emulator/{what}", json=body)
    assert answer.status_code == 422
    assert message in answer.text
    assert gigachat_api.get(f"{gigachat.url}/emulator/{what}").json() == before


def test_every_plain_fault_has_a_test_here() -> None:
    """A kind that is added without a test is missed."""
    text = "\n".join(one for one in globals() if one.startswith("test_"))
    kinds = get_args(Plain.model_fields["kind"].annotation)
    shown_by_others = {"payment_required": "refusals_cost_nothing", "hang_after_billing": "hang"}
    assert [kind for kind in kinds if f"test_{shown_by_others.get(kind, kind)}" not in text] == []


async def test_a_reset_leaves_calls_under_way_to_the_old_books(gigachat: EmulatedGigaChat) -> None:
    """A call that began before a reset is not billed after it."""
    gigachat.set_options(latency={"seconds": 1})
    async with httpx.AsyncClient(verify=gigachat.trust, headers=gigachat.headers(), trust_env=False) as client:
        call = asyncio.create_task(client.post(f"{gigachat.base_url}/chat/completions", json=CHAT))
        await asyncio.to_thread(gigachat.await_streams, 1)
        await asyncio.to_thread(gigachat.reset)
        assert (await call).status_code == 200
    assert gigachat.bills() == []
