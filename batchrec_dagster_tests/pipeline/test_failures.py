"""What a failed run says in one line, when a process was killed or memory ran out."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster.cli.run_stages import RunStages
from batchrec_dagster.pipeline.automation.failure_alerts import describe_failure
from batchrec_dagster.pipeline.failure_reasons import explain_signal
from batchrec_dagster_tests.pipeline.alerts_support import make_pipeline


@dg.job
def shop_refresh() -> None:
    @dg.op
    def interactions() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    interactions()


@pytest.mark.slow
def test_a_step_whose_process_was_killed_is_named_with_what_to_do(tmp_path: Path) -> None:
    """On AWS, where each step is a process, Dagster's own error is a ChildProcessCrashException."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        with dg.execute_job(dg.reconstructable(shop_refresh), instance) as result:
            run = result.dagster_run
        stages = RunStages(instance, run)
        assert len(list(stages.update())) == 1
        assert stages.reasons == [explain_signal("interactions", signal.SIGKILL)]
        assert "memory most likely ran out. Give the machine" in stages.reasons[0]
        assert describe_failure(make_pipeline(), instance, run).lines[0] == stages.reasons[0]


def test_a_run_of_the_web_page_that_was_killed_says_so_in_the_alert(
    instance: dg.DagsterInstance,
) -> None:
    run = instance.create_run_for_job(shop_refresh)
    # As Dagster's code server reports it.
    instance.report_engine_event(
        f"Run execution process for {run.run_id} was terminated by signal 6 (SIGABRT).", run
    )
    instance.report_run_failed(run)
    line = explain_signal("the run", signal.SIGABRT)
    assert describe_failure(make_pipeline(), instance, run).lines[0] == line
    stages = RunStages(instance, run)
    assert [*stages.update()] == []
    assert stages.reasons == [line]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("Unable to allocate 7 TiB"), "Unable to allocate 7 TiB: memory most likely"),
        (
            OSError("No space left on device (os error 28)"),
            "No space left on device (os error 28): free some space; batchrec check names",
        ),
        (OSError("Not a directory"), "Not a directory"),
    ],
)
def test_a_step_without_memory_or_disk_says_what_to_do(
    instance: dg.DagsterInstance, error: Exception, reason: str
) -> None:
    @dg.job(name="shop_refresh")
    def job() -> None:
        @dg.op
        def interactions() -> None:
            raise error

        interactions()

    run = job.execute_in_process(instance=instance, raise_on_error=False).dagster_run
    stages = RunStages(instance, run)
    assert len(list(stages.update())) == 1
    (line,) = stages.reasons
    assert line.startswith(f"interactions: {type(error).__name__}: {reason}")
