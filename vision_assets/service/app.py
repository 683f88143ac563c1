"""The HTTP service: `/metrics` for Prometheus, `/healthz` for whoever starts and restarts it.

What is not here: what is measured (`exporter.py`), and starting it (`vision-assets serve`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from vision_assets.clients.postgres import Database
from vision_assets.core.errors import ConfigurationError, TransientError
from vision_assets.service.exporter import READ_SECONDS, Exporter
from vision_assets.settings import Settings


def create_app() -> FastAPI:
    """Make the service of the settings' database; it connects when it is first asked.

    Raises:
        ConfigurationError: There is no database.
    """
    settings = Settings()
    if settings.database_url is None:
        raise ConfigurationError("There is no database: start the parts with `vision-assets up`, or set DATABASE_URL.")
    url = settings.database_url.get_secret_value()
    dagster_url = (settings.dagster_postgres_url or settings.database_url).get_secret_value()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            _pool(url, connections=3) as database,
            _pool(dagster_url.replace("postgresql+psycopg2://", "postgresql://", 1), connections=1) as dagster,
        ):
            app.state.exporter = Exporter(
                database,
                dagster,
                settings.storage_limits(),
                settings.budget_limits(),
                settings.metrics_tenants,
            )
            yield

    app = FastAPI(title="vision-assets", lifespan=lifespan, openapi_url=None)
    app.add_api_route("/metrics", metrics)
    app.add_api_route("/healthz", healthz)
    return app


@asynccontextmanager
async def _pool(url: str, *, connections: int) -> AsyncIterator[Database]:
    # Opened when it is needed: the service starts, and says what is wrong, while the database is away.
    async with Database.open(url, max_size=connections, brief=True, patience_seconds=READ_SECONDS) as database:
        yield database


def _exporter(request: Request) -> Exporter:
    exporter: Exporter = request.app.state.exporter
    return exporter


_Exporter = Annotated[Exporter, Depends(_exporter)]


async def metrics(exporter: _Exporter) -> Response:
    """Answer a scrape."""
    return Response(await exporter.scrape(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def healthz(exporter: _Exporter) -> JSONResponse:
    """Tell whether the service can do its work: 200, or 503 while the database does not answer."""
    try:
        await exporter.ping()
    except TransientError as error:
        return JSONResponse({"status": "unavailable", "error": str(error)}, status_code=503)
    return JSONResponse({"status": "ok"})
