"""The house keeps its shape: nothing is loose at the root of the package."""

from __future__ import annotations

from batchrec_dagster_tests.guard.builders import REPOSITORY

PACKAGE = REPOSITORY / "batchrec_dagster"
AT_THE_ROOT = {"__init__.py", "definitions.py", "testing.py", "py.typed"}


def test_nothing_is_loose_at_the_root() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= AT_THE_ROOT
