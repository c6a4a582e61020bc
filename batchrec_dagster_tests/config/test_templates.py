"""Templates in a YAML, and hyperparameters, go where they belong."""

from __future__ import annotations

from pathlib import Path

import yaml

from batchrec_dagster.config.solution import Solution
from batchrec_dagster.steps.batch_jobs import build_solution_config
from batchrec_dagster_tests.guard.builders import (
    declaration,
    definitions,
    module_project,
)

UPDATABLE = {"recipe": "aws-user-personalization"}


def test_each_hyperparameter_goes_where_personalize_expects_it() -> None:
    solution = Solution.model_validate(
        {**UPDATABLE, "hyperparameters": {"bptt": 4, "max_user_history_length_percentile": 0.9}}
    )
    assert build_solution_config(solution.algorithm_hyperparameters) == {
        "algorithmHyperParameters": {"bptt": "4"},
        "featureTransformationParameters": {"max_user_history_length_percentile": "0.9"},
    }
    assert build_solution_config({}) == {"algorithmHyperParameters": {}}


VARIABLES = """\
import dagster as dg

@dg.template_var
def by_six() -> dg.FreshnessPolicy:
    return dg.FreshnessPolicy.cron("0 6 * * *", __import__("datetime").timedelta(hours=1))
"""


def test_variables_of_dagster_are_for_post_processing_and_stop_no_pipeline(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    (project.package / "variables.py").write_text(VARIABLES)
    file = project.declare(declaration("shop", "ratings.csv"))
    policies = {"target": "*", "attributes": {"freshness_policy": "{{ by_six }}"}}
    file.write_text(
        f"template_vars_module: {project.package.name}.variables\n{file.read_text()}"
        + yaml.safe_dump({"post_processing": {"assets": [policies]}})
    )
    with definitions(project) as defs:
        specs = [*defs.resolve_all_asset_specs()]
    assert specs
    assert all(spec.freshness_policy is not None for spec in specs)
