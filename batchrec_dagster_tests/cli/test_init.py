"""`batchrec init`: what it writes, and what it leaves alone."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from batchrec_dagster.cli import main


def init(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["init", *arguments])
    return result.exit_code, result.output


def test_the_example_is_a_short_pipeline_and_files_that_one_can_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = init("garden", "--example")
    assert status == 0
    assert output.splitlines()[0] == "Made garden. Next:"
    assert output.rstrip().endswith("run shop")
    folder = tmp_path / "garden"
    assert "batchrec new" not in (folder / "README.md").read_text()
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        "blocked.csv",
        "customers.csv",
        "orders_and_clicks.csv",
        "products.csv",
    ]
    declaration = folder / "garden/defs/shop/defs.yaml"
    schema, *lines = declaration.read_text().splitlines()
    assert len(lines) < 80
    assert max(map(len, lines)) <= 100
    path = schema.removeprefix("# yaml-language-server: $schema=")
    assert (declaration.parent / path).resolve() == folder / "defs.schema.json"


def test_a_project_without_the_example_has_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = init("lists")
    assert status == 0
    assert output.rstrip().endswith("new shop --ratings FILE")
    assert not (tmp_path / "lists/data").exists()
    assert [path.name for path in (tmp_path / "lists/lists/defs").iterdir()] == ["__init__.py"]


def test_a_folder_with_files_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/notes.txt").write_text("mine")
    status, output = init("lists", "--example")
    assert status != 0
    assert "is not empty: name a new folder" in output
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["notes.txt"]


def test_an_untouched_project_is_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init("lists")
    monkeypatch.chdir(tmp_path / "lists")
    require_health()


def test_a_project_whose_defs_folder_became_empty_is_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init("emptied")
    monkeypatch.chdir(tmp_path / "emptied")
    (tmp_path / "emptied/emptied/defs/__init__.py").unlink()
    require_health()


def require_health() -> None:
    """Assert that each command that looks at a project accepts the one in this folder."""
    check = CliRunner().invoke(main, ["check"])
    assert check.exit_code == 0, check.output
    assert " passed: settings, pipelines, " in check.output
    assert "unknown " not in check.output
    for command in ("list", "run", "open", "show", "forget 7"):
        output = CliRunner().invoke(main, command.split()).output
        assert "No pipeline is declared. Declare one: `batchrec new NAME --ratings FILE`" in output


def test_the_project_can_be_installed_and_names_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init("garden", "--example")
    pyproject = tomllib.loads((tmp_path / "garden/pyproject.toml").read_text())
    (needed,) = map(Requirement, pyproject["project"]["dependencies"])
    assert needed.name == "batchrec-dagster"
    assert needed.extras == {"local", "report", "serve"}
    assert version("batchrec-dagster") in needed.specifier
    assert "batchrec_dagster" not in pyproject["project"]["name"]


def test_the_files_of_the_example_are_ones_that_new_recognises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init("garden", "--example")
    monkeypatch.chdir(tmp_path / "garden")
    files = ["--ratings", "data/orders_and_clicks.csv", "--items", "data/products.csv"]
    result = CliRunner().invoke(main, ["new", "orders", *files])
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.output
    assert Path("garden/defs/orders/defs.yaml").exists()
