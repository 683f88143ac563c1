"""Dagster's launcher of runs as processes of the code server, with a look whether they live; `dagster.yaml` names it.

Dagster's own cannot tell, so a run that is killed together with its code server would be under way for ever.
What is not here: what follows from a run that has ended (Dagster's run monitoring, and its retries of runs).
"""

from typing import Any

import grpc  # type: ignore[import-untyped]  # it comes with Dagster, and has no types
from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

_TIMEOUT_SECONDS = 10


class WatchedRunLauncher(DefaultRunLauncher):
    """Like `DefaultRunLauncher`; a run whose code server does not have it, or is gone, in two looks has ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._missed: set[str] = set()

    @property
    def supports_check_run_worker_health(self) -> bool:
        """See `RunLauncher`."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """See `RunLauncher`. One look is not enough: a server may not have noted yet what it has just begun."""
        missing = self._missing(run)
        if missing is None:
            self._missed.discard(run.run_id)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if run.run_id not in self._missed:
            self._missed.add(run.run_id)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        self._missed.discard(run.run_id)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, missing)

    def _missing(self, run: DagsterRun) -> str | None:
        """Tell why a run seems to have ended; None: it lives, or that cannot be told."""
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return None
        asked = CanCancelExecutionRequest(run_id=run.run_id)
        try:
            answer = client.can_cancel_execution(asked, timeout=_TIMEOUT_SECONDS)
        except DagsterUserCodeUnreachableError as error:
            cause = error.__cause__
            is_gone = isinstance(cause, grpc.Call) and cause.code() == grpc.StatusCode.UNAVAILABLE
            return "The code server that had started it is gone." if is_gone else None
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return None
        return "The code server does not have it: its process was killed, or the server was started anew."
