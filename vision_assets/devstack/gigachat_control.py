"""The control API of the emulated GigaChat, under `/emulator/`: for tests and people, not for clients.

GET, PUT, DELETE `faults`; GET, PUT `options`; GET `counts`; GET `files`; POST `reset`.
What does not belong here: what a fault or an option means (`gigachat_faults.py`, `gigachat_options.py`).
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vision_assets.devstack.gigachat_faults import Fault
from vision_assets.devstack.gigachat_options import Options
from vision_assets.devstack.gigachat_state import State

_FAULTS: TypeAdapter[list[Fault]] = TypeAdapter(list[Fault])
_OPTIONS = TypeAdapter(Options)


def _state(request: Request) -> State:
    state = request.app.state.gigachat
    assert isinstance(state, State)  # noqa: S101 - for the type checker
    return state


def _wrong(error: ValidationError) -> Response:
    return JSONResponse({"status": 422, "errors": error.errors(include_url=False, include_context=False)}, 422)


async def _faults(request: Request) -> Response:
    state = _state(request)
    if request.method != "GET":
        try:
            state.faults.replace(_FAULTS.validate_json(await request.body()) if request.method == "PUT" else [])
        except ValidationError as error:
            return _wrong(error)
    return JSONResponse(state.faults.report())


async def _options(request: Request) -> Response:
    state = _state(request)
    if request.method == "PUT":
        try:
            state.set_options(_OPTIONS.validate_json(await request.body()))
        except ValidationError as error:
            return _wrong(error)
    return JSONResponse(state.options.model_dump(mode="json"))


async def _counts(request: Request) -> Response:
    state = _state(request)
    report: dict[str, Any] = state.books.report()
    return JSONResponse(report | {"streams": state.streams.report(), "files": len(state.files.all())})


async def _files(request: Request) -> Response:
    return JSONResponse([file.report() for file in _state(request).files.all()])


async def _reset(request: Request) -> Response:
    """Forget everything, tokens and files too, and go back to the options of the start."""
    request.app.state.gigachat = State(request.app.state.options_at_start)
    return JSONResponse({})


ROUTES = [
    Route("/emulator/faults", _faults, methods=["GET", "PUT", "DELETE"]),
    Route("/emulator/options", _options, methods=["GET", "PUT"]),
    Route("/emulator/counts", _counts),
    Route("/emulator/files", _files),
    Route("/emulator/reset", _reset, methods=["POST"]),
]
