"""Tests that the repository's files for contributors agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrec_dagster.config.environment import VARIABLES
from batchrec_dagster.config.json_schema import render_declaration_schema
from batchrec_dagster.config.new_declaration import SCHEMA_FILE
from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.repository.typed_pages import read_code_blocks

GITHUB = REPOSITORY / ".github"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text()
HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d|Unreleased))?$", re.MULTILINE)


def parse_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_ci_runs_the_script_of_the_repository_with_read_access_only() -> None:
    workflow = parse_yaml(GITHUB / "workflows" / "ci.yml")
    # YAML 1.1 reads the key `on` as true.
    assert {"push", "pull_request", "schedule"} == workflow[True].keys()
    assert workflow["permissions"] == {"contents": "read"}
    for name, script in {"check": ".ci/run", "long": ".ci/run", "versions": ".ci/versions"}.items():
        steps = workflow["jobs"][name]["steps"]
        assert [step["run"] for step in steps if "run" in step][-1].split()[0] == script
        for step in steps:
            assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_ci_runs_the_oldest_and_the_newest_python_that_is_supported() -> None:
    job = parse_yaml(GITHUB / "workflows" / "ci.yml")["jobs"]["check"]
    versions_tested = [
        tuple(map(int, version.split("."))) for version in job["strategy"]["matrix"]["python"]
    ]
    oldest, after = re.findall(r"(\d+)\.(\d+)", PYPROJECT["project"]["requires-python"])
    assert min(versions_tested) == tuple(map(int, oldest))
    assert max(versions_tested) == (int(after[0]), int(after[1]) - 1)


@pytest.mark.parametrize("name", ["run", "versions"])
def test_a_ci_script_is_executable(name: str) -> None:
    assert (REPOSITORY / ".ci" / name).stat().st_mode & 0o111


def test_pre_commit_uses_the_locked_tools() -> None:
    config = parse_yaml(REPOSITORY / ".pre-commit-config.yaml")
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {".venv/bin/ruff", ".venv/bin/mypy"}
    assert {hook["language"] for hook in hooks} == {"system"}


def test_the_newest_version_of_the_changelog_is_that_of_the_package() -> None:
    newest = HEADING.findall(CHANGELOG)[0][0]
    assert newest in {"Unreleased", PYPROJECT["project"]["version"]}


def test_each_heading_of_the_changelog_is_a_version() -> None:
    headings = re.findall(r"^## .*$", CHANGELOG, re.MULTILINE)
    versions = [version for version, _ in HEADING.findall(CHANGELOG) if version != "Unreleased"]
    assert len(HEADING.findall(CHANGELOG)) == len(headings)
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert numbers == sorted(set(numbers), reverse=True)


def test_no_module_repeats_the_version() -> None:
    modules = (REPOSITORY / "batchrec_dagster").rglob("*.py")
    assert [path for path in modules if re.search(r"(?m)^__version__ *=", path.read_text())] == []


def test_the_pages_install_the_wheel_of_this_version_and_nothing_of_a_registry() -> None:
    pages = [
        REPOSITORY / "README.md",
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("examples/**/*.md"),
    ]
    lines = [
        line
        for page in pages
        for block in read_code_blocks(str(page.relative_to(REPOSITORY)))
        if block.language in {"sh", "bash"}
        for line in block.text.splitlines()
        if "pip install" in line
    ]
    assert lines
    wheel = f"batchrec_dagster-{PYPROJECT['project']['version']}-py3-none-any.whl"
    for line in lines:
        assert "batchrec-dagster" not in line
        assert re.findall(r"batchrec_dagster-[^\[']+", line) in ([], [wheel])


def test_the_wheel_has_each_file_of_the_package_that_is_no_module() -> None:
    package = REPOSITORY / "batchrec_dagster"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["batchrec_dagster"]
    in_wheel = {path for pattern in patterns for path in package.glob(pattern)}
    files = [path for path in package.rglob("*") if path.is_file()]
    data = [path for path in files if path.suffix not in (".py", ".pyc")]
    assert len(data) > 10
    assert [path for path in data if path not in in_wheel] == []


def test_the_file_that_editors_read_is_the_models() -> None:
    assert SCHEMA_FILE.read_text() == render_declaration_schema(), "`make schema` writes it"


def test_no_code_reads_a_variable_that_is_not_described() -> None:
    """The variables of the local Personalize's server are excepted: its --help describes them."""
    read = {
        name
        for path in (REPOSITORY / "batchrec_dagster").rglob("*.py")
        for name in re.findall(r"\b(BATCHREC_[A-Z_]+[A-Z])\b", path.read_text())
        if not name.startswith("BATCHREC_LOCAL_PERSONALIZE_")
    }
    assert read <= {variable.name for variable in VARIABLES}
