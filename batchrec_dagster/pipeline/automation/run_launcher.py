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
    """Reports runs as failed if their restarted code location no longer knows them, so that Dagster
    marks them and may retry them."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            # It has ended, or a command started it and watches it.
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id))
        except DagsterUserCodeUnreachableError:
            # Unreachable may still mean running. If not, the restarted location does not know it.
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its code location is unreachable")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        now = self._instance.get_run_by_id(run.run_id)
        if now is None or now.is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        return CheckRunHealthResult(WorkerStatus.FAILED, "its code location was restarted")
