"""Templates in a declaration, such as `{{ env.RATINGS }}`: a sandbox that knows `env` alone.

Dagster's own templates reach Python itself, and a string such as a column's name may come from a
file that a stranger wrote.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
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
                return fill_in(val, EnvironmentVariables(os.environ))
            except ValueError as error:
                # Names the file, the line and the setting.
                raise self.build_resolve_fn_exc([str(error)], val, dg.Model()) from None
        return super().resolve_value(val, as_type)


class Sandboxed(dg.Resolvable):
    """A component whose templates know the environment alone."""

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


def fill_in(text: str, env: object) -> object:
    """The text with its templates filled in, and a text without templates as it is.

    As in Dagster, what is read from the environment may be a number or a list.

    env: what `env` in a template is.
    Raises ValueError.
    """
    if not _MARKS.search(text):
        return text
    try:
        parsed = _SANDBOX.parse(text)
        parts = [part for output in parsed.find_all(nodes.Output) for part in output.nodes]
        sandbox = _SANDBOX if len(parts) == 1 else _WITHIN_TEXT
        filled = sandbox.from_string(parsed).render(env=env)
    except (TemplateError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"cannot fill in {text!r}: {error}. Templates know the environment alone, such as"
            " {{ env.RATINGS }}. If this is not a template, write it as"
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
