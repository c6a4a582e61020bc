"""Fixtures and helpers for tests of `batchrec new`: a project, the command, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project

START = 1_500_000_000
ROWS = [(user, item) for user in range(1, 61) for item in range(user % 7, 80, 3)]
# Two of three ratings are high, so that a file has the 1,000 interactions that Personalize needs,
# even without the low ratings.
RATINGS = [(2, 5, 4)[item // 3 % 3] for _, item in ROWS]


@pytest.fixture
def working_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the project, in whose folder the test runs."""
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(project.root)
    return project


def run_new(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["new", *arguments])
    return result.exit_code, result.output


def read_declaration(project: Project, name: str = "shop") -> dict[str, Any]:
    """Return the attributes that `new` wrote for the pipeline."""
    text = (project.package / "defs" / name / "defs.yaml").read_text()
    # No other machine has the folder of this project.
    assert str(project.root) not in text
    attributes: dict[str, Any] = yaml.safe_load(text)["attributes"]
    return attributes


def list_leftovers(project: Project) -> list[str]:
    """Return the names of the declared pipelines, and of any files left next to them."""
    return sorted(
        path.name
        for path in [*(project.package / "defs").iterdir(), *project.root.glob(".batchrec-*")]
    )


def write_ratings_file(
    path: Path, header: str, rows: Mapping[str, Any] | None = None, delimiter: str = ","
) -> None:
    """Write a file of ROWS with a user, an item, a rating, a time and further cells in each line.

    rows: returns the further cells of a line by name, for the line's number.
    """
    lines = [header] if header else []
    for number, (user, item) in enumerate(ROWS):
        time = START + 3600 * number
        cells = {"user": user, "item": item, "rating": RATINGS[number], "time": time}
        cells |= {name: make_cell(number) for name, make_cell in (rows or {}).items()}
        lines.append(delimiter.join(str(cell) for cell in cells.values()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
