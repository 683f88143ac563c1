"""Whether a run lives, as the launcher tells Dagster's run monitoring. A killed run: `acceptance/test_new_posts.py`."""

import json
import socket
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from vision_assets.dagster_launcher import WatchedRunLauncher
from vision_assets.devstack import processes


@dg.job
def idle() -> None:
    """Do nothing."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance with the launcher."""
    launcher = {"module": "vision_assets.dagster_launcher", "class": "WatchedRunLauncher"}
    with dg.instance_for_test(overrides={"run_launcher": launcher}) as instance:
        yield instance


def looks(instance: dg.DagsterInstance, *, port: int | None, count: int = 3) -> list[WorkerStatus]:
    """What successive looks at a run say whose code server is at a port, or that has none."""
    tags = {} if port is None else {GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": port})}
    run = instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert isinstance(instance.run_launcher, WatchedRunLauncher)
    return [instance.run_launcher.check_run_worker_health(run).status for _ in range(count)]


def test_a_run_has_ended_when_its_server_is_gone_twice(instance: dg.DagsterInstance) -> None:
    """Monitoring ends it then; should it ask again, that begins anew."""
    found = looks(instance, port=processes.free_port())
    assert found == [WorkerStatus.RUNNING, WorkerStatus.NOT_FOUND, WorkerStatus.RUNNING]


def test_a_run_of_no_server_is_left_alone(instance: dg.DagsterInstance) -> None:
    """As one in the process that asked for it."""
    assert looks(instance, port=None) == [WorkerStatus.RUNNING] * 3


@pytest.mark.slow
def test_a_server_that_does_not_answer_tells_nothing(instance: dg.DagsterInstance) -> None:
    """It may be busy."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert looks(instance, port=silent.getsockname()[1], count=2) == [WorkerStatus.RUNNING] * 2
