"""Tests of the modules allowed at the package's root, and of the guard's imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from batchrec_dagster_tests.guard.builders import REPOSITORY

PACKAGE = REPOSITORY / "batchrec_dagster"
AT_THE_ROOT = {"__init__.py", "definitions.py", "errors.py", "testing.py", "py.typed"}
GUARD = REPOSITORY / "batchrec_dagster_tests" / "guard"
# These modules separate the guard's tests from the current code.
BESIDE_THE_CODE = (
    *("seams/", "builders.py", "example_shop.py", "first_run.py", "servers/", "faults/"),
    *("oracles/recorded_requests.py", "oracles/rules.py"),
)
# The documented names of the package. All other files of the guard may import or patch only these.
SHOWN = re.compile(
    r"batchrec_dagster(\.(BatchRecommendations|published|resources|cli(\.main)?|definitions(\.\w+)?|testing(\.\w+)?))?"
)
TESTS = re.compile(r"batchrec_dagster_tests(\.(guard|texts)(\.\w+)*)?")
PATH = re.compile(r"batchrec_dagster(_tests)?(\.\w+)*")


def test_nothing_is_loose_at_the_root() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= AT_THE_ROOT


def list_names(code: str) -> Iterator[str]:
    """Yield the names that the code imports, and modules named in strings, for example to patch."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # A test may give a string of code to another process.
            yield from (match.group() for match in PATH.finditer(node.value))


def find_inner_names(code: str) -> set[str]:
    """Return the names of batchrec's inner modules, and of tests outside the guard, in the code."""
    names = {name for name in list_names(code) if PATH.fullmatch(name)}
    return {name for name in names if not SHOWN.fullmatch(name) and not TESTS.fullmatch(name)}


@pytest.mark.parametrize(
    "file",
    [
        path.relative_to(GUARD).as_posix()
        for path in sorted(GUARD.rglob("*.py"))
        if not path.relative_to(GUARD).as_posix().startswith(BESIDE_THE_CODE)
    ],
)
def test_the_guard_knows_of_batchrec_what_the_docs_show(file: str) -> None:
    """The guard stays unchanged while rooms are rewritten: only seams/ changes."""
    assert find_inner_names((GUARD / file).read_text()) == set()


@pytest.mark.parametrize(
    ("code", "inner_names"),
    [
        ("from batchrec_dagster import BatchRecommendations", set()),
        ("from batchrec_dagster.cli import main", set()),
        ("from batchrec_dagster.testing import run_pipeline", set()),
        ("from batchrec_dagster_tests.guard.builders import Project", set()),
        ("from batchrec_dagster.steps.lists import rules", {"batchrec_dagster.steps.lists.rules"}),
        ("import batchrec_dagster.steps", {"batchrec_dagster.steps"}),
        ("from batchrec_dagster import steps", {"batchrec_dagster.steps"}),
        ("patch('batchrec_dagster.web.guard.Guard')", {"batchrec_dagster.web.guard.Guard"}),
        ("run('python -m batchrec_dagster.web')", {"batchrec_dagster.web"}),
        ("from batchrec_dagster_tests.web import x", {"batchrec_dagster_tests.web.x"}),
    ],
)
def test_an_import_of_an_inner_module_is_noticed(code: str, inner_names: set[str]) -> None:
    assert find_inner_names(code) == inner_names


# A test file, or a test or class in it, as the table of guarantees names it.
NAMED_TEST = re.compile(r"`((?:\.\./)?(?:[\w.-]+/)+[\w-]+\.py)?(?:::(\w+))?(?:::(\w+))?`")


def list_named_tests() -> Iterator[tuple[str, list[str]]]:
    """Yield each test file that the guard's README names, with the tests that it names there."""
    file = ""
    for line in (GUARD / "README.md").read_text().splitlines():
        if not line.startswith("|"):
            continue
        # The README names a second test of the same file without the file.
        for match in NAMED_TEST.finditer(line.rpartition(" | ")[2]):
            file = match[1] or file
            yield file, [name for name in (match[2], match[3]) if name]


def test_the_table_of_guarantees_names_tests_that_are_there() -> None:
    named_tests = [*list_named_tests()]
    assert len(named_tests) > 100
    for file, names in named_tests:
        code = (GUARD / file).read_text()
        missing = [name for name in names if not re.search(rf"\b(def|class) {name}\b", code)]
        assert not missing, f"{file} has no {missing}"


def test_the_table_of_guarantees_names_each_file_of_the_guard() -> None:
    named_files = {file for file, _ in list_named_tests()}
    files = {path.relative_to(GUARD).as_posix() for path in GUARD.rglob("test_*.py")}
    assert files - named_files == set()
