"""Who alerts go to: the emulated Bot API, and a webhook that takes what Alertmanager sends, over real HTTP.

What is not here: what the Bot API answers (`devstack/telegram.py`).
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vision_assets.devstack.abrupt_server import ABORT, abrupt_server
from vision_assets.devstack.telegram import TOKEN, create_server

CHAT = "-1001234"
SECRET_PATH = "/hooks/s3cr3t-b7"
AWAITED_SECONDS = 20


@dataclass(frozen=True, slots=True)
class EmulatedTelegram:
    """A running emulator and its control API."""

    url: str
    _control: httpx.Client

    def messages(self) -> list[dict[str, Any]]:
        """List what was written, in order."""
        messages: list[dict[str, Any]] = self._control.get("/emulator/messages").json()["messages"]
        return messages

    def titles(self) -> list[str]:
        """List the first lines of what was written."""
        return [str(message["text"]).splitlines()[0] for message in self.messages()]

    def calls(self) -> int:
        """Count the calls, refused ones too."""
        return int(self._control.get("/emulator/messages").json()["calls"])

    def set_faults(self, *faults: dict[str, Any]) -> None:
        """Let the next calls meet these."""
        answer = self._control.put("/emulator/faults", json=faults)
        assert answer.status_code == 200, answer.text


@dataclass(slots=True)
class WebhookReceiver:
    """A running webhook; what it refuses it answers by repeating the path, as many servers do.

    Attributes:
        requests: Bodies that came, with the headers below `headers`.
        answers: What the next requests meet: a status, `hang`, `drop` before it is taken in, or `drop_after` it.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    answers: list[int | str] = field(default_factory=list)

    @property
    def secret_url(self) -> SecretStr:
        """Where it takes alerts."""
        return SecretStr(f"{self.url}{SECRET_PATH}?key=1")

    def accepted(self) -> list[tuple[str, list[str]]]:
        """List what came, as a receiver knows it that knows messages again: status, and each alert's transition."""
        once = {request["headers"]["idempotency-key"]: request for request in self.requests}
        return [
            (request["status"], [alert["annotations"]["transition"] for alert in request["alerts"]])
            for request in once.values()
        ]

    async def take(self, request: Request) -> Response:
        """Take alerts in."""
        body = await request.body()
        answer = self.answers.pop(0) if self.answers else 200
        if answer != "drop":
            query = {"path": request.url.path, "query": request.url.query}
            self.requests.append({**json.loads(body), **query, "headers": dict(request.headers)})
        if answer in ("drop", "drop_after"):
            request.scope["extensions"][ABORT]()
        if isinstance(answer, str):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            return Response()
        words = f"Cannot POST {request.url.path}?{request.url.query}" if answer >= 400 else ""
        return Response(words, answer, {"Retry-After": "7"} if answer == 429 else None)


@contextmanager
def emulated_telegram() -> Iterator[EmulatedTelegram]:
    """Run the emulator on a free port until the block is left."""
    with (
        _running(create_server(port=0)) as url,
        httpx.Client(base_url=url, trust_env=False) as control,
    ):
        yield EmulatedTelegram(url, control)


@contextmanager
def webhook_receiver() -> Iterator[WebhookReceiver]:
    """Run a webhook on a free port until the block is left."""
    receiver = WebhookReceiver()
    app = Starlette(routes=[Route("/{path:path}", receiver.take, methods=["POST"])])
    with _running(abrupt_server(app, port=0)) as url:
        receiver.url = url
        yield receiver


@contextmanager
def _running(server: uvicorn.Server) -> Iterator[str]:
    thread = threading.Thread(target=server.run, name="receiver of alerts")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the receiver did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def token() -> SecretStr:
    """Give the bot's token."""
    return SecretStr(TOKEN)
