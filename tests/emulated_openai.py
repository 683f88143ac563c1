"""An API that speaks as OpenAI's, over HTTP on the loopback interface, in a thread of the test's own process.

It looks at the pictures that it is sent and says what the emulated GigaChat would say of them. What is not here: seeing
and saying (`devstack/gigachat_sight.py`, `devstack/gigachat_words.py`).
"""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vision_assets.devstack import gigachat_words as words
from vision_assets.devstack.abrupt_server import ABORT, abrupt_server
from vision_assets.devstack.gigachat_call import retry_after
from vision_assets.devstack.gigachat_faults import AnyFault, Faults, RateLimited
from vision_assets.devstack.gigachat_sight import Sight, look

KEY = "sk-emulated-7f3a"
MODEL = "qwen/qwen2.5-vl:7b"


class Status(AnyFault):
    """An answer with an error's status, which costs nothing.

    Attributes:
        body: Of the error's object, beside its message.
        in_answer: It comes with status 200 all the same, as OpenRouter does it.
    """

    kind: Literal["status"] = "status"
    status: int
    body: dict[str, Any] = Field(default_factory=dict)
    in_answer: bool = False


class Slower(RateLimited):
    """429."""

    kind: Literal["rate_limited"] = "rate_limited"


class Oddity(AnyFault):
    """What a call does that is answered, or never is; it is billed but for `hang`, `drop` and `form_refused`.

    `form_refused` refuses an answer by schema, `functions_refused` a function that must be called.
    """

    kind: Literal[
        "hang",
        "drop",
        "drop_after_billing",
        "no_json",
        "wrong_shape",
        "no_choices",
        "no_usage",
        "usage_not_counted",
        "form_refused",
        "functions_refused",
        "content_filter",
        "refusal",
        "error",
        "length",
        "prose",
        "broken_json",
    ]


@dataclass(slots=True)
class EmulatedOpenAI:
    """A running emulator.

    Attributes:
        requests: Bodies that came, with the headers below `headers`.
        bills: Tenant and tokens of each billed call.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    bills: list[tuple[str, int]] = field(default_factory=list)
    _faults: Faults = field(default_factory=Faults)

    @property
    def base_url(self) -> str:
        """Of the API."""
        return f"{self.url}/v1"

    @property
    def billed(self) -> int:
        """Tokens of all bills."""
        return sum(tokens for _, tokens in self.bills)

    def set_faults(self, *faults: AnyFault) -> None:
        """Put these faults in force and no others."""
        self._faults.replace(faults)

    def hits(self) -> list[int]:
        """Tell how many calls each fault has hit."""
        return [fault["hit"] for fault in self._faults.report()]

    def fault(self, *kinds: str) -> AnyFault | None:
        """Give the fault that hits a call at this point, if any."""
        return self._faults.take(*kinds, endpoint="chat", tenant="")

    def reset(self) -> None:
        """Forget everything."""
        self.requests.clear()
        self.bills.clear()
        self._faults = Faults()

    async def chat(self, request: Request) -> Response:
        """Answer a chat, and bill it."""
        body = await request.json()
        self.requests.append({**body, "headers": dict(request.headers)})
        if refusal := self._refusal(request, body):
            return refusal
        if fault := self.fault("hang", "drop"):
            return await _leave(request, drop=fault.kind == "drop")
        answer = self._answer(body)
        self.bills.append((body["user"], answer["usage"]["total_tokens"]))
        if self.fault("drop_after_billing"):
            return await _leave(request, drop=True)
        if self.fault("no_json"):
            return Response("<html>Bad gateway</html>", media_type="application/json")
        if fault := self.fault("wrong_shape", "no_choices"):
            answer["choices"] = "none" if fault.kind == "wrong_shape" else []
        if fault := self.fault("no_usage", "usage_not_counted"):
            answer["usage"] = None if fault.kind == "no_usage" else {"total_tokens": 0}
        return JSONResponse(answer)

    def _refusal(self, request: Request, body: Mapping[str, Any]) -> Response | None:
        refusal = None
        if request.headers.get("authorization") != f"Bearer {KEY}":
            refusal = _refused(401, "Incorrect API key provided")
        elif body["model"] != MODEL:
            refusal = _refused(404, f"The model {body['model']} does not exist", code="model_not_found")
        elif isinstance(fault := self.fault("status"), Status):
            error = {"code": fault.status, **fault.body}
            refusal = _refused(200 if fault.in_answer else fault.status, "No.", **error)
        elif isinstance(fault := self.fault("rate_limited"), RateLimited):
            refusal = _refused(429, "Rate limit reached", headers=retry_after(fault))
        elif "response_format" in body and self.fault("form_refused"):
            refusal = _refused(400, "response_format is not supported")
        elif "tools" in body and self.fault("functions_refused"):
            refusal = _refused(400, "tools are not supported")
        return refusal

    def _answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        texts, sight = _read(body["messages"])
        english = "English" in " ".join(texts)
        fields = words.of_text(texts[-1]) if sight is None else words.of_picture(sight, english=english)
        finish = "stop"
        text, called = self._said(body, fields, english=english)
        if self.fault("length"):
            finish, text = "length", text[: len(text) // 2]
        message: dict[str, Any] = {"role": "assistant", "content": None if called else text}
        if called:
            message["tool_calls"] = [{"id": "1", "type": "function", "function": {"name": called, "arguments": text}}]
        match self.fault("content_filter", "refusal", "error"):
            case Oddity(kind="content_filter"):
                finish, message = "content_filter", {"role": "assistant", "content": ""}
            case Oddity(kind="refusal"):
                message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
            case Oddity(kind="error"):
                finish = "error"
        prompt = sum(map(words.text_tokens, texts)) + (sight.tokens if sight else 0)
        completion = words.text_tokens(text)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": usage,
        }

    def _said(self, body: Mapping[str, Any], fields: dict[str, Any], *, english: bool) -> tuple[str, str | None]:
        if self.fault("prose"):
            return words.in_prose(fields, english=english), None
        write = words.in_broken_json if self.fault("broken_json") else words.in_json
        # The question wants an empty text where there is none.
        told = {**fields, "ocr_text": fields["ocr_text"] or ""}
        if "response_format" in body:
            schema = body["response_format"]["json_schema"]["schema"]
            assert set(schema["required"]) == set(schema["properties"]), "strict schemas require every field"
            return write(words.filled(told, schema)), None
        if "tools" in body:
            [tool] = body["tools"]
            assert body["tool_choice"]["function"]["name"] == tool["function"]["name"]
            return write(words.filled(told, tool["function"]["parameters"])), tool["function"]["name"]
        return words.in_fence(write(told), english=english), None


def _read(messages: Sequence[Mapping[str, Any]]) -> tuple[list[str], Sight | None]:
    texts: list[str] = []
    sight = None
    for message in messages:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                head, _, data = part["image_url"]["url"].partition(";base64,")
                sight = look(base64.b64decode(data, validate=True))
                assert head == f"data:{sight.mime}"
    return texts, sight


def _refused(status: int, message: str, *, headers: Mapping[str, str] | None = None, **body: Any) -> Response:
    error = json.dumps({"error": {"message": message, "type": "error", **body}})
    return Response(error, status, dict(headers or {}), media_type="application/json")


async def _leave(request: Request, *, drop: bool) -> Response:
    if drop:
        request.scope["extensions"][ABORT]()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()  # nobody hears it


@contextmanager
def emulated_openai() -> Iterator[EmulatedOpenAI]:
    """Run an emulator on a free port until the block is left."""
    emulated = EmulatedOpenAI()
    app = Starlette(routes=[Route("/v1/chat/completions", emulated.chat, methods=["POST"])])
    server = abrupt_server(app, port=0)
    thread = threading.Thread(target=server.run, name="emulated OpenAI")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the emulator did not start"
            time.sleep(0.01)
        emulated.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield emulated
    finally:
        server.should_exit = True
        thread.join(30)
