"""The files that `batchrec new` and `dg scaffold defs` write: a defs.yaml and a .gitignore.

People read and change the defs.yaml, so it has comments, and only settings that are not defaults.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.config.templates import escape_template

# Editors complete and check a declaration with this file. `batchrec init` writes a copy of it.
SCHEMA_FILE = Path(__file__).parent / "defs.schema.json"

_DECLARATION = """\
{notes}# Settings that are left out have their defaults.
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


def format_declaration(
    folder: Path,
    name: str,
    ratings: Sequence[str],
    notes: Sequence[str] = (),
    more: str = "",
) -> str:
    """Return the text of a defs.yaml in this folder.

    ratings: the indented lines of the block `ratings`.
    notes: lines for a comment at the top.
    more: the text of further blocks.
    """
    comments = [*_find_schema(folder), *notes]
    return _DECLARATION.format(
        notes="".join(f"# {line}\n" for line in comments),
        type=COMPONENT_TYPE,
        name=format_scalar(name),
        ratings="\n".join(ratings),
        more=f"{more}\n",
    )


def _find_schema(folder: Path) -> Iterator[str]:
    """Yield the comment by which editors find the schema, if the schema is in the project.

    There is no comment for a schema in an installed package, because its path differs between
    machines.
    """
    for parent in folder.resolve().parents:
        for file in (parent / SCHEMA_FILE.name, SCHEMA_FILE):
            is_in_project = file.is_relative_to(parent) and "site-packages" not in file.parts
            if is_in_project and file.exists():
                path = Path(os.path.relpath(file, folder.resolve())).as_posix()
                yield f"yaml-language-server: $schema={path}"
                return
        if (parent / "pyproject.toml").exists():
            return


def format_block(settings: Mapping[str, object], indent: str = "    ") -> Iterator[str]:
    """Yield the settings as lines of YAML.

    Values that look like templates are escaped.
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield f"{indent}{format_scalar(key)}:"
            yield from format_block(value, f"{indent}  ")
        elif isinstance(value, list):
            items = ", ".join(map(format_escaped, value))
            yield f"{indent}{format_scalar(key)}: [{items}]"
        else:
            yield f"{indent}{format_scalar(key)}: {format_escaped(value)}"


def format_escaped(value: object) -> str:
    """Return the value as YAML. A text that looks like a template is escaped."""
    return format_scalar(escape_template(value) if isinstance(value, str) else value)


def format_scalar(value: object) -> str:
    """Return the value as YAML. Text is quoted unless it is a plain word or path."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if re.fullmatch(r"[A-Za-z_./][\w./:-]*", text) and yaml.safe_load(text) == text:
        return text
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)).strip()


def ignore_home_in_git(root: Path) -> None:
    """Add `.batchrec/` to the .gitignore of a project, unless the file already has it.

    A missing .gitignore is created only if the project is in a Git repository.

    root: the project's folder.
    """
    file = root / ".gitignore"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    patterns = {line.strip().strip("/") for line in text.splitlines()}
    if ".batchrec" in patterns:
        return
    if file.is_file() or any((folder / ".git").exists() for folder in (root, *root.parents)):
        separator = "\n" if text and not text.endswith("\n") else ""
        file.write_text(f"{text}{separator}.batchrec/\n", encoding="utf-8")
