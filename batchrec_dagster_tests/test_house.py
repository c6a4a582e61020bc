"""The house keeps its shape: short functions, thin assets, nothing loose at the root."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from batchrec_dagster_tests.support import REPOSITORY

PACKAGE = REPOSITORY / "batchrec_dagster"
MAX_FUNCTION_LINES = 60
MAX_ASSET_LINES = 45
AT_THE_ROOT = {"__init__.py", "definitions.py", "testing.py", "py.typed"}
ASSET_DECORATORS = {"asset", "multi_asset"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(PACKAGE.rglob("*.py")))


@cache
def functions() -> tuple[tuple[str, Function], ...]:
    """Each function of the package with "file:line name"."""
    return tuple(
        (f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}", node)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function)
    )


def lines(function: Function) -> int:
    """The lines from `def` to the end, without decorators."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def body_lines(function: Function) -> int:
    """The lines of the body, without signature, docstring and decorators."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def is_asset(function: Function) -> bool:
    """Whether it is decorated by `@dg.asset` or `@multi_asset`, called or not."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
        if name in ASSET_DECORATORS:
            return True
    return False


def test_no_function_is_long() -> None:
    long = [f"{n} lines: {name}" for name, f in functions() if (n := lines(f)) > MAX_FUNCTION_LINES]
    assert not long, "\n".join(long)


def test_assets_are_thin() -> None:
    bodies = [(name, body_lines(function)) for name, function in functions() if is_asset(function)]
    assert len(bodies) >= 5, "found too few assets: has their decorator changed?"
    fat = [f"{n} lines: {name}" for name, n in bodies if n > MAX_ASSET_LINES]
    assert not fat, "\n".join(fat)


def test_nothing_is_loose_at_the_root() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= AT_THE_ROOT
