"""Tests of `batchrec ui` in a `dg` project: without workspace.yaml, it serves this project."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml

from batchrec_dagster.cli.project import find_project
from batchrec_dagster.cli.ui import open_workspace

OF_CREATE_DAGSTER = """\
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "acme"
code_location_name = "acme-lists"
code_location_target_module = "acme.location"
"""


@pytest.mark.parametrize("folder", ["src", "."])
def test_a_project_is_the_workspace_unless_it_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(OF_CREATE_DAGSTER)
    (tmp_path / folder / "acme/defs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with open_workspace(find_project()) as file:
        (location,) = yaml.safe_load(file.read_text())["load_from"]
    assert location["python_module"] == {
        "module_name": "acme.location",
        "working_directory": str(tmp_path / folder),
        "location_name": "acme-lists",
    }
    (tmp_path / "workspace.yaml").touch()
    with open_workspace(find_project()) as file:
        assert file.resolve() == tmp_path / "workspace.yaml"


def test_without_a_readable_project_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.dg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.ClickException, match="cannot read"):
        find_project()
