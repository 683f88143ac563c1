"""The embedded Qdrant: a thin loopback server that speaks the part of Qdrant's REST API which this project uses.

The engine is Qdrant's own (`qdrant-edge-py`); the HTTP layer is ours, so that the stock `AsyncQdrantClient(url=…)` is
the only client anywhere. A route or an option that is not here is answered by 501 with its name. Run it alone with
`python -m vision_assets.devstack.qdrant --port 6333 --dir FOLDER`.

What does not belong here: what a request means (`qdrant_wire.py`), collections and files (`qdrant_engine.py`).
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import qdrant_edge as edge
import uvicorn
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from qdrant_client.http import models as rest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vision_assets.devstack import qdrant_wire as wire
from vision_assets.devstack.qdrant_engine import CollectionExists, CollectionMissing, Collections

_FLUSH_SECONDS = 5


Handler = Callable[[Collections, str, Any], Any]


def _create(collections: Collections, name: str, body: rest.CreateCollection) -> bool:
    collections.create(name, body)
    return True


def _change_aliases(collections: Collections, _: str, body: rest.ChangeAliasesOperation) -> bool:
    collections.change_aliases(body.actions)
    return True


def _done() -> rest.UpdateResult:
    return rest.UpdateResult(operation_id=0, status=rest.UpdateStatus.COMPLETED)


def _create_index(collections: Collections, name: str, body: rest.CreateFieldIndex) -> rest.UpdateResult:
    collections.create_index(name, body)
    return _done()


def _upsert(collections: Collections, name: str, body: rest.PointsList | rest.PointsBatch) -> rest.UpdateResult:
    collections.update(name, wire.upsert(body))
    return _done()


def _delete(collections: Collections, name: str, body: rest.PointIdsList | rest.FilterSelector) -> rest.UpdateResult:
    collections.update(name, wire.delete(body))
    return _done()


def _retrieve(collections: Collections, name: str, body: rest.PointRequest) -> list[rest.Record]:
    ids = [wire.point_id(key) for key in body.ids]
    payload = wire.with_payload(body.with_payload, default=True)
    return [wire.record(point) for point in collections.shard(name).retrieve(ids, payload, body.with_vector or False)]


def _scroll(collections: Collections, name: str, body: rest.ScrollRequest) -> rest.ScrollResult:
    points, offset = collections.shard(name).scroll(wire.scroll(body))
    return rest.ScrollResult(
        points=[wire.record(point) for point in points],
        next_page_offset=offset if offset is None or isinstance(offset, int) else str(offset),
    )


def _count(collections: Collections, name: str, body: rest.CountRequest) -> rest.CountResult:
    request = edge.CountRequest(exact=True, filter=wire.filter_or_none(body.filter))
    return rest.CountResult(count=collections.shard(name).count(request))


def _query(collections: Collections, name: str, body: rest.QueryRequest) -> rest.QueryResponse:
    return rest.QueryResponse(points=[wire.scored(point) for point in collections.shard(name).query(wire.query(body))])


def _names(collections: Collections, _: str, __: None) -> rest.CollectionsResponse:
    return rest.CollectionsResponse(collections=[rest.CollectionDescription(name=name) for name in collections.names()])


_COLLECTION = "/collections/{name}"
_ROUTES: list[tuple[str, str, Any, Handler]] = [
    ("GET", "/collections", None, _names),
    ("GET", "/aliases", None, lambda c, _, __: rest.CollectionsAliasesResponse(aliases=c.aliases())),
    ("POST", "/collections/aliases", rest.ChangeAliasesOperation, _change_aliases),
    ("GET", _COLLECTION, None, lambda c, name, _: c.info(name)),
    ("PUT", _COLLECTION, rest.CreateCollection, _create),
    ("DELETE", _COLLECTION, None, lambda c, name, _: c.delete(name)),
    ("GET", f"{_COLLECTION}/exists", None, lambda c, name, _: rest.CollectionExistence(exists=c.exists(name))),
    (
        "GET",
        f"{_COLLECTION}/aliases",
        None,
        lambda c, name, _: rest.CollectionsAliasesResponse(aliases=c.aliases(name)),
    ),
    ("PUT", f"{_COLLECTION}/index", rest.CreateFieldIndex, _create_index),
    ("PUT", f"{_COLLECTION}/points", rest.PointInsertOperations, _upsert),
    ("POST", f"{_COLLECTION}/points", rest.PointRequest, _retrieve),
    ("POST", f"{_COLLECTION}/points/delete", rest.PointsSelector, _delete),
    ("POST", f"{_COLLECTION}/points/scroll", rest.ScrollRequest, _scroll),
    ("POST", f"{_COLLECTION}/points/count", rest.CountRequest, _count),
    ("POST", f"{_COLLECTION}/points/query", rest.QueryRequest, _query),
]


def _answer(result: Any, *, seconds: float, status: Any = "ok", code: int = 200) -> Response:
    body = to_json({"time": seconds, "status": status, "result": result})
    return Response(body, status_code=code, media_type="application/json")


def _failure(error: Exception, name: str) -> tuple[int, str]:
    """Choose the status and text with which the server would answer."""
    match error:
        case CollectionMissing():
            return 404, f"Not found: Collection `{error}` doesn't exist!"
        case CollectionExists():
            return 409, f"Wrong input: Collection `{error}` already exists!"
        case wire.Unsupported():
            return 501, f"The embedded Qdrant does not do this: {error}"
        case wire.Invalid() | ValidationError():
            return 400, f"Wrong input: {error}"
        case _ if type(error) is Exception and not str(error).startswith("Service"):
            return 400, f"Wrong input: {error}"  # the engine raises bare exceptions; its own faults say "Service …"
    return 500, f"{type(error).__name__} on {name}: {error}"


def _endpoint(body: Any, handler: Handler) -> Callable[[Request], Any]:
    adapter: TypeAdapter[Any] | None = None if body is None else TypeAdapter(body)

    async def endpoint(request: Request) -> Response:
        start = time.perf_counter()
        content = await request.body()
        name = request.path_params.get("name", "")

        def work() -> Response:
            try:
                model = None if adapter is None else adapter.validate_json(content)
                result = handler(request.app.state.collections, name, model)
                return _answer(result, seconds=time.perf_counter() - start)
            except Exception as error:  # noqa: BLE001 - every failure is an answer
                code, text = _failure(error, request.url.path)
                return _answer(None, seconds=time.perf_counter() - start, status={"error": text}, code=code)

        return await run_in_threadpool(work)

    return endpoint


async def _unknown(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 500
    text = f"The embedded Qdrant has no route {request.method} {request.url.path}"
    return _answer(None, seconds=0, status={"error": text}, code=501 if code in (404, 405) else code)


def _root(_: Request) -> Response:
    """Name the client's own version, as it compares the two."""
    info = {"title": "vision_assets embedded Qdrant (qdrant-edge)", "version": version("qdrant-client")}
    return Response(to_json(info), media_type="application/json")


def create_app(folder: Path) -> Starlette:
    """Make the server of one folder; collections are opened at start-up and flushed at shutdown."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        collections = await run_in_threadpool(Collections, folder)
        app.state.collections = collections

        async def flush() -> None:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                await run_in_threadpool(collections.flush)

        task = asyncio.create_task(flush())
        try:
            yield
        finally:
            task.cancel()
            await run_in_threadpool(collections.close)

    return Starlette(
        routes=[
            Route("/", _root),
            *(Route(path, lambda _: PlainTextResponse("ok")) for path in ("/healthz", "/livez", "/readyz")),
            *(Route(path, _endpoint(body, handler), methods=[method]) for method, path, body, handler in _ROUTES),
        ],
        exception_handlers={404: _unknown, 405: _unknown},
        lifespan=lifespan,
    )


def main() -> None:
    """Serve on the loopback interface until a signal."""
    parser = argparse.ArgumentParser(description="The embedded Qdrant")
    parser.add_argument("--port", type=int, default=6333)
    parser.add_argument("--dir", type=Path, required=True)
    options = parser.parse_args()
    uvicorn.run(create_app(options.dir), host="127.0.0.1", port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
