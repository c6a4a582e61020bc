"""Templates in a YAML, and hyperparameters, go where they belong."""

from __future__ import annotations

from pathlib import Path

from batchrec_dagster.config.solution import Solution
from batchrec_dagster.pipeline.built_pipelines import get_built_pipelines
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
from pathlib import Path

@dg.template_var
def shop_name() -> str:
    return "outlet"

@dg.template_var
def blocked() -> dict[str, object]:
    return {"countries": ["AT", "DE"], "days": 30}

@dg.template_var
def folder(context: dg.ComponentLoadContext) -> Path:
    return context.project_root / "data"

@dg.template_var
def to_do_harm() -> object:
    return lambda: Path("harm").touch()
"""


def test_template_variables_of_the_project_are_plain_values(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    (project.package / "variables.py").write_text(VARIABLES)
    attributes = declaration("shop", "{{ project_root }}/orders-{{ shop_name }}.csv")
    attributes["description"] = "{{ context.project_root }}, {{ blocked.countries[1] }}"
    attributes["items"] = {"source": "{{ folder }}/items.csv", "columns": {"item": "sku"}}
    attributes["items"]["columns"]["title"] = "{{ shop_name }}"
    file = project.declare(attributes)
    head = f"template_vars_module: {project.package.name}.variables\n"
    file.write_text(head + file.read_text())
    with definitions(project) as defs:
        assert defs.component_tree is not None
        (pipeline,) = get_built_pipelines(defs.component_tree)
    assert pipeline.ratings.source == f"{tmp_path}/orders-outlet.csv"
    assert pipeline.description == f"{tmp_path}, DE"
    assert pipeline.items is not None
    assert pipeline.items.source == f"{tmp_path}/data/items.csv"
