"""A model behind an API like OpenAI's, against the emulated server: every rung of the ladder, every fault, its cost."""

import base64
import io
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from pydantic import SecretStr

from tests.emulated_gigachat import EmulatedGigaChat
from tests.emulated_openai import KEY, MODEL, EmulatedOpenAI, Oddity, Slower, Status
from tests.pictures import encoded, infographic, photo, screenshot
from tests.results import seen_by
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.clients.openai_compatible import OpenAIAccess, OpenAICompatible
from vision_assets.clients.openai_vision import OpenAIVision
from vision_assets.core.errors import (
    AnswerRefused,
    ConfigurationError,
    InputRejected,
    ProviderBudgetGone,
    ProviderUnavailable,
    VisionAssetsError,
)
from vision_assets.core.prompts import Language
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Analysis

TENANT = TenantId(UUID(int=7))
PICTURE = encoded(photo(320, 240))


@pytest.fixture
def access(openai_server: EmulatedOpenAI) -> OpenAIAccess:
    """Access to the emulated server, with short time-outs."""
    return OpenAIAccess(openai_server.base_url, SecretStr(KEY), connect_seconds=5, read_seconds=0.7, deadline_seconds=3)


@pytest.fixture
async def vision(access: OpenAIAccess) -> AsyncIterator[OpenAIVision]:
    """The provider of one tenant."""
    async with OpenAICompatible.open(access) as api:
        yield OpenAIVision(api, TENANT, model=MODEL)


async def test_a_picture_is_described(vision: OpenAIVision, openai_server: EmulatedOpenAI) -> None:
    """The model's words, our measurements, the bill to the token and to the tenant; the picture goes with it."""
    analysis = await seen_by(vision, PICTURE)
    assert analysis.description
    assert "фотография" in analysis.description
    assert (analysis.measurement.width, analysis.measurement.height) == (320, 240)
    assert analysis.file_id is None
    assert openai_server.bills == [(str(TENANT), analysis.tokens_used)]
    assert analysis.tokens_used <= vision.estimated_tokens


@pytest.mark.parametrize("image", [photo(320, 240), screenshot(), infographic()], ids=["photo", "screen", "chart"])
@pytest.mark.parametrize("refused", [0, 1, 2], ids=["schema", "function", "words"])
async def test_both_providers_give_the_same_analysis(
    vision: OpenAIVision, openai_server: EmulatedOpenAI, gigachat: EmulatedGigaChat, image: Image.Image, refused: int
) -> None:
    """The same eyes seen through two APIs: all but who said it and what it cost is the same, in every form."""
    openai_server.set_faults(*[Oddity(kind="form_refused"), Oddity(kind="functions_refused")][:refused])
    picture = encoded(image)
    async with GigaChat.open(gigachat.access(read_seconds=5, deadline_seconds=3)) as api:
        other = await seen_by(GigaChatVision(api, TENANT, model="GigaChat-2-Max"), picture)
    assert alike(await seen_by(vision, picture)) == alike(other)


def alike(analysis: Analysis) -> dict[str, Any]:
    """Lay out what does not depend on the provider."""
    return analysis.model_dump(
        exclude={"tokens_used": True, "file_id": True, "classification": {"method"}, "ocr": {"engine"}}
    )


async def test_the_environment_changes_nothing(
    access: OpenAIAccess, openai_server: EmulatedOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the SDK would read by itself is not sent; without a key none is, whatever stands there."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-stolen")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-stolen")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-stolen")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: stolen\nAuthorization: Bearer stolen")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with OpenAICompatible.open(access) as api:
        await seen_by(OpenAIVision(api, TENANT, model=MODEL), PICTURE)
    async with OpenAICompatible.open(replace(access, api_key=None)) as api:
        with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
            await seen_by(OpenAIVision(api, TENANT, model=MODEL), PICTURE)
    first, second = (request["headers"] for request in openai_server.requests)
    assert first["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in second
    assert "stolen" not in str((first, second))
    assert not [name for name in first if name.startswith(("openai-", "x-"))]


@pytest.mark.parametrize(
    ("faults", "calls"),
    [
        ([Oddity(kind="form_refused")], 1),
        ([Oddity(kind="form_refused"), Oddity(kind="functions_refused")], 1),
        ([Oddity(kind="form_refused"), Oddity(kind="broken_json")], 1),
        ([Oddity(kind="broken_json")], 1),
        ([Oddity(kind="length", times=1)], 2),
        ([Oddity(kind="prose", times=1)], 2),
    ],
    ids=["function", "words", "broken arguments", "repaired here", "broken off", "repaired by the model"],
)
async def test_each_rung_gives_an_answer(
    vision: OpenAIVision, openai_server: EmulatedOpenAI, faults: list[Oddity], calls: int
) -> None:
    """Wherever the answer comes from it is whole, and all calls that it took are counted."""
    openai_server.set_faults(*faults)
    analysis = await seen_by(vision, PICTURE)
    assert all(openai_server.hits())
    assert len(openai_server.bills) == calls
    assert analysis.tokens_used == openai_server.billed
    assert analysis.labels


@pytest.mark.parametrize("kind", ["no_usage", "usage_not_counted"])
async def test_usage_that_is_not_told_is_charged_at_the_estimate(
    vision: OpenAIVision, openai_server: EmulatedOpenAI, kind: Any
) -> None:
    """Nobody is let through for nothing: each question then costs what it was held at."""
    openai_server.set_faults(Oddity(kind=kind), Oddity(kind="prose", times=1))
    analysis = await seen_by(vision, PICTURE)
    assert analysis.tokens_used == 2 * vision.estimated_tokens > openai_server.billed


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("content_filter", "content_filter"), ("refusal", "content_filter"), ("prose", "parse_failed")],
)
async def test_no_answer_is_made_up(
    vision: OpenAIVision, openai_server: EmulatedOpenAI, kind: Any, reason: str
) -> None:
    """Refusals and prose become errors, with what they cost."""
    openai_server.set_faults(Oddity(kind=kind))
    with pytest.raises(AnswerRefused) as refused:
        await seen_by(vision, PICTURE)
    assert refused.value.reason == reason
    assert refused.value.tokens_used == openai_server.billed > 0


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {}, ConfigurationError),
        (403, {}, ConfigurationError),
        (403, {"metadata": {"reasons": ["violence"], "flagged_input": "…"}}, InputRejected),
        (404, {}, ConfigurationError),
        (307, {}, ConfigurationError),
        (402, {}, ProviderBudgetGone),
        (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, ProviderBudgetGone),
        (400, {}, InputRejected),
        (413, {}, InputRejected),
        (422, {}, InputRejected),
    ],
)
@pytest.mark.parametrize("in_answer", [False, True])
async def test_what_does_not_pass_is_not_asked_again(
    vision: OpenAIVision,
    openai_server: EmulatedOpenAI,
    *,
    status: int,
    body: dict[str, Any],
    expected: type[VisionAssetsError],
    in_answer: bool,
) -> None:
    """Each is told by its kind, whether it comes as a status or within an answer, and costs nothing."""
    openai_server.set_faults(Status(status=status, body=body, in_answer=in_answer))
    with pytest.raises(expected) as refused:
        await seen_by(vision, PICTURE)
    assert openai_server.bills == []
    if expected is not InputRejected:  # else each form is tried
        assert openai_server.hits() == [1]
    elif status == 413:
        assert isinstance(refused.value, InputRejected)
        assert refused.value.reason == "too_large_for_provider"


@pytest.mark.parametrize(
    "fault",
    [
        Slower(times=2),
        Slower(times=1, retry_after="seconds"),
        Slower(times=1, retry_after="http_date"),
        Status(status=500, times=2),
        Status(status=503, times=1, in_answer=True),
        Status(status=429, times=1, in_answer=True),
    ],
    ids=lambda fault: f"{fault.kind} {getattr(fault, 'status', '')} {getattr(fault, 'retry_after', '')}",
)
async def test_what_passes_is_waited_out(
    access: OpenAIAccess, openai_server: EmulatedOpenAI, fault: Slower | Status
) -> None:
    """What certainly was not billed is tried again until it works, and is billed once."""
    openai_server.set_faults(fault)
    async with OpenAICompatible.open(replace(access, deadline_seconds=10)) as api:
        await seen_by(OpenAIVision(api, TENANT, model=MODEL), PICTURE)
    assert openai_server.hits() == [fault.times]
    assert len(openai_server.bills) == 1


async def test_a_wait_that_is_too_long_is_told(vision: OpenAIVision, openai_server: EmulatedOpenAI) -> None:
    """Who is asked to wait longer than a call may last tells for how long."""
    openai_server.set_faults(Slower(retry_after="seconds", retry_after_seconds=3600))
    with pytest.raises(ProviderUnavailable) as busy:
        await seen_by(vision, PICTURE)
    assert (busy.value.retry_after_seconds, busy.value.sent) == (3600, False)


@pytest.mark.parametrize(
    "fault",
    [
        Oddity(kind="hang"),
        Oddity(kind="drop"),
        Oddity(kind="drop_after_billing"),
        Oddity(kind="no_json"),
        Oddity(kind="wrong_shape"),
        Status(status=504),
    ],
    ids=lambda fault: str(fault.kind),
)
async def test_what_may_have_been_billed_is_not_asked_again(
    vision: OpenAIVision, openai_server: EmulatedOpenAI, fault: Oddity | Status
) -> None:
    """Nobody knows what it cost, and it says so."""
    openai_server.set_faults(fault)
    with pytest.raises(ProviderUnavailable) as failed:
        await seen_by(vision, PICTURE)
    assert failed.value.sent
    assert openai_server.hits() == [1]
    assert KEY not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("kind", ["no_choices", "error"])
async def test_an_answer_that_breaks_off_tells_what_it_cost(
    vision: OpenAIVision, openai_server: EmulatedOpenAI, kind: Any
) -> None:
    """It was billed, and a later attempt may succeed."""
    openai_server.set_faults(Oddity(kind=kind))
    with pytest.raises(ProviderUnavailable) as failed:
        await seen_by(vision, PICTURE)
    assert (failed.value.sent, failed.value.tokens_used) == (False, openai_server.billed)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:9/v1", ProviderUnavailable),
        ("127.0.0.1:9/v1", ConfigurationError),
        ("ftp://127.0.0.1/v1", ConfigurationError),
    ],
)
async def test_an_address_where_nobody_is(access: OpenAIAccess, url: str, expected: type[VisionAssetsError]) -> None:
    """A server that is down may come back, an address that is none may not; nothing was sent."""
    async with OpenAICompatible.open(replace(access, base_url=url, deadline_seconds=0.1)) as api:
        with pytest.raises(expected) as failed:
            await seen_by(OpenAIVision(api, TENANT, model=MODEL), PICTURE)
    assert not getattr(failed.value, "sent", False)


async def test_a_key_that_no_header_can_hold_is_not_shown(access: OpenAIAccess, openai_server: EmulatedOpenAI) -> None:
    """The error says which setting is wrong, and neither it nor its traceback holds the key."""
    async with OpenAICompatible.open(replace(access, api_key=SecretStr("sk-one\nsk-two"))) as api:
        with pytest.raises(ConfigurationError, match="OPENAI_API_KEY") as failed:
            await seen_by(OpenAIVision(api, TENANT, model=MODEL), PICTURE)
    assert "sk-" not in "".join(traceback.format_exception(failed.value))
    assert "sk-" not in repr(api)
    assert openai_server.requests == []


async def test_a_model_that_is_not_there(access: OpenAIAccess) -> None:
    """The error names what the server said and what to check."""
    async with OpenAICompatible.open(access) as api:
        with pytest.raises(ConfigurationError, match=r"The model llava does not exist.*OPENAI_BASE_URL"):
            await seen_by(OpenAIVision(api, TENANT, model="llava"), PICTURE)


async def test_after_many_failures_nobody_is_asked_for_a_while(
    access: OpenAIAccess, openai_server: EmulatedOpenAI
) -> None:
    """The breaker is the same as GigaChat's; being asked to slow down does not trip it."""
    async with OpenAICompatible.open(replace(access, deadline_seconds=0)) as api:
        vision = OpenAIVision(api, TENANT, model=MODEL)
        for fault, asked in ((Slower(), 8), (Status(status=500), 5)):
            openai_server.set_faults(fault)
            for _ in range(8):
                with pytest.raises(ProviderUnavailable):
                    await seen_by(vision, PICTURE)
            assert openai_server.hits() == [asked]


async def test_large_pictures_are_scaled_down_and_small_ones_are_not(
    vision: OpenAIVision, openai_server: EmulatedOpenAI
) -> None:
    """What is sent costs no more tokens than a picture is held at; the result tells the size that is stored."""
    analysis = await seen_by(vision, encoded(photo(3000, 2000)))
    assert (analysis.measurement.width, analysis.measurement.height) == (3000, 2000)
    url = openai_server.requests[0]["messages"][1]["content"][1]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
        assert 2_000_000 < sent.width * sent.height <= 1536 * 1536


async def test_the_language_is_the_tenants(vision: OpenAIVision) -> None:
    """Descriptions come in the language that was set, and another language is another fingerprint."""
    before = vision.fingerprint
    vision = replace(vision, language=Language.EN)
    analysis = await seen_by(vision, PICTURE)
    assert analysis.description
    assert "photo" in analysis.description
    assert vision.fingerprint != before
