"""What the tests of `batchrec new` share: a project to work in, the command, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.cli.project import Project as LocatedProject
from batchrec_dagster.config.json_schema import build_declaration_schema
from batchrec_dagster.config.new_declaration import SCHEMA_FILE
from batchrec_dagster_tests.guard.builders import (
    Project,
    definitions,
)

START = 1_500_000_000
ROWS = [(user, item) for user in range(1, 61) for item in range(user % 7, 80, 3)]


def list_schema_errors(attributes: dict[str, Any]) -> list[str]:
    """What is wrong with a declaration, by the schema that editors read."""
    document = {"type": "batchrec_dagster.BatchRecommendations", "attributes": attributes}
    # YAML has dates, which an editor takes for text.
    plain = json.loads(json.dumps(document, default=str))
    validator = jsonschema.Draft7Validator(build_declaration_schema())
    return [error.message for error in validator.iter_errors(plain)]


@pytest.fixture
def working_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, and the working folder in it."""
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(project.root)
    # Fewer rows are quicker to write and to read.
    monkeypatch.setattr("batchrec_dagster.steps.checks.MIN_INTERACTIONS", 20)
    monkeypatch.setattr("batchrec_dagster.steps.checks.MIN_USERS_WITH_TWO_INTERACTIONS", 5)
    return project


@pytest.fixture
def unloaded_project(working_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, in which `batchrec new` writes a declaration without loading it, which takes
    most of its time."""

    def write(project: LocatedProject, name: str, text: str) -> Path:
        path = project.defs / name / "defs.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return path

    module = "batchrec_dagster.cli.write_declaration"
    monkeypatch.setattr(f"{module}.write_declaration", write)
    monkeypatch.setattr(f"{module}.require_loadable_project", lambda *_: None)
    return working_project


def run_new(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["new", *arguments])
    return result.exit_code, result.output


def read_declaration(project: Project, name: str = "shop") -> dict[str, Any]:
    """The attributes that were written for the pipeline.

    Both the loader and the editor's schema accept them.
    """
    attributes = read_attributes(project, name)
    text = (project.package / "defs" / name / "defs.yaml").read_text()
    # The folder where the package is installed must not be in the file.
    assert "$schema" not in text
    assert str(SCHEMA_FILE.parent) not in text
    with definitions(project) as defs:
        assert defs.resolve_job_def(f"{name}_refresh")
    return attributes


def read_attributes(project: Project, name: str = "shop") -> dict[str, Any]:
    """The attributes that were written for the pipeline, which the editor's schema accepts."""
    text = (project.package / "defs" / name / "defs.yaml").read_text()
    attributes: dict[str, Any] = yaml.safe_load(text)["attributes"]
    assert list_schema_errors(attributes) == []
    return attributes


def list_leftovers(project: Project) -> list[str]:
    """The names of the declared pipelines, and of anything that was left next to them."""
    return sorted(
        path.name
        for path in [*(project.package / "defs").iterdir(), *project.root.glob(".batchrec-*")]
    )


def write_ratings_file(
    path: Path, header: str, rows: Mapping[str, Any] | None = None, delimiter: str = ","
) -> None:
    """Writes a file of ROWS: a user, an item, a rating, a time and further cells in each line.

    rows: makes the further cells of a line from its number, by name.
    """
    lines = [header] if header else []
    for number, (user, item) in enumerate(ROWS):
        cells = {"user": user, "item": item, "rating": 1 + item % 5, "time": START + 3600 * number}
        cells |= {name: make_cell(number) for name, make_cell in (rows or {}).items()}
        lines.append(delimiter.join(str(cell) for cell in cells.values()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
