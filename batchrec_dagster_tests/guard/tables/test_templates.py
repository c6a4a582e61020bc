"""Tests that `{{ env.NAME }}` in a declaration becomes the variable's value, and is validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchrec_dagster_tests.guard.builders import Project, declaration, definitions
from batchrec_dagster_tests.guard.seams.declaration import find_refusals

ITEMS = {
    "source": "items.csv",
    "columns": {"item": "id", "categories": {"GENRES": "genres"}, "numbers": {"YEAR": "year"}},
}
BPTT = {"recipe": "aws-user-personalization", "hyperparameters": {"bptt": "{{ env.VALUE }}"}}
# Settings with a template, a valid value, an invalid value, and the setting that the error names.
TEMPLATES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"ratings": {"source": "{{ env.VALUE }}"}}, "ratings.csv", "gopher://x", "ratings.source"),
    (
        {"schedule": {"cron": "{{ env.VALUE }}"}},
        "30 4 * * *",
        "at four",
        "schedule.cron",
    ),
    (
        {"schedule": {"cron": "0 3 * * *", "timezone": "{{ env.VALUE }}"}},
        "Europe/Vienna",
        "Vienna",
        "schedule.timezone",
    ),
    (
        {"items": ITEMS, "recommendations": {"filter": "{{ env.VALUE }}"}},
        "EXCLUDE ItemID WHERE Items.YEAR < 1999",
        "EXCLUDE ItemID WERE Items.YEAR < 1999",
        "recommendations.filter",
    ),
    (
        {"items": ITEMS, "segments": {"attributes": ["{{ env.VALUE }}"]}},
        'ITEMS.GENRES = "War"',
        "war films",
        "segments.attributes.0",
    ),
    ({"solution": BPTT}, "16", "64", "solution.hyperparameters.bptt"),
]


@pytest.mark.parametrize(("attributes", "value", "wrong", "setting"), TEMPLATES)
def test_a_template_is_filled_in_and_checked(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    attributes: dict[str, Any],
    value: str,
    wrong: str,
    setting: str,
) -> None:
    project.declare({**declaration("shop", "ratings.csv"), **attributes})
    monkeypatch.setenv("VALUE", value)
    assert find_refusals(project) == []
    monkeypatch.setenv("VALUE", wrong)
    (refusal,) = find_refusals(project)
    assert refusal.setting == setting


def test_the_value_is_the_variables(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = {"cron": "{{ env.VALUE }}"}
    project.declare(declaration("shop", "ratings.csv", schedule=schedule))
    monkeypatch.setenv("VALUE", "30 4 * * *")
    with definitions(project) as defs:
        assert defs.resolve_schedule_def("shop_schedule").cron_schedule == "30 4 * * *"


def test_a_variable_that_is_not_set_is_told_with_the_setting(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VALUE", raising=False)
    file = project.declare(declaration("shop", "{{ env.VALUE }}"))
    (refusal,) = find_refusals(project)
    assert (refusal.file, refusal.line, refusal.setting) == (file, 5, "ratings.source")


VARIABLES = """\
import dagster as dg
from pathlib import Path

@dg.template_var
def shop_name() -> str:
    return "outlet"

@dg.template_var
def to_do_harm() -> object:
    return lambda: Path("harm").touch()
"""


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
    ],
)
def test_a_template_runs_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.chdir(project.root)
    (project.package / "variables.py").write_text(VARIABLES)
    file = project.declare(declaration("shop", template))
    file.write_text(f"template_vars_module: {project.package.name}.variables\n{file.read_text()}")
    assert find_refusals(project)
    assert not Path("harm").exists()
