"""The client of GigaChat against bodies as the real server sends them, not as the emulator writes them.

Where a body's shape comes from stands beside it: D, the documentation or the OpenAPI description; R, recorded traffic;
P, a third party's account; I, inferred. Ids, moments and what is said of the picture are ours. What is not here:
time-outs and broken connections (`test_gigachat_client.py`).
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from tests.pictures import encoded, photo
from tests.replayed_gigachat import Place, Replay, Said, replayed
from tests.results import seen_by
from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.gigachat_vision import GigaChatVision
from vision_assets.core.asking import MAX_TOKENS
from vision_assets.core.errors import (
    AnswerRefused,
    ConfigurationError,
    InputRejected,
    ProviderBudgetGone,
    ProviderUnavailable,
    VisionAssetsError,
)
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import Analysis, Kind

PICTURE = encoded(photo(320, 240))
ANSWER = (
    '{"classification": "photo", "description": "Закат над рекой.", "is_meme": false, "labels": ["закат", "река"], '
    '"objects": ["мост"], "ocr_text": "", "nsfw_score": 0.01, "aesthetic_score": 0.7}'
)

# D; the moment is later than any that was recorded, so that the token is good.
OAUTH = Said('{"access_token":"eyJjdHkiOiJqd3QiLCJlbmMiOiJBMjU2Q0JDLUhTNTEyIn0.first","expires_at":4102444800000}')
# D
UPLOADED = Said(
    '{"id":"6f0b1291-c7f3-43c6-bb2e-9f3efb2dc98e","object":"file","bytes":105000,"created_at":1761030000,'
    '"filename":"vision-assets-1.jpeg","purpose":"general","access_policy":"private"}'
)
DELETED = Said('{"id":"6f0b1291-c7f3-43c6-bb2e-9f3efb2dc98e","deleted":true}')  # D


def completion(
    content: str,
    *,
    finish_reason: str = "stop",
    usage: str = '{"prompt_tokens":2114,"completion_tokens":97,"total_tokens":2211,"precached_prompt_tokens":0}',
    function_call: str = "",
    headers: dict[str, str] | None = None,
) -> Said:
    """A chat's answer with the fields that were recorded (R).

    Args:
        usage: JSON.
        function_call: JSON of the field, with what follows it in the recording.
    """
    message = f'"content":{json.dumps(content, ensure_ascii=False)},"role":"assistant"{function_call}'
    return Said(
        f'{{"choices":[{{"message":{{{message}}},"index":0,"finish_reason":"{finish_reason}"}}],"created":1761030003,'
        f'"model":"GigaChat-2-Max:2.0.28.2","object":"chat.completion","usage":{usage}}}',
        headers=headers or {},
    )


WHOLE = completion(ANSWER)
Opened = Callable[..., AbstractAsyncContextManager[tuple[GigaChatVision, Replay]]]


@pytest.fixture
def gigachat_that_says(tmp_path: Path) -> Opened:
    """Open the provider of one tenant; what a place says is given by name, and else all goes well."""

    @asynccontextmanager
    async def opened(**answers: list[Said]) -> AsyncIterator[tuple[GigaChatVision, Replay]]:
        usual: dict[Place, list[Said]] = {"oauth": [OAUTH], "upload": [UPLOADED], "chat": [WHOLE], "delete": [DELETED]}
        told: dict[Place, list[Said]] = {place: list(answers.get(place, said)) for place, said in usual.items()}
        with replayed(tmp_path, told) as replay:
            async with GigaChat.open(replay.access) as api:
                yield GigaChatVision(api, TenantId(UUID(int=7)), model="GigaChat-2-Max"), replay

    return opened


async def look(vision: GigaChatVision) -> Analysis:
    """Look at the picture."""
    return await seen_by(vision, PICTURE)


def is_right(analysis: Analysis) -> bool:
    """Tell whether the analysis says what the answer above does."""
    said = analysis.classification.kind, analysis.description, analysis.labels, analysis.objects, analysis.ocr.text
    return said == (Kind.PHOTO, "Закат над рекой.", ["закат", "река"], ["мост"], "")


@pytest.mark.parametrize(
    "expires_at",
    ["4102444800000", "4102444800"],  # D; a sample of the documentation
    ids=["milliseconds", "seconds"],
)
async def test_a_token_lasts_as_long_as_it_says(gigachat_that_says: Opened, expires_at: str) -> None:
    """In either unit it is good for many calls."""
    oauth = Said(f'{{"access_token":"eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.one","expires_at":{expires_at}}}')
    async with gigachat_that_says(oauth=[oauth]) as (vision, replay):
        assert is_right(await look(vision))
        assert is_right(await look(vision))
    assert len(replay.asked["oauth"]) == 1
    assert set(replay.tokens) == {"eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.one"}


NO_SCHEMA = Said('{"status":422,"message":"Invalid params: response_format is not supported"}', 422)  # I


@pytest.mark.parametrize(
    "arguments",
    [
        ANSWER,  # R
        json.dumps(ANSWER, ensure_ascii=False),  # D
        json.dumps(ANSWER.replace("}", ",}"), ensure_ascii=False),  # P
    ],
    ids=["object", "text", "damaged text"],
)
async def test_a_forced_function_answers(gigachat_that_says: Opened, arguments: str) -> None:
    """Arguments are read in both forms; the function is forced by name, for "auto" would draw pictures."""
    call = (
        f',"function_call":{{"name":"describe_picture","arguments":{arguments}}},'
        '"functions_state_id":"77d3fb14-457a-46ba-937e-8d856156d003"'
    )
    answer = completion("", finish_reason="function_call", function_call=call)
    async with gigachat_that_says(chat=[NO_SCHEMA, answer]) as (vision, replay):
        assert is_right(await look(vision))
    first, second = replay.chats()
    assert first["response_format"]["type"] == "json_schema"
    assert second["function_call"] == {"name": "describe_picture"} == {"name": second["functions"][0]["name"]}


@pytest.mark.parametrize(
    ("usage", "total"),
    [
        ('{"prompt_tokens":2114,"completion_tokens":97,"total_tokens":2211,"precached_prompt_tokens":1500}', 2211),  # R
        ('{"prompt_tokens":2114,"completion_tokens":97,"total_tokens":711,"precached_prompt_tokens":1500}', 711),  # D
        ('{"prompt_tokens":2114,"completion_tokens":97,"total_tokens":2211}', 2211),  # D, of an older version
    ],
    ids=["gross", "net", "without what was cached"],
)
async def test_the_total_is_what_counts(gigachat_that_says: Opened, usage: str, total: int) -> None:
    """Whatever the total leaves out, it is what is billed; all figures go to the log, with the provider's ids."""
    headers = {"X-Request-ID": "9e0b8f4c-request", "X-Session-ID": "4c1a3f0e-session"}  # R
    answer = completion(ANSWER, usage=usage, headers=headers)
    async with gigachat_that_says(chat=[answer]) as (vision, _):
        with capture_logs() as logs:
            assert (await look(vision)).tokens_used == total
    [billed] = [line for line in logs if line["event"] == "gigachat.billed"]
    assert {name: billed.get(name) for name in json.loads(usage)} == json.loads(usage)
    assert (billed["request_id"], billed["session_id"]) == tuple(headers.values())


# R
BLACKLIST = completion(
    "Не люблю менять тему разговора, но вот сейчас тот самый случай.",
    finish_reason="blacklist",
    usage='{"prompt_tokens":1,"completion_tokens":0,"total_tokens":1,"precached_prompt_tokens":0}',
)


async def test_an_apology_is_final(gigachat_that_says: Opened) -> None:
    """It comes as a 200; it is not asked about again, its one token counts, and what was said is kept."""
    async with gigachat_that_says(chat=[BLACKLIST]) as (vision, replay):
        with pytest.raises(AnswerRefused) as refused:
            await look(vision)
    assert (refused.value.reason, refused.value.tokens_used) == ("blacklist", 1)
    assert (refused.value.raw_reply or "").startswith("Не люблю менять тему")
    assert (len(replay.asked["chat"]), len(replay.asked["delete"])) == (1, 1)


async def test_an_answer_that_broke_off_is_asked_for_with_more_room(gigachat_that_says: Opened) -> None:
    """`length` is no answer, even where its beginning could be read; both calls count."""
    half = completion(
        ANSWER[: ANSWER.index('"objects"')],
        finish_reason="length",
        usage='{"prompt_tokens":2114,"completion_tokens":1024,"total_tokens":3138,"precached_prompt_tokens":0}',
    )
    async with gigachat_that_says(chat=[half, WHOLE]) as (vision, replay):
        analysis = await look(vision)
    assert is_right(analysis)
    assert analysis.tokens_used == 3138 + 2211
    first, second = replay.chats()
    assert first["max_tokens"] == MAX_TOKENS < second["max_tokens"]
    assert second["messages"] == first["messages"]


@pytest.mark.parametrize(
    "content",
    [
        f"```json\n{ANSWER}\n```",
        f"Конечно! Вот описание в формате JSON:\n\n```json\n{ANSWER}\n```\n\nЕсли нужно, уточню детали.",
        ANSWER.replace('"река"]', '"река",]').replace("0.7}", "0.7,\n}"),
        f"<think>Пользователь хочет JSON. {{это пример}}</think>{ANSWER}",
    ],  # P, all of them
    ids=["fence", "prose around a fence", "trailing commas", "thinking"],
)
async def test_json_is_found_where_it_stands(gigachat_that_says: Opened, content: str) -> None:
    """What can be read costs no second call."""
    async with gigachat_that_says(chat=[completion(content)]) as (vision, replay):
        assert is_right(await look(vision))
    assert len(replay.asked["chat"]) == 1


TRUNCATED = completion('{"classification": "photo", "description": "Закат над')  # P


async def test_truncated_json_is_put_right_by_the_model(gigachat_that_says: Opened) -> None:
    """The model gets its own words back, without the picture, and both calls count."""
    async with gigachat_that_says(chat=[TRUNCATED, WHOLE]) as (vision, replay):
        analysis = await look(vision)
    assert is_right(analysis)
    assert analysis.tokens_used == 2 * 2211
    _, repair = replay.chats()
    assert "Закат над" in repair["messages"][-1]["content"]
    assert not any(message.get("attachments") for message in repair["messages"])


async def test_truncated_json_that_stays_so_is_an_error(gigachat_that_says: Opened) -> None:
    """After one repair it is final, and what was said first is kept."""
    async with gigachat_that_says(chat=[TRUNCATED]) as (vision, replay):
        with pytest.raises(AnswerRefused) as refused:
            await look(vision)
    assert (refused.value.reason, refused.value.tokens_used) == ("parse_failed", 2 * 2211)
    assert refused.value.raw_reply == '{"classification": "photo", "description": "Закат над'
    assert (len(replay.asked["chat"]), len(replay.asked["delete"])) == (2, 1)


@pytest.mark.parametrize(
    ("said", "expected", "calls"),
    [
        # A form that is refused is asked about in the two others: schema, function, words.
        (Said('{"status":400,"message":"Your request contains invalid JSON syntax."}', 400), InputRejected, 3),  # P
        (Said('{"status":422,"message":"Invalid params: invalid attachments"}', 422), InputRejected, 3),  # D
        (Said('{"status":413,"message":"Payload too large"}', 413), InputRejected, 1),  # D
        (Said('{"status":402,"message":"Payment Required"}', 402), ProviderBudgetGone, 1),  # D
        (Said('{"status":403,"message":"Permission denied"}', 403), ConfigurationError, 1),  # D
        (Said('{"status":404,"message":"No such model"}', 404), ConfigurationError, 1),  # R
        (Said('{"status":401,"message":"Token has expired"}', 401), ConfigurationError, 2),  # D
        (Said('{"status":401,"message":"Unauthorized"}', 401), ConfigurationError, 2),  # D
    ],
    ids=lambda value: str(value.status) if isinstance(value, Said) else None,
)
async def test_what_will_not_pass(
    gigachat_that_says: Opened, said: Said, expected: type[VisionAssetsError], calls: int
) -> None:
    """Each refusal is what the contract says, in the server's own words, and leaves no file."""
    async with gigachat_that_says(chat=[said]) as (vision, replay):
        with pytest.raises(expected) as failed:
            await look(vision)
    assert not isinstance(failed.value, AnswerRefused)
    assert json.loads(said.body)["message"] in str(failed.value)
    assert len(replay.asked["chat"]) == calls
    assert len(replay.asked["delete"]) == 1


@pytest.mark.parametrize(
    "said",
    [
        Said('{"code":1,"message":"scope data format invalid"}', 400),
        Said('{"code":4,"message":"Can\'t decode \'Authorization\' header"}', 400),
        Said('{"code":4,"message":"Can\'t decode \'Authorization\' header"}', 401),
        Said('{"code":5,"message":"scope is empty"}', 400),
        Said('{"code":6,"message":"credentials doesn\'t match db data"}', 401),
        Said('{"code":7,"message":"scope from db not fully includes consumed scope"}', 400),
    ],  # D, all of them
    ids=lambda said: said.body[8] + "-" + str(said.status),
)
async def test_an_account_that_is_refused_is_a_setting(gigachat_that_says: Opened, said: Said) -> None:
    """OAuth's own errors name the settings, and no picture is blamed."""
    async with gigachat_that_says(oauth=[said]) as (vision, replay):
        with pytest.raises(ConfigurationError, match="GIGACHAT_SCOPE") as failed:
            await look(vision)
    assert json.loads(said.body)["message"] in str(failed.value)
    assert not replay.asked["chat"]


async def test_a_token_that_is_refused_is_fetched_anew(gigachat_that_says: Opened) -> None:
    """The call is made again with the next token."""
    second = Said(OAUTH.body.replace("first", "second"))
    refused = Said('{"status":401,"message":"Token has expired"}', 401)  # D
    async with gigachat_that_says(oauth=[OAUTH, second], chat=[refused, WHOLE]) as (vision, replay):
        assert is_right(await look(vision))
    assert [token.rpartition(".")[2] for token in replay.tokens] == ["first", "second"]


SLOWER = '{"status":429,"message":"Too many requests"}'


@pytest.mark.parametrize(
    "said",
    [
        Said(SLOWER, 429),  # D
        Said(SLOWER, 429, {"Retry-After": "1"}),  # I
        Said(SLOWER, 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),  # I
        Said('{"status":500,"message":"Internal Server Error"}', 500),  # D
        Said(
            "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>", 502, {"Content-Type": "text/html"}
        ),  # I
        Said("", 503),  # I
    ],
    ids=["429", "429 with seconds", "429 with a date", "500", "502 of a proxy", "503 without a word"],
)
async def test_what_passes(gigachat_that_says: Opened, said: Said) -> None:
    """The call is made again, and only the answer counts."""
    async with gigachat_that_says(chat=[said, WHOLE]) as (vision, replay):
        assert (await look(vision)).tokens_used == 2211
    assert len(replay.asked["chat"]) == 2
    assert len(replay.asked["upload"]) == 1


async def test_what_is_told_to_last_too_long_is_told_on(gigachat_that_says: Opened) -> None:
    """An hour is not waited for; who asked hears of it, and that nothing was billed."""
    async with gigachat_that_says(chat=[Said(SLOWER, 429, {"Retry-After": "3600"})]) as (vision, replay):
        with pytest.raises(ProviderUnavailable, match="Too many requests") as failed:
            await look(vision)
    assert (failed.value.retry_after_seconds, failed.value.sent) == (3600, False)
    assert (len(replay.asked["chat"]), len(replay.asked["delete"])) == (1, 1)


@pytest.mark.parametrize(
    "body",
    [
        '{"id":"6f0b1291-c7f3-43c6-bb2e-9f3efb2dc98e","deleted":true,"object":"file","access_policy":"private"}',  # P
        "{}",
        "null",
        "[]",
        '"OK"',
        "OK",
        "",
    ],  # all others I
)
async def test_any_word_for_a_deletion_is_good(gigachat_that_says: Opened, body: str) -> None:
    """A 200 says that the file is gone: it is asked once, and nothing is reported as left."""
    async with gigachat_that_says(delete=[Said(body)]) as (vision, replay):
        with capture_logs() as logs:
            assert is_right(await look(vision))
    assert len(replay.asked["delete"]) == 1
    assert "gigachat.file_left" not in {line["event"] for line in logs}
