"""Makes the page reference.md when the documentation is built, from the code that it is about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from batchrec_dagster.cli import main
from batchrec_dagster.config.json_schema import build_declaration_schema
from batchrec_dagster.deployment import SETTINGS
from batchrec_dagster.personalize.recipes import HYPERPARAMETERS

INTRODUCTION = """# Reference

This page lists every setting; it is generated from the code. For how to use them, see the
[tutorial](tutorial.md) and [your own data](own-data.md).

## A pipeline's YAML

`batchrec schema` prints the same as a JSON schema, by which editors complete and check it.
Values may be templates, in a sandbox. They know the environment, `"{{ env.RATINGS }}"` or
`"{{ env('RATINGS', 'ratings.csv') }}"` with a default; the folder `"{{ project_root }}"`; and what
the functions of `template_vars_module` return, if that is text, a number, or a list or mapping of
such. Text that contains `{{` is written as a string in a template: `"{{ 'a{{b' }}"`.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs's hook: adds the page."""
    files.append(File.generated(config, "reference.md", content=page()))
    return files


def page() -> str:
    """The page as Markdown."""
    schema = build_declaration_schema()
    attributes = schema["properties"]["attributes"]
    parts = [INTRODUCTION, *_part("", attributes, schema["$defs"])]
    parts += ["## The deployment\n", "Variables of the environment.\n"]
    parts.append(
        _table(
            ("variable", "default", "what it is"),
            [(f"`{s.name}`", _code(s.default), s.meaning) for s in SETTINGS],
        )
    )
    parts.append("## Hyperparameters\n")
    parts.append(
        _table(
            ("recipe", "hyperparameter", "what it may be"),
            [
                (recipe, f"`{name}`", str(value))
                for recipe, values in HYPERPARAMETERS.items()
                for name, value in values.items()
            ],
        )
    )
    parts += ["## The commands\n", *_commands(main, "batchrec")]
    return "\n".join(parts)


def _part(path: str, part: dict[str, Any], defs: dict[str, Any]) -> Iterator[str]:
    """A table of a part's settings, then the same for each part of it."""
    within: list[tuple[str, dict[str, Any]]] = []
    rows = []
    for name, setting in part["properties"].items():
        if setting.get("deprecated"):
            continue
        refs = [*_refs(setting)]
        within += [(f"{path}{name}", defs[ref]) for ref in refs]
        type_ = f"[{name}](#{_anchor(path + name)})" if refs else _type(setting)
        if _is_list(setting) and refs:
            type_ = f"list of {type_}"
        default = "**needed**" if name in part.get("required", []) else _default(setting)
        rows.append((f"`{name}`", type_, default, _text(setting)))
    yield _table(("setting", "type", "default", "what it is"), rows)
    for name, inner in within:
        if "properties" in inner:
            yield f"### {name}\n"
            yield from _part(f"{name}.", inner, defs)


def _refs(schema: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for word in ("anyOf", "allOf"):
        for one in schema.get(word, []):
            yield from _refs(one)
    if isinstance(schema.get("items"), dict):
        yield from _refs(schema["items"])


def _is_list(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "array" or any(map(_is_list, schema.get("anyOf", [])))


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [_type(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        return "mapping"
    return str(schema.get("type", schema.get("const", "any")))


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "" if default in (None, [], {}) else f"`{json.dumps(default)}`"


def _text(schema: dict[str, Any]) -> str:
    text = str(schema.get("description", ""))
    examples = ", ".join(f"`{_plain(example)}`" for example in schema.get("examples", []))
    return f"{text} For example {examples}." if examples else text


def _plain(example: object) -> str:
    return example if isinstance(example, str) else json.dumps(example)


def _code(text: str) -> str:
    return f"`{text}`" if text and " " not in text else text


def _anchor(name: str) -> str:
    return name.replace(".", "").lower()


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = [[cell.replace("|", "\\|").replace("\t", "TAB") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)


def _commands(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"### {name}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None:
                yield from _commands(found, f"{name} {inner}")
