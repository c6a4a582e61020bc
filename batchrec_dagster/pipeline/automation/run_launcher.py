"""A run launcher that notices when a code location was restarted and its runs are dead."""

from __future__ import annotations

from dagster import DagsterRun, DefaultRunLauncher, deserialize_value

from batchrec_dagster.dagster_internals.run_health import (
    CanCancelExecutionRequest,
    CanCancelExecutionResult,
    CheckRunHealthResult,
    DagsterUserCodeUnreachableError,
    WorkerStatus,
)


class WatchedRunLauncher(DefaultRunLauncher):
    """Reports runs as failed if their code location was restarted and no longer knows them.

    Then Dagster marks them as failed, and may retry them.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            # The run has ended, or a command started it and watches it.
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id))
        except DagsterUserCodeUnreachableError:
            # The run may still be going on. If not, the location will not know it once it is back.
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its code location is unreachable")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        current_run = self._instance.get_run_by_id(run.run_id)
        if current_run is None or current_run.is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its code location was restarted")
