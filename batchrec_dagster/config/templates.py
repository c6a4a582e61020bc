"""Templates in a declaration, such as `{{ env.RATINGS }}`: a sandbox of plain values.

It knows the environment, the project's folder, and what the project's template variables are, as
far as that is text, a number, or a list or mapping of such. Dagster's own templates reach Python
itself, and a string such as a column's name may come from a file that a stranger wrote.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel

_SANDBOX = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_SANDBOX.globals.clear()


def _require_set(value: object) -> object:
    if value is None:
        raise TypeError("an environment variable in it is not set")
    return value


# None is a whole setting that is left out; within a text it would be the word None.
_WITHIN_TEXT = _SANDBOX.overlay(finalize=_require_set)
_MARKS = re.compile(r"\{[{%#]")


class EnvironmentVariables:
    """What `env` is in a template: `env.NAME`, or `env('NAME', 'default')`, as in Dagster's."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def __call__(self, name: str, default: object = ...) -> object:
        value = self._variables.get(name, default)
        if value is ...:
            raise TypeError(
                f"Environment variable {name} is not set and no default value was provided."
                f" To provide a default value, use e.g. `env('{name}', 'default_value')`."
            )
        return value

    def __getattr__(self, name: str) -> str | None:
        if name.startswith("jinja"):  # Jinja looks for marks of its own on what it calls.
            raise AttributeError(name)
        return self._variables.get(name)


class TemplateContext(dg.ResolutionContext):
    """Dagster's context of a component's YAML, with templates resolved by `fill_in`."""

    def resolve_value(self, val: Any, as_type: Any = None) -> Any:
        if isinstance(val, str):
            try:
                return fill_in(val, make_variables(os.environ, self.scope))
            except ValueError as error:
                # Names the file, the line and the setting.
                raise self.build_resolve_fn_exc([str(error)], val, dg.Model()) from None
        return super().resolve_value(val, as_type)


class Sandboxed(dg.Resolvable):
    """A component whose templates know plain values alone."""

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """As Dagster does, with the sandbox."""
        sandbox = TemplateContext(
            scope=context.scope,
            path=context.path,
            source_position_tree=context.source_position_tree,
            stash=context.stash,
        )
        resolved: Self = super().resolve_from_model(sandbox, model)
        return resolved


# What Dagster's own templates know besides the project's variables.
_OF_DAGSTER = frozenset({"automation_condition", "context", "datetime", "dg", "env"})


def make_variables(environment: Mapping[str, str], scope: Mapping[str, Any]) -> dict[str, object]:
    """What templates know, by name.

    scope: the project's variables, and what Dagster adds to them.
    """
    variables = {
        name: plain_value
        for name, value in scope.items()
        if name not in _OF_DAGSTER and (plain_value := _make_plain(value)) is not _NOT_PLAIN
    }
    root = getattr(scope.get("context"), "project_root", None)
    if root is not None:
        # Dagster's own templates say context.project_root.
        variables = {
            "project_root": str(root),
            "context": {"project_root": str(root)},
            **variables,
        }
    return {**variables, "env": EnvironmentVariables(environment)}


_NOT_PLAIN = object()


def _make_plain(value: object) -> object:
    """The value, if it is text, a number or a list or mapping of such, else _NOT_PLAIN.

    A path becomes text. Nothing else gets into the sandbox, as it might have methods that do harm.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Path):
        return str(value)
    # Not what derives from them: many objects of Dagster are tuples that refuse iteration.
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [_make_plain(item) for item in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    if isinstance(value, dict):
        mapping = {key: _make_plain(item) for key, item in value.items()}
        has_plain_keys = all(type(key) in (str, int) for key in mapping)
        return mapping if has_plain_keys and _NOT_PLAIN not in mapping.values() else _NOT_PLAIN
    return _NOT_PLAIN


def fill_in(text: str, variables: Mapping[str, object]) -> object:
    """The text with its templates filled in, and a text without templates as it is.

    As in Dagster, what is read from the environment may be a number or a list.

    variables: what templates know, as `make_variables` makes it.
    Raises ValueError.
    """
    if not _MARKS.search(text):
        return text
    try:
        parsed = _SANDBOX.parse(text)
        parts = [part for output in parsed.find_all(nodes.Output) for part in output.nodes]
        sandbox = _SANDBOX if len(parts) == 1 else _WITHIN_TEXT
        filled = sandbox.from_string(parsed).render(**variables)
    except (TemplateError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"cannot fill in {text!r}: {error}. Templates know the environment, such as"
            " {{ env.RATINGS }}, project_root, and what functions of template_vars_module return,"
            " if it is text, a number or a list. If this is not a template, write it as"
            f" {escape_template(text)}"
        ) from None
    if next(parsed.find_all(nodes.Name), None) is None:
        return filled
    try:
        return ast.literal_eval(filled)
    except (ValueError, SyntaxError):
        return filled


def escape_template(text: str) -> str:
    """What to write into a declaration so that `fill_in` gives this text."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if _MARKS.search(text) else text
