"""`batchrec ui` in any project of `dg`: without a workspace.yaml it serves the project here."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml

from batchrec_dagster.cli.project import find_project
from batchrec_dagster.cli.ui import default_workspace
from batchrec_dagster.config.new_declaration import ignore_home_in_git

OF_CREATE_DAGSTER = """\
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "acme"
code_location_name = "acme-lists"
code_location_target_module = "acme.location"
"""


def make_project(root: Path, *, src: bool) -> None:
    (root / "pyproject.toml").write_text(OF_CREATE_DAGSTER)
    (root / ("src/acme" if src else "acme") / "defs").mkdir(parents=True)


@pytest.mark.parametrize("src", [True, False])
def test_a_project_without_a_workspace_is_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, src: bool
) -> None:
    make_project(tmp_path, src=src)
    monkeypatch.chdir(tmp_path)
    with default_workspace(find_project()) as file:
        (location,) = yaml.safe_load(file.read_text())["load_from"]
    assert location["python_module"] == {
        "module_name": "acme.location",
        "working_directory": str(tmp_path / "src" if src else tmp_path),
        "location_name": "acme-lists",
    }


def test_a_workspace_of_ones_own_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path, src=True)
    (tmp_path / "workspace.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with default_workspace(find_project()) as file:
        assert file.resolve() == tmp_path / "workspace.yaml"


def test_without_a_readable_project_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.dg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.ClickException, match="cannot read"):
        find_project()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ("", ".batchrec/\n"),
        ("*.pyc", "*.pyc\n.batchrec/\n"),
        ("/.batchrec\n", "/.batchrec\n"),
        (".batchrec/\n.env\n", ".batchrec/\n.env\n"),
    ],
)
def test_the_home_is_ignored_by_git(tmp_path: Path, before: str | None, after: str | None) -> None:
    file = tmp_path / ".gitignore"
    if before is not None:
        file.write_text(before)
    ignore_home_in_git(tmp_path)
    assert (file.read_text() if file.exists() else None) == after
    (tmp_path / ".git").mkdir()
    ignore_home_in_git(tmp_path)
    assert file.read_text() == (after or ".batchrec/\n")
