"""An HTTP server that can break off: it closes a connection without an answer, and ends while calls hang.

What does not belong here: when that is to happen (`gigachat_call.py`, `openai_chat.py`).
"""

import asyncio
import socket
from collections.abc import Callable
from ssl import SSLContext
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

ABORT = "vision_assets.abort"
"""Of the ASGI scope's extensions: closes the connection at once."""

_SHUTDOWN_SECONDS = 5


class _Abortable(H11Protocol):
    """Lets the application close a connection without an answer, which ASGI has no word for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_abort(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[ABORT] = transport.abort
            await app(scope, receive, send)

        self.app = with_abort


class _Server(uvicorn.Server):
    """Drops whatever is open when it ends: a call that hangs would keep it for ever."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def abrupt_server(app: Starlette, *, port: int, tls: Callable[[], SSLContext] | None = None) -> uvicorn.Server:
    """Make a server on 127.0.0.1; its `run` serves until a signal or until `should_exit` is set.

    Args:
        port: 0 for any.
        tls: Makes the server's side of TLS; None: plain HTTP.
    """
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http=_Abortable,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        ssl_context_factory=None if tls is None else lambda _, __: tls(),
    )
    return _Server(config)
