"""An emulator of Telegram's Bot API over HTTP: `sendMessage`, and what goes wrong with it on demand.

Under `/emulator/`, for tests and people: GET `messages`; PUT `faults`; POST `reset`. What does not belong here: any
other method of the API.
"""

import argparse
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic import Field as PydanticField
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vision_assets.devstack.abrupt_server import ABORT, abrupt_server

TOKEN = "123456789:emulated-AAF4Yd8_x"  # noqa: S105 - opens nothing
MAX_UNITS = 4096
TAGS = frozenset({"b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "code", "pre", "a", "blockquote"})


class Fault(BaseModel):
    """What a call meets.

    Attributes:
        kind: `drop` and `hang` come before the message has any effect, those with `_after_accepting` after it.
        times: So many calls meet it, one after the other.
        retry_after: Seconds, of `rate_limited`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal[
        "rate_limited",
        "unparsable",
        "bad_request",
        "chat_not_found",
        "forbidden",
        "server_error",
        "drop",
        "hang",
        "drop_after_accepting",
        "hang_after_accepting",
    ]
    times: int = PydanticField(1, ge=1)
    retry_after: int = PydanticField(1, ge=0)


_FAULTS: TypeAdapter[list[Fault]] = TypeAdapter(list[Fault])


class SendMessage(BaseModel):
    """The call's body, as far as it is understood here."""

    chat_id: int | str
    text: str
    parse_mode: Literal["HTML"] | None = None


@dataclass(slots=True)
class State:
    """What was written, by whichever chat, and the faults to come.

    Attributes:
        messages: Each with `chat_id`, `text` without its tags, and `html` as it came; None: plain text.
        calls: Of `sendMessage`, refused ones too.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    calls: int = 0

    def fault(self) -> Fault | None:
        """Take the next fault."""
        if not self.faults:
            return None
        fault = self.faults.pop(0)
        if fault.times > 1:
            self.faults.insert(0, fault.model_copy(update={"times": fault.times - 1}))
        return fault


class _Refused(Exception):
    """The call is answered by an error, and nothing was written."""

    def __init__(self, status: int, description: str, **parameters: int) -> None:
        """Prepare the answer.

        Args:
            status: HTTP status.
            description: The API's words.
            parameters: As the API has them.
        """
        super().__init__(description)
        body: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
        self.answer = JSONResponse(body | ({"parameters": parameters} if parameters else {}), status)


class _Text(HTMLParser):
    """Takes the tags away, and knows those that Telegram knows."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - as its base has it
        if tag not in TAGS:
            raise _Refused(400, f'Bad Request: can\'t parse entities: Unsupported start tag "{tag}"')
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            raise _Refused(400, f'Bad Request: can\'t parse entities: Unexpected end tag "{tag}"')

    def handle_data(self, data: str) -> None:
        self.text += data

    def close(self) -> None:
        super().close()
        if self._open:
            raise _Refused(400, f"Bad Request: can't parse entities: Can't find end tag for \"{self._open[-1]}\"")


async def _send_message(request: Request) -> Response:
    state = _state(request)
    state.calls += 1
    try:
        if request.path_params["token"] != TOKEN:
            raise _Refused(401, "Unauthorized")
        body = SendMessage.model_validate_json(await request.body())
        fault = state.fault()
        kind = fault.kind if fault else ""
        if kind in ("drop", "hang"):
            return await _leave(request, drop=kind == "drop")
        _refuse(fault, body)
        text = _text(body)
        if not text.strip():
            raise _Refused(400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > MAX_UNITS:
            raise _Refused(400, "Bad Request: message is too long")
    except _Refused as refusal:
        return refusal.answer
    except ValidationError as error:
        return _Refused(400, f"Bad Request: {error.errors()[0]['msg']}").answer
    state.messages.append({"chat_id": str(body.chat_id), "text": text, "html": body.text if body.parse_mode else None})
    if kind.endswith("_after_accepting"):
        return await _leave(request, drop=kind.startswith("drop"))
    return JSONResponse({"ok": True, "result": {"message_id": len(state.messages), "text": text}})


def _refuse(fault: Fault | None, body: SendMessage) -> None:
    match fault:
        case Fault(kind="rate_limited"):
            description = f"Too Many Requests: retry after {fault.retry_after}"
            raise _Refused(429, description, retry_after=fault.retry_after)
        case Fault(kind="forbidden"):
            raise _Refused(403, "Forbidden: bot was blocked by the user")
        case Fault(kind="bad_request"):
            raise _Refused(400, "Bad Request: message text is empty")
        case Fault(kind="chat_not_found"):
            raise _Refused(400, "Bad Request: chat not found")
        case Fault(kind="server_error"):
            raise _Refused(500, "Internal Server Error")
        case Fault(kind="unparsable") if body.parse_mode:
            raise _Refused(400, "Bad Request: can't parse entities: Character '.' is reserved")


def _text(body: SendMessage) -> str:
    if body.parse_mode is None:
        return body.text
    parser = _Text()
    parser.feed(body.text)
    parser.close()
    return parser.text


async def _leave(request: Request, *, drop: bool) -> Response:
    """Give no answer: close the connection now, or let the client do so some day."""
    if drop:
        request.scope["extensions"][ABORT]()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()  # nobody hears it


def _state(request: Request) -> State:
    state = request.app.state.telegram
    assert isinstance(state, State)  # noqa: S101 - for the type checker
    return state


async def _messages(request: Request) -> Response:
    return JSONResponse({"messages": _state(request).messages, "calls": _state(request).calls})


async def _faults(request: Request) -> Response:
    try:
        _state(request).faults = _FAULTS.validate_json(await request.body())
    except ValidationError as error:
        return JSONResponse({"errors": error.errors(include_url=False, include_context=False)}, 422)
    return JSONResponse({})


async def _reset(request: Request) -> Response:
    request.app.state.telegram = State()
    return JSONResponse({})


def create_server(*, port: int) -> uvicorn.Server:
    """Make the server; its `run` serves on 127.0.0.1 until a signal or until `should_exit` is set.

    Args:
        port: 0 for any.
    """
    app = Starlette(
        routes=[
            Route("/bot{token}/sendMessage", _send_message, methods=["POST"]),
            Route("/emulator/messages", _messages),
            Route("/emulator/faults", _faults, methods=["PUT"]),
            Route("/emulator/reset", _reset, methods=["POST"]),
        ]
    )
    app.state.telegram = State()
    return abrupt_server(app, port=port)


def main() -> None:
    """Serve on the loopback interface until a signal."""
    parser = argparse.ArgumentParser(description="An emulator of Telegram's Bot API")
    parser.add_argument("--port", type=int, default=9081)
    create_server(port=parser.parse_args().port).run()


if __name__ == "__main__":
    main()
