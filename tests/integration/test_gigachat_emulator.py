"""The emulated GigaChat where nothing is broken: by the official SDK, and by plain HTTP for what the SDK hides.

What is not here: its faults (`test_gigachat_emulator_faults.py`), and who may call it how much
(`test_gigachat_emulator_limits.py`).
"""

import base64
import hashlib
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gigachat import GigaChatAsyncClient
from gigachat.context import client_id_cvar, request_id_cvar
from PIL import Image

from tests.emulated_gigachat import EmulatedGigaChat
from tests.pictures import document, encoded, infographic, meme, photo, screenshot
from vision_assets.devstack.gigachat import BUSINESS, PERSONAL

MODEL = "GigaChat-2-Max"
SCHEMA = {
    "type": "object",
    "properties": {
        "classification": {"$ref": "#/$defs/Kind"},
        "description": {"type": "string"},
        "is_meme": {"type": "boolean"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "ocr_text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "horoscope": {"type": "string"},
    },
    "$defs": {"Kind": {"type": "string", "enum": ["photo", "meme", "document", "screenshot", "infographic", "other"]}},
}
FORMAT = {"type": "json_schema", "schema": SCHEMA, "strict": True}


@pytest.fixture
async def sdk(gigachat: EmulatedGigaChat) -> AsyncIterator[GigaChatAsyncClient]:
    """The official client."""
    async with GigaChatAsyncClient(
        base_url=gigachat.base_url,
        auth_url=gigachat.auth_url,
        credentials=BUSINESS.credentials,
        scope="GIGACHAT_API_B2B",
        model=MODEL,
        ssl_context=gigachat.trust,
        verify_ssl_certs=True,
        timeout=20,
    ) as client:
        yield client


def uploaded(gigachat_api: httpx.Client, content: bytes, mime: str = "image/jpeg") -> httpx.Response:
    """Upload a picture."""
    return gigachat_api.post("/files", files={"file": ("picture", content, mime)}, data={"purpose": "general"})


def asked(gigachat_api: httpx.Client, text: str = "Что на картинке?", *files: str, **options: Any) -> httpx.Response:
    """Ask about files."""
    message = {"role": "user", "content": text, "attachments": list(files)}
    return gigachat_api.post("/chat/completions", json={"model": MODEL, "messages": [message], **options})


def said(answer: httpx.Response) -> str:
    """Give the text of an answer."""
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


async def test_the_official_client_describes_a_picture(gigachat: EmulatedGigaChat, sdk: GigaChatAsyncClient) -> None:
    """Upload, ask by schema, delete: the answer is about the picture, and the bill is what the answer says."""
    content = encoded(photo())
    client_id_cvar.set("tenant-a")
    file = await sdk.aupload_file(("va-1.jpg", content, "image/jpeg"))
    assert (file.bytes_, file.filename, file.purpose) == (len(content), "va-1.jpg", "general")
    assert base64.b64decode((await sdk.aget_image(file.id_)).content) == content
    request_id_cvar.set("request-1")
    answer = await sdk.achat(
        {
            "messages": [{"role": "user", "content": "Опиши картинку", "attachments": [file.id_]}],
            "response_format": FORMAT,
        }
    )
    seen = json.loads(answer.choices[0].message.content)
    assert seen["classification"] == "photo"
    assert "960×720" in seen["description"]
    assert seen.keys() == SCHEMA["properties"].keys() - {"horoscope"}  # type: ignore[attr-defined]
    assert seen["labels"] == [label.lower() for label in seen["labels"]]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model.startswith(f"{MODEL}:")
    assert answer.x_headers
    assert answer.x_headers["x-request-id"] == "request-1"
    assert (await sdk.adelete_file(file.id_)).deleted
    assert (await sdk.aget_files()).data == []
    assert gigachat.bills() == [
        {
            "request_id": "request-1",
            "tenant": "tenant-a",
            "kind": "chat",
            "model": MODEL,
            "usage": answer.usage.model_dump(),
            "file_sha256s": [hashlib.sha256(content).hexdigest()],
        }
    ]


async def test_the_official_client_gets_everything_else(gigachat: EmulatedGigaChat, sdk: GigaChatAsyncClient) -> None:
    """Embeddings, token count, models and balance parse, and the balance falls by what was billed."""
    before = {one.usage: one.value for one in (await sdk.aget_balance()).balance}
    found = await sdk.aembeddings(["кот на окне", "кот"], model="Embeddings")
    assert [len(one.embedding) for one in found.data] == [1024, 1024]
    assert [one.tokens for one in await sdk.atokens_count(["кот на окне", ""])] == [3, 0]
    assert {"GigaChat-2-Max", "EmbeddingsGigaR"} <= {one.id_ for one in (await sdk.aget_models()).data}
    answer = await sdk.achat("Привет")
    after = {one.usage: one.value for one in (await sdk.aget_balance()).balance}
    assert before[MODEL] - after[MODEL] == answer.usage.total_tokens > 0
    counts = gigachat.counts()
    assert counts["oauth_calls"] == 1
    assert counts["billed"][""]["embeddings"]["total_tokens"] == 4


async def test_the_official_client_forces_a_function(gigachat: EmulatedGigaChat, sdk: GigaChatAsyncClient) -> None:
    """A forced function is called with the fields that its parameters name."""
    parameters = {"type": "object", "properties": {"is_meme": {"type": "boolean"}, "labels": {"type": "array"}}}
    file = await sdk.aupload_file(("va-1.png", encoded(meme(), "PNG"), "image/png"))
    answer = await sdk.achat(
        {
            "messages": [{"role": "user", "content": "Answer in English", "attachments": [file.id_]}],
            "functions": [{"name": "save", "parameters": parameters}],
            "function_call": {"name": "save"},
        }
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call
    assert choice.message.function_call.name == "save"
    arguments = choice.message.function_call.arguments
    assert arguments
    assert arguments["is_meme"] is True
    assert "meme" in arguments["labels"]
    assert arguments.keys() == {"is_meme", "labels"}


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (photo, "photo"),
        (meme, "meme"),
        (document, "document"),
        (screenshot, "screenshot"),
        (infographic, "infographic"),
    ],
)
def test_the_answer_follows_from_the_bytes(gigachat_api: httpx.Client, picture: Any, kind: str) -> None:
    """Each kind of picture is told, and the same bytes give the same answer twice."""
    content = encoded(picture())
    answers = [
        said(asked(gigachat_api, "Опиши", uploaded(gigachat_api, content).json()["id"], response_format=FORMAT))
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["classification"] == kind


def test_without_a_schema_the_json_stands_in_a_fence(gigachat_api: httpx.Client) -> None:
    """A sentence, then a fenced block with every field that is known; English if the prompt says so."""
    file = uploaded(gigachat_api, encoded(photo())).json()["id"]
    sentence, _, fenced = said(asked(gigachat_api, "Опиши", file)).partition("\n```json\n")
    fields = json.loads(fenced.removesuffix("\n```"))
    assert sentence
    assert fields.keys() >= {"scene", "objects", "nsfw_score", "aesthetic_score", "ocr_text"}
    assert "фотография" in fields["description"]
    assert "photo" in said(asked(gigachat_api, "Describe it in English", file))


def test_a_field_that_may_not_be_null_is_never_null(gigachat_api: httpx.Client) -> None:
    """Where the schema allows no null, the text is empty and an unknown scene stays out."""
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"ocr_text": text, "scene": text, "is_meme": {"type": "boolean"}}}
    file = uploaded(gigachat_api, encoded(document())).json()["id"]
    answer = said(asked(gigachat_api, "Опиши", file, response_format={"type": "json_schema", "schema": schema}))
    assert json.loads(answer) == {"ocr_text": "", "is_meme": False}


def test_max_tokens_cut_the_answer(gigachat_api: httpx.Client) -> None:
    """The answer ends where its tokens end, and says so."""
    answer = asked(gigachat_api, "Опиши", uploaded(gigachat_api, encoded(photo())).json()["id"], max_tokens=5)
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert len(said(answer)) == 20
    assert answer.json()["usage"]["completion_tokens"] == 5


def test_a_picture_costs_by_its_size(gigachat_api: httpx.Client) -> None:
    """A small picture costs little, a big one 1,792 tokens and no more."""
    costs = []
    for edge in (56, 3000):
        file = uploaded(gigachat_api, encoded(Image.new("RGB", (edge, edge), "red"), "PNG"), "image/png").json()["id"]
        costs.append(asked(gigachat_api, "Опиши!!!", file).json()["usage"]["prompt_tokens"])
    assert costs == [2 + 4, 2 + 1792]


def test_a_session_caches_the_beginning_of_a_prompt(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """Messages that the session's last prompt began with are precached; the total leaves them out by an option."""
    system = {"role": "system", "content": "Ты описываешь картинки."}
    usages = []
    for number, text in enumerate(("один", "два", "три")):
        if number == 2:
            gigachat.set_options(total_is_net_of_precached=True)
        body = {"model": MODEL, "messages": [system, {"role": "user", "content": text}]}
        usages.append(gigachat_api.post("/chat/completions", json=body, headers={"X-Session-ID": "s"}).json()["usage"])
    assert [usage["precached_prompt_tokens"] for usage in usages] == [0, 6, 6]
    assert [usage["total_tokens"] - usage["prompt_tokens"] - usage["completion_tokens"] for usage in usages] == [
        0,
        0,
        -6,
    ]


def test_files_stay_until_they_are_deleted(gigachat: EmulatedGigaChat, gigachat_api: httpx.Client) -> None:
    """A file is listed, described and given back to its owner only, until it is deleted."""
    content = encoded(photo())
    file = uploaded(gigachat_api, content).json()
    assert gigachat_api.get("/files").json() == {"data": [file]}
    assert gigachat_api.get(f"/files/{file['id']}").json() == file
    assert gigachat_api.get(f"/files/{file['id']}/content").content == content
    others = gigachat.headers(account=PERSONAL, scope="GIGACHAT_API_PERS")
    assert gigachat_api.get("/files", headers=others).json() == {"data": []}
    assert gigachat_api.get(f"/files/{file['id']}", headers=others).status_code == 404
    assert [(one["sha256"], one["tenant"]) for one in gigachat.files()] == [
        (hashlib.sha256(content).hexdigest(), "tenant-a")
    ]
    assert gigachat_api.post(f"/files/{file['id']}/delete").json() == {"id": file["id"], "deleted": True}
    assert gigachat_api.post(f"/files/{file['id']}/delete").status_code == 404
    assert gigachat.counts()["files"] == 0


@pytest.mark.parametrize(
    ("picture_format", "mime"), [("PNG", "image/png"), ("TIFF", "image/tiff"), ("BMP", "image/bmp")]
)
def test_the_other_formats_are_taken(gigachat_api: httpx.Client, picture_format: str, mime: str) -> None:
    """The API's formats besides JPEG."""
    assert uploaded(gigachat_api, encoded(photo(96, 96), picture_format), mime).status_code == 200


@pytest.mark.parametrize(
    ("content", "mime", "status"),
    [
        (encoded(photo(96, 96), "WEBP"), "image/webp", 422),
        (encoded(photo(96, 96), "GIF"), "image/gif", 422),
        (encoded(photo(96, 96), "WEBP"), "image/jpeg", 422),
        (encoded(photo(96, 96)), "application/octet-stream", 422),
        (encoded(photo(96, 96))[:500], "image/jpeg", 422),
        (b"", "image/jpeg", 422),
        (bytes(15 * 10**6 + 1), "image/jpeg", 413),
    ],
    ids=["webp", "gif", "disguised", "untyped", "truncated", "empty", "too big"],
)
def test_uploads_that_are_refused(
    gigachat: EmulatedGigaChat, gigachat_api: httpx.Client, content: bytes, mime: str, status: int
) -> None:
    """Nothing but whole pictures of the four formats, up to 15 MB; a refused one is not kept."""
    assert uploaded(gigachat_api, content, mime).status_code == status
    assert gigachat.files() == []


def test_uploads_without_file_or_purpose_are_refused(gigachat_api: httpx.Client) -> None:
    """The form needs both."""
    assert gigachat_api.post("/files", data={"purpose": "general"}).status_code == 400
    assert (
        gigachat_api.post("/files", files={"file": ("a.jpg", encoded(photo(96, 96)), "image/jpeg")}).status_code == 422
    )


MESSAGE = {"role": "user", "content": "Привет"}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "GPT", "messages": [MESSAGE]}, 404, "No such model"),
        ({"model": "Embeddings", "messages": [MESSAGE]}, 404, "No such model"),
        ({"messages": [MESSAGE]}, 422, "Invalid params: model: Field required"),
        ({"model": MODEL, "messages": []}, 422, "Invalid params: messages"),
        ({"model": MODEL, "messages": [MESSAGE | {"attachments": ["no-such"]}]}, 422, "file no-such not found"),
        ({"model": MODEL, "messages": [MESSAGE | {"attachments": ["a", "b"]}]}, 422, "more than one image"),
        ({"model": MODEL, "messages": [MESSAGE], "function_call": {"name": "f"}}, 422, "there is no function f"),
        ({"model": MODEL, "messages": [MESSAGE], "max_tokens": 0}, 422, "max_tokens"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "а" * 600_000}]}, 422, "context"),
        ({"model": MODEL, "messages": [MESSAGE], "stream": True}, 501, "does not stream"),
    ],
)
def test_chats_that_are_refused(
    gigachat: EmulatedGigaChat, gigachat_api: httpx.Client, body: dict[str, Any], status: int, message: str
) -> None:
    """What the API refuses, in its words; nothing of it is billed."""
    answer = gigachat_api.post("/chat/completions", json=body)
    assert answer.status_code == answer.json()["status"] == status
    assert message in answer.json()["message"]
    assert gigachat.bills() == []


def test_more_than_ten_images_are_refused(gigachat_api: httpx.Client) -> None:
    """Ten images in a request are answered, eleven are not."""
    file = uploaded(gigachat_api, encoded(photo(96, 96))).json()["id"]
    statuses = [
        gigachat_api.post(
            "/chat/completions", json={"model": MODEL, "messages": [MESSAGE | {"attachments": [file]}] * number}
        ).status_code
        for number in (10, 11)
    ]
    assert statuses == [200, 422]


def test_bodies_that_are_refused(gigachat_api: httpx.Client) -> None:
    """A body that is no JSON, and one over 80 MB."""
    answer = gigachat_api.post("/chat/completions", content=b'{"model": ')
    assert (answer.status_code, answer.json()["message"]) == (400, "Your request contains invalid JSON syntax.")
    assert gigachat_api.post("/chat/completions", content=bytes(80 * 10**6 + 1)).status_code == 413


def test_embeddings_are_alike_where_the_texts_are(gigachat_api: httpx.Client) -> None:
    """Vectors have the real dimensions and norm, repeat, and are near where texts share words."""
    texts = ["кот сидит на окне", "кот спит на окне", "курс валют вырос"]
    for model, dimensions in (("Embeddings", 1024), ("EmbeddingsGigaR", 2560)):
        answers = [
            gigachat_api.post("/embeddings", json={"model": model, "input": texts}).json()["data"] for _ in range(2)
        ]
        assert answers[0] == answers[1]
        vectors = [one["embedding"] for one in sorted(answers[0], key=lambda one: one["index"])]
        assert {len(vector) for vector in vectors} == {dimensions}
        norms = [math.hypot(*vector) for vector in vectors]
        assert all(28 < norm < 30 for norm in norms)
        near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
        assert near > far + 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "Embeddings", "input": ["а"] * 101}, 413, "Payload too large"),
        ({"model": "Embeddings", "input": ["а", "а" * 2049]}, 413, "Tokens limit exceeded"),
        ({"model": "EmbeddingsGigaR", "input": ["а" * 2049]}, 200, ""),
        ({"model": MODEL, "input": ["а"]}, 404, "No such model"),
        ({"model": "Embeddings", "input": []}, 422, "Invalid params: input"),
    ],
)
def test_embeddings_limits(
    gigachat: EmulatedGigaChat, gigachat_api: httpx.Client, body: dict[str, Any], status: int, message: str
) -> None:
    """A hundred texts of the model's context, and no bill for what is refused."""
    answer = gigachat_api.post("/embeddings", json=body)
    assert answer.status_code == status
    assert message in answer.json().get("message", "")
    assert len(gigachat.bills()) == (status == 200)


def test_an_unknown_route_is_named(gigachat_api: httpx.Client) -> None:
    """What is not emulated is told, not answered by chance."""
    answer = gigachat_api.post("/batches")
    assert answer.status_code == 501
    assert "POST /api/v1/batches" in answer.json()["message"]
