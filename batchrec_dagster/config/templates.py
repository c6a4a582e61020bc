"""Templates in a declaration: `{{ env.NAME }}` is the value of an environment variable, as text.

`{{ "text" }}` is a text with `{{` in it. There are no other templates, such as expressions to
evaluate, because a text such as the name of a column may come from a stranger's file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from batchrec_dagster.config.problems import Keys, raise_problems

_START = "{{"
_TEMPLATE = re.compile(
    r"""\{\{ \s* (?: env\.(?P<variable>[A-Za-z_]\w*) | (?P<text>"(?:[^"\\]|\\.)*") ) \s* \}\}""",
    re.VERBOSE,
)


def fill_templates(settings: Any, environment: Mapping[str, str]) -> Any:
    """Return the settings with their templates filled in.

    Raises ValidationError, with the keys of all settings that cannot be filled in.
    """
    problems: dict[Keys, str] = {}

    def fill(text: str, keys: Keys) -> str:
        try:
            return fill_in(text, environment)
        except ValueError as error:
            problems[keys] = str(error)
            return text

    filled = _map_texts(settings, fill)
    raise_problems(problems.items())
    return filled


def escape_templates(settings: Any) -> Any:
    """Return the settings escaped, so that `fill_templates` gives the original settings back."""
    return _map_texts(settings, lambda text, _: escape_template(text))


def fill_in(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with its templates filled in. Raises ValueError if that is not possible."""
    if _START not in text:
        return text
    if _START in _TEMPLATE.sub(" ", text):
        raise ValueError(
            f"cannot fill in {text!r}: here a template is a variable of the environment, such as"
            " {{ env.RATINGS }}. Dagster's own templates work under post_processing. If this is"
            f" not a template, write it as {escape_template(text)}"
        )

    def replace(template: re.Match[str]) -> str:
        if template["text"] is not None:
            return str(json.loads(template["text"]))
        name = template["variable"]
        if name not in environment:
            raise ValueError(f"cannot fill in {text!r}: the environment variable {name} is not set")
        return environment[name]

    return _TEMPLATE.sub(replace, text)


def escape_template(text: str) -> str:
    """Return the text escaped for a declaration, so that `fill_in` gives the text back."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if _START in text else text


def _map_texts(value: Any, change: Callable[[str, Keys], str], keys: Keys = ()) -> Any:
    """Return the value with all texts in it changed.

    keys: the keys that lead to the value.
    """
    if isinstance(value, str):
        return change(value, keys)
    if isinstance(value, Mapping):
        return {name: _map_texts(item, change, (*keys, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_map_texts(item, change, (*keys, index)) for index, item in enumerate(value)]
    return value
