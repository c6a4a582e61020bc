"""Tests that private names of Dagster are used in named modules only, and still exist."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "batchrec_dagster"
# The reason why no public name will do stands beside each import.
MODULES = {
    "batchrec_dagster/cli/dagster_web_server.py",
    "batchrec_dagster/pipeline/expected_failure.py",
    "batchrec_dagster/pipeline/spark_jobs.py",
}
PRIVATE = re.compile(r"(dagster(_\w+)?(\.\w+)*\._.*|dagster\.components\..*|dagster_webserver\b.*)")


@cache
def private_imports() -> tuple[tuple[str, str, str], ...]:
    """Return the file, module and name of each import from a private module of Dagster."""
    imports: list[tuple[str, str, str]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if not PRIVATE.search(text):
            continue
        file = str(path.relative_to(REPOSITORY))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and PRIVATE.fullmatch(node.module or ""):
                imports += ((file, str(node.module), name.name) for name in node.names)
            elif isinstance(node, ast.Import):
                imports += (
                    (file, name.name, "") for name in node.names if PRIVATE.fullmatch(name.name)
                )
    return tuple(imports)


PRIVATE_NAMES = sorted({(module, name) for _, module, name in private_imports()})


def test_private_parts_of_dagster_are_imported_in_named_modules() -> None:
    assert {file for file, _, _ in private_imports()} == MODULES


@pytest.mark.slow  # imports the web server, which takes as long as the rest of Dagster
@pytest.mark.parametrize(
    ("module", "name"), [pytest.param(*name, id=name[1]) for name in PRIVATE_NAMES]
)
def test_dagster_still_has_it(module: str, name: str) -> None:
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pytest.fail(
            f"Dagster {version('dagster')} has no {module}.{name}: find what replaces it, and"
            f" change {' or '.join(sorted(MODULES))}"
        )
