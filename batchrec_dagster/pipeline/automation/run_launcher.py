"""A run launcher that records where its runs are, and notices those that are dead."""

from __future__ import annotations

import json

from dagster import DagsterRun, DefaultRunLauncher, deserialize_value

from batchrec_dagster.dagster_internals.run_health import (
    CanCancelExecutionRequest,
    CanCancelExecutionResult,
    CheckRunHealthResult,
    DagsterUserCodeUnreachableError,
    LaunchRunContext,
    WorkerStatus,
)
from batchrec_dagster.pipeline.automation.living_runs import (
    DIED,
    is_run_process_alive,
)
from batchrec_dagster.storage.processes import MACHINE_TAG, describe_machine

# Dagster's tag with the address of the code server in which a run's process was started.
CODE_SERVER = ".dagster/grpc_info"


class WatchedRunLauncher(DefaultRunLauncher):
    """Reports runs as failed if their process is gone.

    That is known of a process on this machine, and of a code location that was restarted and no
    longer knows the run. Then Dagster marks the run as failed, and may retry it.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        super().launch_run(context)
        run_id = context.dagster_run.run_id
        run = self._instance.get_run_by_id(run_id)
        # A code server on a socket is on this machine, and so is the run that it has started.
        if run is not None and "socket" in json.loads(run.tags.get(CODE_SERVER, "{}")):
            self._instance.add_run_tags(run_id, {MACHINE_TAG: describe_machine(run_id)})

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        current_run = self._instance.get_run_by_id(run.run_id)
        if current_run is None or current_run.is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        is_alive = is_run_process_alive(self._instance, current_run)
        if is_alive is None:
            return self._ask_code_location(current_run)
        if is_alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return self._report_death(current_run, "its process is gone")

    def _ask_code_location(self, run: DagsterRun) -> CheckRunHealthResult:
        """What the code location says about a run whose process may be on another machine."""
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
        return self._report_death(run, "its code location was restarted")

    def _report_death(self, run: DagsterRun, reason: str) -> CheckRunHealthResult:
        self._instance.add_run_tags(run.run_id, {DIED: run.run_id})
        return CheckRunHealthResult(WorkerStatus.FAILED, reason)
