"""Templates in a YAML, and hyperparameters, go where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.pipeline.built_pipelines import get_built_pipelines
from batchrec_dagster.steps.batch_jobs import build_solution_config
from batchrec_dagster_tests.guard.builders import (
    declaration,
    definitions,
    module_project,
)

UPDATABLE = {"recipe": "aws-user-personalization"}


def test_a_template_is_filled_in_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "{{ env.RATINGS }}"))
    monkeypatch.setenv("RATINGS", "gopher://x")
    with (
        pytest.raises(DeclarationError, match=r"line 5: ratings.source: gopher://"),
        definitions(project),
    ):
        pass
    monkeypatch.setenv("RATINGS", "ratings.csv")
    with definitions(project) as defs:
        assert defs.resolve_job_def("shop_refresh")


def test_templates_stand_in_for_items_filters_and_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = module_project(tmp_path)
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            items={
                "source": "{{ env.ITEMS }}",
                "columns": {
                    "item": "movieID",
                    "categories": {"GENRES": "genres"},
                    "numbers": {"YEAR": "year"},
                },
            },
            recommendations={"filter": "{{ env.FILTER }}"},
            segments={"attributes": ["{{ env.ATTRIBUTES }}"]},
        )
    )
    monkeypatch.setenv("ITEMS", "sample://hetrec/movies.dat")
    monkeypatch.setenv("FILTER", "EXCLUDE ItemID WHERE Items.YEAR < 1999")
    monkeypatch.setenv("ATTRIBUTES", 'ITEMS.GENRES = "War"')
    with definitions(project) as defs:
        assert defs.resolve_job_def("shop_refresh")
    monkeypatch.setenv("ATTRIBUTES", "war films")
    with (
        pytest.raises(
            DeclarationError,
            match=r"line 24: segments.attributes: 'war films': .*error at character 1",
        ),
        definitions(project),
    ):
        pass


@pytest.mark.parametrize(
    ("block", "setting", "value", "wrong", "message"),
    [
        ("schedule", "cron", "30 4 * * *", "at four", "not a cron schedule"),
        ("schedule", "timezone", "Europe/Vienna", "Vienna", "unknown time zone"),
        ("ratings", "timestamp_format", "%d.%m.%Y", "%d.%m", "a time written in it"),
    ],
)
def test_a_checked_text_may_be_a_template(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: str,
    setting: str,
    value: str,
    wrong: str,
    message: str,
) -> None:
    project = module_project(tmp_path)
    attributes = declaration("shop", "ratings.csv", schedule={"cron": "0 3 * * *"})
    attributes[block] = {**attributes[block], setting: "{{ env.TEXT }}"}
    project.declare(attributes)
    monkeypatch.setenv("TEXT", value)
    with definitions(project) as defs:
        schedule = defs.resolve_schedule_def("shop_schedule")
        if block == "schedule":
            schedule_values = {
                "cron": schedule.cron_schedule,
                "timezone": schedule.execution_timezone,
            }
            assert schedule_values[setting] == value
    monkeypatch.setenv("TEXT", wrong)
    with (
        pytest.raises(DeclarationError, match=rf"{block}\.{setting}: .*{message}"),
        definitions(project),
    ):
        pass


def test_hyperparameters_may_be_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = module_project(tmp_path)
    solution = {**UPDATABLE, "hyperparameters": {"bptt": "{{ env.BPTT }}"}}
    project.declare(declaration("shop", "ratings.csv", solution=solution))
    monkeypatch.setenv("BPTT", "16")
    with definitions(project) as defs:
        assert defs.resolve_job_def("shop_refresh")
    monkeypatch.setenv("BPTT", "64")
    with (
        pytest.raises(
            DeclarationError,
            match=r"solution\.hyperparameters.bptt: hyperparameter bptt is '64'; allowed: a",
        ),
        definitions(project),
    ):
        pass


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


@pytest.mark.attack
@pytest.mark.parametrize(
    "template",
    [
        "{{ to_do_harm() }}",
        "{{ context.load_component('x') }}",
        "{{ context.build_defs('x') }}",
        "{{ dg.AssetKey('x') }}",
        "{{ datetime.datetime.now() }}",
        "{{ shop_name.__class__.__mro__ }}",
        "{{ blocked.__class__ }}",
        "{{ blocked.update(x=1) }}",
    ],
)
def test_templates_reach_nothing_but_plain_values(tmp_path: Path, template: str) -> None:
    project = module_project(tmp_path)
    (project.package / "variables.py").write_text(VARIABLES)
    file = project.declare(declaration("shop", template))
    head = f"template_vars_module: {project.package.name}.variables\n"
    file.write_text(head + file.read_text())
    with pytest.raises(DeclarationError, match="cannot fill in"), definitions(project):
        pass
    assert not Path("harm").exists()
