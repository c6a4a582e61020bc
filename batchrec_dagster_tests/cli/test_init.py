"""`batchrec init --example shop`: what it writes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main


def init(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["init", *arguments])
    return result.exit_code, result.output


def test_the_example_is_a_short_pipeline_and_files_that_one_can_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = init("--example", "shop", "garden")
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
    assert len(lines) < 60
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
    assert [*(tmp_path / "lists/lists/defs").iterdir()] == [tmp_path / "lists/lists/defs/.gitkeep"]


def test_an_unknown_example_or_a_folder_with_files_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = init("--example", "bank", "lists")
    assert status != 0
    assert "'bank' is not 'shop'" in output
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/notes.txt").write_text("mine")
    status, output = init("--example", "shop", "lists")
    assert status != 0
    assert "is not empty: name a new folder" in output
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["notes.txt"]
