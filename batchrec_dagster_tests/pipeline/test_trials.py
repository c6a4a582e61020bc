"""Trials: lists with other settings, or of an earlier day, of which readers see nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import pytest

from batchrec_dagster.config.trial import Trial
from batchrec_dagster.pipeline.trial_definitions import build_definitions
from batchrec_dagster_tests.support import Project, definitions


def run_trial(
    project: Project, instance: dg.DagsterInstance, trial: Trial, name: str = "shop"
) -> dg.ExecuteInProcessResult:
    """Run a trial of the pipeline in this process."""
    defs = project.package / "defs"
    with definitions(project), patch.dict("os.environ", project_environment(project)):
        job = build_definitions(defs, defs / name / "defs.yaml", name, trial).resolve_job_def(
            f"{name}_trial"
        )
        return job.execute_in_process(instance=instance, raise_on_error=False)


def project_environment(project: Project) -> dict[str, str]:
    return {
        "BATCHREC_HOME": str(project.root / ".batchrec"),
        "BATCHREC_POLL_SECONDS": "0.02",
        **project.environment,
    }


def checksums(storage: Path) -> dict[str, str]:
    """The checksum of each file outside of the trials' folders."""
    return {
        str(path.relative_to(storage)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in storage.rglob("*")
        if path.is_file() and "trials" not in path.relative_to(storage).parts[1:2]
    }


@pytest.mark.slow
@pytest.mark.usefixtures("first_run_of_shop")
def test_a_trial_leaves_no_trace_in_what_readers_see(
    project: Project, instance: dg.DagsterInstance
) -> None:
    before = checksums(project.storage)
    trial = Trial.parse({"solution.recipe": "aws-popularity-count"})
    result = run_trial(project, instance, trial)
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    assert checksums(project.storage) == before
