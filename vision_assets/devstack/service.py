"""The HTTP service on this machine, a child of `vision-assets up`. What is not here: what it answers (`service/`)."""

import sys
from collections.abc import Mapping

from vision_assets.devstack import processes
from vision_assets.devstack.processes import Child, Program
from vision_assets.settings import Settings

NAME = "service"


def start(environment: Mapping[str, str]) -> Child:
    """Start it on its usual port, or on any free one if that is taken.

    Args:
        environment: Every setting.

    Raises:
        PartFailed: It did not start.
    """
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "vision_assets.service.app:create_app"]
    quiet = ["--no-access-log", "--log-level", "warning"]
    return processes.ensure(
        Program(
            name=NAME,
            command=lambda port: [*uvicorn, "--host", "127.0.0.1", "--port", str(port), *quiet],
            ready=lambda port: processes.answers(port, "/healthz"),
            environment=lambda _: environment,
            port=processes.free_port(Settings().service_port),
        )
    )


def metrics_url(child: Child) -> str:
    """Tell where Prometheus finds the metrics."""
    return f"http://127.0.0.1:{child.port}/metrics"
