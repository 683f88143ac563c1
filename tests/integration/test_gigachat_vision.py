"""GigaChat as a vision provider, against the emulated server: every rung of the ladder, and what each costs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from tests.emulated_gigachat import EmulatedGigaChat
from tests.pictures import encoded, photo, screenshot
from tests.results import seen_by
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.core.errors import AnswerRefused, InputRejected, ProviderUnavailable
from vision_assets.core.policy import Prompts
from vision_assets.core.prompts import Language, Preset, prompt
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Kind
from vision_assets.devstack.gigachat_words import text_tokens

TENANT = TenantId(UUID(int=7))
PICTURE = encoded(photo(320, 240))


@pytest.fixture
async def vision(gigachat: EmulatedGigaChat) -> AsyncIterator[GigaChatVision]:
    """The provider of one tenant."""
    access = gigachat.access(read_seconds=5, deadline_seconds=3)
    async with GigaChat.open(access) as api:
        yield GigaChatVision(api, TENANT, model="GigaChat-2-Max")


def billed(gigachat: EmulatedGigaChat) -> int:
    """Tokens of all bills."""
    return sum(bill["usage"]["total_tokens"] for bill in gigachat.bills())


def is_russian(text: str | None) -> bool:
    """Tell Cyrillic from Latin."""
    return any("а" <= character <= "я" for character in (text or "").lower())


async def test_a_picture_is_described(vision: GigaChatVision, gigachat: EmulatedGigaChat) -> None:
    """The model's words, our measurements, the bill to the token, and no file left behind."""
    analysis = await seen_by(vision, PICTURE)
    assert is_russian(analysis.description)
    assert (analysis.measurement.width, analysis.measurement.height) == (320, 240)
    assert analysis.measurement.dominant_colors
    assert analysis.classification.confidence is None
    assert analysis.tokens_used == billed(gigachat) <= vision.estimated_tokens
    assert len(gigachat.bills()) == 1
    assert gigachat.files() == []


async def test_the_language_is_the_tenants(vision: GigaChatVision) -> None:
    """Descriptions come in the language that was set, and another language is another fingerprint."""
    before = vision.fingerprint
    vision = replace(vision, language=Language.EN)
    analysis = await seen_by(vision, PICTURE)
    assert analysis.description
    assert not is_russian(analysis.description)
    assert vision.fingerprint != before


async def test_each_picture_gets_its_own_question(vision: GigaChatVision, gigachat: EmulatedGigaChat) -> None:
    """The policy chooses it by the picture's kind: what is billed for the question tells which one it was."""
    picture = encoded(screenshot())
    for prompts in (Prompts(by_kind={Kind.SCREENSHOT: Preset.MEME}), Prompts(by_kind={})):
        vision = replace(vision, prompts=prompts)
        await seen_by(vision, picture)
    meme, general = (bill["usage"]["prompt_tokens"] for bill in gigachat.bills())
    texts = [prompt(preset, Language.RU).user for preset in (Preset.MEME, Preset.GENERAL)]
    assert meme - general == text_tokens(texts[0]) - text_tokens(texts[1]) > 0


async def test_other_formats_are_turned_into_one_that_is_taken(vision: GigaChatVision) -> None:
    """A format that the API refuses is transcoded, not refused."""
    analysis = await seen_by(vision, encoded(screenshot(), "WEBP"), mime="image/webp")
    assert (analysis.measurement.width, analysis.measurement.height) == (720, 1480)


async def test_what_cannot_be_decoded_is_not_sent(vision: GigaChatVision, gigachat: EmulatedGigaChat) -> None:
    """A broken picture costs no upload and no token."""
    with pytest.raises(InputRejected):
        await seen_by(vision, PICTURE[: len(PICTURE) // 2])
    assert gigachat.counts()["calls"] == {}


@pytest.mark.parametrize(
    ("faults", "calls"),
    [
        ([{"kind": "response_format_unsupported"}], 1),
        ([{"kind": "response_format_unsupported"}, {"kind": "arguments_as_string"}], 1),
        ([{"kind": "broken_json"}], 1),
        ([{"kind": "length", "times": 1}], 2),
        ([{"kind": "prose", "times": 1}], 2),
    ],
    ids=["function", "function as text", "repaired here", "broken off, asked for again", "repaired by the model"],
)
async def test_each_rung_gives_an_answer(
    vision: GigaChatVision, gigachat: EmulatedGigaChat, faults: list[dict[str, Any]], calls: int
) -> None:
    """Wherever the answer comes from it is whole, and all calls that it took are counted."""
    gigachat.set_faults(*faults)
    analysis = await seen_by(vision, PICTURE)
    assert all(fault["hit"] for fault in gigachat.faults())
    assert len(gigachat.bills()) == calls
    assert analysis.tokens_used == billed(gigachat)
    assert analysis.labels
    assert gigachat.files() == []


async def test_a_form_that_is_refused_is_not_tried_again(vision: GigaChatVision, gigachat: EmulatedGigaChat) -> None:
    """Which form the model takes is found out once; a picture that is refused later says nothing against the form."""
    gigachat.set_faults({"kind": "response_format_unsupported"})
    await seen_by(vision, PICTURE)
    assert gigachat.faults()[0]["hit"] == 1
    await seen_by(vision, PICTURE)
    assert gigachat.faults()[0]["hit"] == 1


async def test_pictures_at_once_find_the_form_out_together(vision: GigaChatVision, gigachat: EmulatedGigaChat) -> None:
    """Whichever picture's refusal comes first, all fall back one step, and none is lost."""
    gigachat.set_faults({"kind": "response_format_unsupported"})
    analyses = await asyncio.gather(*(seen_by(vision, PICTURE) for _ in range(4)))
    assert len(analyses) == len(gigachat.bills()) == 4
    assert vision.ladder.forms[0] == "function"


@pytest.mark.parametrize(
    ("kind", "reason", "calls"),
    [("blacklist", "blacklist", 1), ("prose", "parse_failed", 2)],
    ids=["blacklist", "prose"],
)
async def test_no_answer_is_made_up(
    vision: GigaChatVision, gigachat: EmulatedGigaChat, kind: str, reason: str, calls: int
) -> None:
    """Apologies and prose become errors that keep what was said, with what it cost."""
    gigachat.set_faults({"kind": kind})
    with pytest.raises(AnswerRefused) as refused:
        await seen_by(vision, PICTURE)
    assert refused.value.reason == reason
    assert refused.value.raw_reply
    assert len(gigachat.bills()) == calls
    assert refused.value.tokens_used == billed(gigachat)
    assert gigachat.files() == []


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        ({"kind": "server_error"}, False),
        ({"kind": "payment_required"}, False),
        ({"kind": "rate_limited"}, False),
        ({"kind": "drop", "when": "after_billing"}, True),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
async def test_a_further_question_that_fails_does_not_hide_the_first(
    vision: GigaChatVision, gigachat: EmulatedGigaChat, fault: dict[str, Any], sent: bool
) -> None:
    """After one billed call a failure tells what that one cost, and whether the further one may have cost too."""
    gigachat.set_faults({"kind": "prose", "times": 1}, {**fault, "endpoint": "chat", "after": 1})
    with pytest.raises(ProviderUnavailable) as failed:
        await seen_by(vision, PICTURE)
    assert failed.value.sent == sent
    assert failed.value.tokens_used == gigachat.bills()[0]["usage"]["total_tokens"]
