"""Chat completions of the emulated GigaChat: what may be asked, what is answered, what it costs.

What does not belong here: the words of an answer (`gigachat_words.py`), how a call breaks (`gigachat_call.py`).
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from vision_assets.devstack import gigachat_words as words
from vision_assets.devstack.gigachat_books import Bill, Usage
from vision_assets.devstack.gigachat_call import Call, Refused, invalid, validated
from vision_assets.devstack.gigachat_files import StoredFile

CHAT_MODELS = ("GigaChat-2", "GigaChat-2-Pro", "GigaChat-2-Max")

_VERSION = "2.0.28.2"
_CONTEXT_TOKENS = 131_072
_MAX_IMAGES = 10


class Message(BaseModel):
    """One message; `attachments` are ids of files."""

    role: Literal["system", "user", "assistant", "function"]
    content: str = ""
    attachments: list[str] = []


class ResponseFormat(BaseModel):
    """An answer by a JSON schema is wanted."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool = False


class Function(BaseModel):
    """A function that the model may call."""

    name: str
    parameters: dict[str, Any] = {}


class ForcedCall(BaseModel):
    """The function that the model must call."""

    name: str


class ChatRequest(BaseModel):
    """The part of a request that the emulator understands; other keys are ignored, as by the API."""

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, gt=0)
    stream: bool = False
    response_format: ResponseFormat | None = None
    functions: list[Function] = []
    function_call: Literal["auto", "none"] | ForcedCall | None = None

    @property
    def forced(self) -> Function | None:
        """The function that must be called.

        Raises:
            Refused: It is not among the functions.
        """
        if not isinstance(self.function_call, ForcedCall):
            return None
        name = self.function_call.name
        for function in self.functions:
            if function.name == name:
                return function
        raise invalid(f"function_call: there is no function {name}")


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    finish_reason: str
    function: str | None = None

    def message(self, *, as_string: bool) -> dict[str, Any]:
        """Lay out the assistant's message; arguments that are no JSON can only be a string."""
        if self.function is None:
            return {"role": "assistant", "content": self.text}
        arguments: Any = self.text
        if not as_string and self.finish_reason == "function_call":
            try:
                arguments = json.loads(self.text)
            except ValueError:  # it was to be broken
                arguments = self.text
        call = {"name": self.function, "arguments": arguments}
        return {"role": "assistant", "content": "", "function_call": call, "functions_state_id": str(uuid4())}


async def chat(call: Call) -> Response:
    """Answer a chat and bill it.

    Raises:
        Refused: It is not billed.
    """
    request = validated(ChatRequest, call.body)
    if request.model not in CHAT_MODELS:
        raise Refused(404, "No such model")
    if request.stream:
        raise Refused(501, "The emulated GigaChat does not stream.")
    function = request.forced
    if request.response_format and call.fault("response_format_unsupported"):
        raise invalid("response_format is not supported")
    pictures = [_attached(call, message) for message in request.messages]
    files = [file for file in pictures if file]
    if len(files) > _MAX_IMAGES:
        raise invalid(f"more than {_MAX_IMAGES} images in a request")
    costs = [
        words.text_tokens(message.content) + (file.sight.tokens if file else 0)
        for message, file in zip(request.messages, pictures, strict=True)
    ]
    if sum(costs) > _CONTEXT_TOKENS:
        raise invalid(f"{sum(costs)} tokens are more than the context of {_CONTEXT_TOKENS}")
    precached = _precached(call, request.messages, costs)
    if call.fault("blacklist"):
        answer, usage = _Answer(words.APOLOGY, "blacklist"), Usage(1, 0, 1)
    else:
        answer = _shortened(_answer(call, request, function, files), request.max_tokens, cut=bool(call.fault("length")))
        completion = words.text_tokens(answer.text)
        net = precached if call.state.options.total_is_net_of_precached else 0
        usage = Usage(sum(costs), completion, sum(costs) + completion - net, precached)
    message = answer.message(as_string=answer.function is not None and bool(call.fault("arguments_as_string")))
    call.state.books.bills.append(
        Bill(
            request_id=call.request_id,
            tenant=call.tenant,
            kind="chat",
            model=request.model,
            usage=usage,
            file_sha256s=tuple(file.sha256 for file in files),
        )
    )
    return JSONResponse(
        {
            "choices": [{"message": message, "index": 0, "finish_reason": answer.finish_reason}],
            "created": int(time.time()),
            "model": f"{request.model}:{_VERSION}",
            "object": "chat.completion",
            "usage": asdict(usage),
        }
    )


def _attached(call: Call, message: Message) -> StoredFile | None:
    if len(message.attachments) > 1:
        raise invalid("more than one image in a message")
    for file_id in message.attachments:
        if file := call.state.files.find(call.account, file_id):
            return file
        raise invalid(f"file {file_id} not found")
    return None


def _precached(call: Call, messages: Sequence[Message], costs: Sequence[int]) -> int:
    """Tell how many tokens of the prompt the session's last prompt began with, and keep this one for the next."""
    if not call.in_session:
        return 0
    key = (call.account, call.session_id)
    before = call.state.prompts.get(key, [])
    now = call.state.prompts[key] = [message.model_dump_json() for message in messages]
    alike = list(takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
    return sum(costs[: len(alike)])


def _answer(call: Call, request: ChatRequest, function: Function | None, files: Sequence[StoredFile]) -> _Answer:
    """Say what is seen, in the form that is asked for."""
    prompt = " ".join(message.content for message in request.messages if message.role != "assistant")
    english = "English" in prompt
    fields: Mapping[str, Any] = (
        words.of_picture(files[-1].sight, english=english) if files else words.of_text(_last_words(request.messages))
    )
    if call.fault("prose"):
        return _Answer(words.in_prose(fields, english=english), "stop")
    write = words.in_broken_json if call.fault("broken_json") else words.in_json
    if function:
        return _Answer(write(words.filled(fields, function.parameters)), "function_call", function.name)
    if request.response_format:
        return _Answer(write(words.filled(fields, request.response_format.json_schema)), "stop")
    return _Answer(words.in_fence(write(fields), english=english), "stop")


def _last_words(messages: Sequence[Message]) -> str:
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def _shortened(answer: _Answer, max_tokens: int | None, *, cut: bool) -> _Answer:
    """Keep as much of an answer as its tokens allow: `max_tokens`, or half of it by a fault."""
    tokens = words.text_tokens(answer.text)
    allowed = tokens // 2 if cut else tokens
    allowed = min(allowed, max_tokens or allowed)
    if allowed >= tokens:
        return answer
    return _Answer(answer.text[: allowed * words.CHARACTERS_A_TOKEN], "length", answer.function)
