"""`vision-assets serve`: the HTTP service in the foreground. What is not here: what it answers (`service/`)."""

from typing import Annotated

import typer

from vision_assets.cli.failures import fail
from vision_assets.core.errors import VisionAssetsError
from vision_assets.settings import Settings


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default SERVICE_PORT.")] = None,
) -> None:
    """Serve /metrics for Prometheus, and /healthz, until Ctrl-C."""
    import uvicorn  # noqa: PLC0415 - the web framework takes a while to load, and other commands never need it

    from vision_assets.service.app import create_app  # noqa: PLC0415

    try:
        app = create_app()
    except VisionAssetsError as error:
        fail(error)
    port = Settings().service_port if port is None else port
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")
