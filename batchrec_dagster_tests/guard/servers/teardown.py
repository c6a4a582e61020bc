"""The command `batchrec teardown` on a test's project."""

from __future__ import annotations

import os
from contextlib import chdir, nullcontext
from unittest.mock import patch

import dagster as dg
from click.testing import CliRunner, Result

from batchrec_dagster.cli import main, pipelines
from batchrec_dagster_tests.guard.builders import Project


def tear_down(
    project: Project, name: str, instance: dg.DagsterInstance, *options: str, answer: str = "y\n"
) -> Result:
    """Run `batchrec teardown` with this instance as Dagster's history."""
    environment = {"BATCHREC_HOME": str(project.root / ".batchrec"), **project.environment}
    with (
        chdir(project.root),
        patch.dict(os.environ, environment),
        patch.object(pipelines, "open_dagster_instance", lambda: nullcontext(instance)),
    ):
        return CliRunner().invoke(main, ["teardown", name, *options], input=answer)
