"""An emulator of Sber's GigaChat API over HTTPS on the loopback interface, for demos and tests.

It keeps to the wire of the real API, looks at the pictures that it is sent, bills exactly, and breaks on demand. All
its state is in memory; only its certificate authority outlives a restart. Run it alone with
`python -m vision_assets.devstack.gigachat --port 9443 --dir FOLDER`; clients then use `https://127.0.0.1:9443/api/v1`,
`https://127.0.0.1:9443/api/v2/oauth` and `FOLDER/ca.pem`, with the credentials of `PERSONAL` or `BUSINESS`.

What does not belong here: what the endpoints do (`gigachat_chat.py`, `gigachat_embeddings.py`, `gigachat_plain.py`),
how a call is admitted and broken (`gigachat_call.py`), the control API (`gigachat_control.py`).
"""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vision_assets.devstack import gigachat_plain as plain
from vision_assets.devstack.abrupt_server import abrupt_server
from vision_assets.devstack.gigachat_access import BUSINESS, PERSONAL
from vision_assets.devstack.gigachat_call import Broken, Call, Refused
from vision_assets.devstack.gigachat_chat import chat
from vision_assets.devstack.gigachat_control import ROUTES as CONTROL_ROUTES
from vision_assets.devstack.gigachat_embeddings import embeddings
from vision_assets.devstack.gigachat_faults import Endpoint
from vision_assets.devstack.gigachat_options import Options
from vision_assets.devstack.gigachat_state import State
from vision_assets.devstack.gigachat_tls import server_context

__all__ = ["BUSINESS", "PERSONAL", "Options", "create_server"]

Work = Callable[[Call], Awaitable[Response]]

_V1 = "/api/v1"
_ROUTES: list[tuple[str, str, Endpoint, Work]] = [
    ("POST", "/api/v2/oauth", "oauth", plain.oauth),
    ("POST", f"{_V1}/files", "files.upload", plain.upload),
    ("GET", f"{_V1}/files", "files.list", plain.list_files),
    ("GET", _V1 + "/files/{file_id}", "files.get", plain.get_file),
    ("GET", _V1 + "/files/{file_id}/content", "files.content", plain.get_content),
    ("POST", _V1 + "/files/{file_id}/delete", "files.delete", plain.delete_file),
    ("POST", f"{_V1}/chat/completions", "chat", chat),
    ("POST", f"{_V1}/embeddings", "embeddings", embeddings),
    ("POST", f"{_V1}/tokens/count", "tokens", plain.count_tokens),
    ("GET", f"{_V1}/models", "models", plain.list_models),
    ("GET", f"{_V1}/balance", "balance", plain.balance),
]


def _endpoint(endpoint: Endpoint, work: Work) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        state: State = request.app.state.gigachat
        call = Call(request, endpoint, state)
        try:
            answer = await call.serve(work)
        except Refused as refusal:
            answer = refusal.answer
        except Broken:
            return Response()  # nobody hears it
        state.books.count(call.tenant, endpoint, str(answer.status_code))
        answer.headers["X-Request-Id"] = call.request_id
        answer.headers["X-Session-Id"] = call.session_id
        return answer

    return serve


async def _unknown(request: Request, error: Exception) -> Response:
    """Name what the emulator does not do, rather than answer as the real API might."""
    code = error.status_code if isinstance(error, HTTPException) else 500
    text = f"The emulated GigaChat has no route {request.method} {request.url.path}"
    return JSONResponse({"status": 501, "message": text}, 501 if code in (404, 405) else code)


def create_app(options: Options) -> Starlette:
    """Make the application; it needs the server of `create_server` to be able to drop connections."""
    app = Starlette(
        routes=[
            *(Route(path, _endpoint(name, work), methods=[method]) for method, path, name, work in _ROUTES),
            *CONTROL_ROUTES,
        ],
        exception_handlers={404: _unknown, 405: _unknown},
    )
    app.state.options_at_start = options
    app.state.gigachat = State(options)
    return app


def create_server(folder: Path, *, port: int, options: Options | None = None) -> uvicorn.Server:
    """Make the server of a folder; its `run` serves until a signal or until `should_exit` is set.

    Args:
        folder: Made if absent; `ca.pem` in it is what clients have to trust.
        port: On 127.0.0.1; 0 for any.
        options: In force at the start and after a reset.
    """
    app = create_app(options or Options())
    return abrupt_server(app, port=port, tls=lambda: server_context(folder))


def main() -> None:
    """Serve on the loopback interface until a signal."""
    parser = argparse.ArgumentParser(description="The emulated GigaChat")
    parser.add_argument("--port", type=int, default=9443)
    parser.add_argument("--dir", type=Path, required=True)
    arguments = parser.parse_args()
    create_server(arguments.dir, port=arguments.port).run()


if __name__ == "__main__":
    main()
