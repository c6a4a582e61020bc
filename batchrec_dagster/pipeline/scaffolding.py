"""Writes a defs.yaml for people to read and change, for `batchrec new` and `dg scaffold defs`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import yaml
from pydantic import BaseModel, Field

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.config.templates import escape_template

# Editors complete and check a declaration with it; see `schema`.
SCHEMA_FILE = Path(__file__).parents[1] / "config" / "defs.schema.json"

_DECLARATION = """\
{notes}# `batchrec schema` describes every setting; omitted settings have their defaults.
type: {type}

attributes:
  name: {name}

  ratings:
{ratings}
{more}  recommendations:
    num_results: 25
    exclude_seen: true          # leave out items that the user already had

  schedule:
    cron: "0 3 * * *"
    timezone: UTC
    enabled: false
"""


def declaration(
    folder: Path, name: str, ratings: Sequence[str], notes: Sequence[str] = (), more: str = ""
) -> str:
    """The text of a defs.yaml in this folder.

    ratings: lines of its block, indented; notes: comment lines for the top; more: further blocks.
    """
    return _DECLARATION.format(
        notes="".join(f"# {line}\n" for line in [*_schema(folder), *notes]),
        type=COMPONENT_TYPE,
        name=scalar(name),
        ratings="\n".join(ratings),
        more=f"{more}\n",
    )


def _schema(folder: Path) -> Iterator[str]:
    """The line by which editors find the schema, if it lies in the project: a path to where this
    package is installed would hold on this machine alone."""
    for parent in folder.resolve().parents:
        for file in (parent / SCHEMA_FILE.name, SCHEMA_FILE):
            inside = file.is_relative_to(parent) and "site-packages" not in file.parts
            if inside and file.exists():
                path = Path(os.path.relpath(file, folder.resolve())).as_posix()
                yield f"yaml-language-server: $schema={path}"
                return
        if (parent / "pyproject.toml").exists():
            return


def block(settings: Mapping[str, object], indent: str = "    ") -> Iterator[str]:
    """The settings as lines of YAML, with text from files as literals."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield f"{indent}{scalar(key)}:"
            yield from block(value, f"{indent}  ")
        elif isinstance(value, list):
            yield f"{indent}{scalar(key)}: [{', '.join(scalar(_literal(one)) for one in value)}]"
        else:
            yield f"{indent}{scalar(key)}: {scalar(_literal(value))}"


def _literal(value: object) -> object:
    return escape_template(value) if isinstance(value, str) else value


def scalar(value: object) -> str:
    """The value as YAML, quoted unless it is plainly a word or a path."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if re.fullmatch(r"[A-Za-z_./][\w./:-]*", text) and yaml.safe_load(text) == text:
        return text
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)).strip()


class ScaffoldParams(BaseModel):
    """The parameters of `dg scaffold defs`."""

    ratings: str = Field(
        default="sample://hetrec", description="The ratings: any value of ratings.source."
    )


class PipelineScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes defs.yaml, or component.py when Python is requested."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        if request.scaffold_format != "yaml":
            dg.scaffold_component(request)
            return
        folder = request.target_path
        source = (
            "    # The sample, or your own data: a path, a folder, s3://bucket/key or https://…"
        )
        ratings = [source, f"    source: {scalar(request.params.ratings)}"]
        text = declaration(folder, _pipeline_name(folder.name), ratings)
        file = folder / "defs.yaml"
        if request.append:
            text = f"{file.read_text(encoding='utf-8')}---\n{text}"
        file.write_text(text, encoding="utf-8")


def _pipeline_name(folder: str) -> str:
    name = re.sub(r"\W", "_", folder, flags=re.ASCII)[:32]
    return name if name[:1].isalpha() else f"p{name}"[:32]
