"""A GigaChat that says what it is given, word for word, over HTTPS. What is not here: the words."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from vision_assets.clients.gigachat_wire import GigaChatAccess
from vision_assets.devstack.gigachat_tls import CA_FILE, server_context

_POLL_SECONDS = 0.02  # how soon it ends

Place = Literal["oauth", "upload", "chat", "delete"]


@dataclass(frozen=True, slots=True)
class Said:
    """One answer."""

    body: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Replay:
    """Answers in order; the last of a place stays. What was asked is kept."""

    access: GigaChatAccess
    answers: dict[Place, list[Said]]
    asked: dict[Place, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    tokens: list[str] = field(default_factory=list)

    def next(self, place: Place, body: bytes, authorization: str) -> Said:
        """Keep what was asked, and give the answer to it."""
        self.asked[place].append(body)
        if place == "chat":
            self.tokens.append(authorization.removeprefix("Bearer "))
        left = self.answers[place]
        return left.pop(0) if len(left) > 1 else left[0]

    def chats(self) -> list[dict[str, Any]]:
        """What the model was asked."""
        return [json.loads(body) for body in self.asked["chat"]]


def _place(path: str) -> Place:
    if path.endswith("/oauth"):
        return "oauth"
    if path.endswith("/chat/completions"):
        return "chat"
    return "delete" if path.endswith("/delete") else "upload"


@contextmanager
def replayed(folder: Path, answers: dict[Place, list[Said]]) -> Iterator[Replay]:
    """Serve answers on a free port until the block is left.

    Args:
        folder: For certificates.
        answers: At least one for each place.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"] or 0))
            said = replay.next(_place(self.path), asked, self.headers.get("Authorization", ""))
            body = said.body.encode()
            self.send_response(said.status)
            for name, value in {"Content-Type": "application/json", **said.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Say nothing: the tests tell what was asked."""

    context = server_context(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.server_port}"
        replay = Replay(
            GigaChatAccess(
                credentials=SecretStr("cmVwbGF5OnJlcGxheQ=="),
                scope="GIGACHAT_API_B2B",
                base_url=f"{url}/api/v1",
                auth_url=f"{url}/api/v2/oauth",
                ca_file=folder / CA_FILE,
                connect_seconds=5,
                read_seconds=5,
                deadline_seconds=8,
            ),
            answers,
        )
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="replayed GigaChat")
        thread.start()
        try:
            yield replay
        finally:
            server.shutdown()
            thread.join(30)
