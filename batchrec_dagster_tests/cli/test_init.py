"""Tests of the files that `batchrec init` writes, and of the files that it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from batchrec_dagster.cli import main


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def list_names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_the_example_has_files_that_one_can_edit_and_that_new_recognises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, output = run("init", "garden", "--example")
    assert status == 0
    assert output.splitlines()[0] == "Made garden. Next:"
    assert output.rstrip().endswith("run shop")
    names = ["blocked.csv", "customers.csv", "orders_and_clicks.csv", "products.csv"]
    assert list_names("garden/data") == names
    declaration = Path("garden/garden/defs/shop/defs.yaml")
    schema = declaration.read_text().splitlines()[0].partition("$schema=")[2]
    assert (declaration.parent / schema).resolve() == Path("garden/defs.schema.json").resolve()
    monkeypatch.chdir("garden")
    files = ["--ratings", "data/orders_and_clicks.csv", "--items", "data/products.csv"]
    status, output = run("new", "orders", *files)
    assert (status, "Warning" in output) == (0, False), output
    assert Path("garden/defs/orders/defs.yaml").exists()


def test_a_folder_with_files_is_left_alone() -> None:
    Path("lists").mkdir()
    Path("lists/notes.txt").write_text("mine")
    status, output = run("init", "lists", "--example")
    assert status != 0
    assert "is not empty: name a new folder" in output
    assert list_names("lists") == ["notes.txt"]


def test_an_untouched_project_is_healthy_and_says_what_to_do_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, output = run("init", "lists")
    assert (status, output.rstrip().endswith("new shop --ratings FILE")) == (0, True)
    assert list_names("lists/lists/defs") == ["__init__.py"]
    monkeypatch.chdir("lists")
    status, output = run("check")
    assert status == 0, output
    assert " passed: settings, pipelines, " in output
    assert "unknown " not in output
    # Git keeps no empty folder.
    Path("lists/defs/__init__.py").unlink()
    for command in ("list", "run", "open", "show", "forget 7"):
        assert "Declare one: `batchrec new NAME --ratings FILE`" in run(*command.split())[1]


COUNTED = """\
import os
from pathlib import Path

import dagster as dg


@dg.op
def idle() -> None: ...


@dg.job
def idle_job():
    idle()


@dg.definitions
def defs():
    with Path("loads").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return dg.Definitions(jobs=[idle_job], executor=dg.in_process_executor)
"""


@pytest.mark.slow
def test_each_process_of_a_job_loads_the_project_once() -> None:
    run("init", "bakery")
    project = Path("bakery")
    (project / "bakery/defs/counted.py").write_text(COUNTED)
    dagster = Path(sys.executable).with_name("dagster")
    subprocess.run(
        [dagster, "job", "execute", "-m", "bakery.definitions", "-j", "idle_job"],
        cwd=project,
        env={**os.environ, "BATCHREC_HOME": str(Path("home").absolute())},
        check=True,
        capture_output=True,
    )
    loads = (project / "loads").read_text().split()
    assert loads
    assert sorted(loads) == sorted(set(loads))


def test_the_project_can_be_installed_and_names_what_it_needs() -> None:
    run("init", "garden", "--example")
    project = tomllib.loads(Path("garden/pyproject.toml").read_text())["project"]
    (needed,) = map(Requirement, project["dependencies"])
    assert (needed.name, needed.extras) == ("batchrec-dagster", {"local", "serve"})
    assert version("batchrec-dagster") in needed.specifier
    assert "batchrec_dagster" not in project["name"]
