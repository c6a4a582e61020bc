"""A defs.yaml for people to read and change: written, tried, and only then put in its place."""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import yaml

from batchrec_dagster.cli.items_found import FoundItems
from batchrec_dagster.cli.project import Project
from batchrec_dagster.cli.ratings_found import Found
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.personalize.datasets import VALUE_SEPARATOR
from batchrec_dagster.pipeline import COMPONENT_TYPE
from batchrec_dagster.pipeline.loading import DeclarationError, load_pipelines
from batchrec_dagster.pipeline.scaffolding import SCHEMA_FILE
from batchrec_dagster.reporting.terminal import plain


class AlreadyThereError(Exception):
    """There is a pipeline of that name, or a folder in its place."""


def declaration(
    name: str, source: str, found: Found, items: tuple[str, FoundItems] | None, folder: Path
) -> str:
    """The YAML, with what was found in its comments; `folder` is where it will lie."""
    return "\n".join(_lines(name, source, found, items, folder)) + "\n"


def _lines(
    name: str, source: str, found: Found, items: tuple[str, FoundItems] | None, folder: Path
) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={Path(os.path.relpath(SCHEMA_FILE, folder)).as_posix()}"
    yield f"# Made by batchrec new, from {plain(found.name)}: {found.rows:,} rows, of which"
    of_whom = f"{found.users:,} users and {len(found.items):,} items"
    yield f"# {found.kept:,} count, of {of_whom}, {_span(found)}."
    yield "# The README explains every setting; what is left out has its default."
    yield f"type: {COMPONENT_TYPE}"
    yield ""
    yield "attributes:"
    yield f"  name: {name}"
    yield ""
    yield "  ratings:"
    yield f"    source: {scalar(source)}"
    if found.columns:
        yield f"    format: {found.format}"
        if found.delimiter not in (None, ","):
            yield f"    delimiter: {scalar(found.delimiter)}"
        if found.decimal != ".":
            yield f"    decimal: {scalar(found.decimal)}"
        yield "    columns:"
        for role in ("user", "item", "rating", "timestamp", "event_type", "event_value"):
            if role in found.columns:
                yield f"      {role}: {scalar(found.columns[role])}"
    if found.timestamp_format:
        yield f"    timestamp_format: {scalar(found.timestamp_format)}"
    yield "    on_bad_rows: fail           # or skip: rows that cannot be read are counted"
    yield ""
    yield "  interactions:                 # which rows count"
    yield from _interactions(found)
    yield "    duplicates: keep            # or drop"
    yield "    # window: {days: 365}       # only these days before the newest"
    if items is not None:
        yield ""
        yield from _items(*items)
    yield ""
    yield "  recommendations:"
    yield "    num_results: 25"
    yield "    exclude_seen: true          # leave out what the user already had"
    yield ""
    yield "  schedule:"
    yield '    cron: "0 3 * * *"'
    yield "    timezone: UTC"
    yield "    enabled: false"


def _interactions(found: Found) -> Iterator[str]:
    if found.min_rating is not None:
        if found.scale is not None:
            low, high = found.scale
            yield f"    # Ratings go from {low:g} to {high:g}."
        yield f"    # {found.kept:,} of {found.rows:,} rows are {found.min_rating:g} or more."
        yield f"    min_rating: {found.min_rating:g}"
    elif found.scale is not None:
        yield "    # All ratings count, whatever they are; to leave low ones out, say which column"
        yield "    # has them (ratings.columns.rating), and:"
        yield f"    # min_rating: {found.scale[1]:g}"
    if found.kinds:
        yield "    # Events: " + ", ".join(
            f"{plain(kind)} ({count:,})" for kind, count in found.kinds.items()
        )
        column = str(found.columns["event_type"])
        if column.isidentifier() and "'" not in (first := next(iter(found.kinds))):
            yield plain(f"    # filter: {column} <> '{first}'")


def _items(source: str, found: FoundItems) -> Iterator[str]:
    yield "  items:                        # titles for people, metadata for Personalize"
    yield f"    source: {scalar(source)}"
    if found.item is None:
        return
    if found.delimiter not in (None, ","):
        yield f"    delimiter: {scalar(found.delimiter)}"
    if found.decimal != ".":
        yield f"    decimal: {scalar(found.decimal)}"
    yield "    columns:"
    for role, column in (("item", found.item), ("title", found.title), ("created", found.created)):
        if column is not None:
            yield f"      {role}: {scalar(column)}"
    for role, columns in (("categories", found.categories), ("numbers", found.numbers)):
        if columns:
            yield f"      {role}:"
            yield from (
                f"        {scalar(name)}: {scalar(column)}" for name, column in columns.items()
            )
    if found.separator != VALUE_SEPARATOR:
        yield f"    separator: {scalar(found.separator)}"


def _span(found: Found) -> str:
    if found.first is None or found.last is None:
        return "at no time"
    return f"{found.first:%Y-%m-%d} to {found.last:%Y-%m-%d}"


def scalar(value: object) -> str:
    """The value as YAML, in quotes where it could be taken for anything else."""
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if re.fullmatch(r"[A-Za-z_./][\w./:-]*", text) and yaml.safe_load(text) == text:
        return text
    written = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return str(written).strip()


def check(project: Project, name: str, text: str) -> None:
    """Load the declaration as Dagster will, in a project of its own. Raises DeclarationError."""
    with tempfile.TemporaryDirectory() as folder:
        module = f"batchrec_new_{uuid.uuid4().hex}"
        root = Path(folder)
        file = root / module / "defs" / name / "defs.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")
        (root / module / "__init__.py").touch()
        (root / "pyproject.toml").write_text(
            f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{module}"\n'
        )
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            resources = Deployment.from_environment({}).resources()
            defs = dg.Definitions.merge(
                load_pipelines(root / module), dg.Definitions(resources=resources)
            )
            dg.Definitions.validate_loadable(defs)
        except DeclarationError as error:
            there = str(project.defs / name / "defs.yaml")
            raise DeclarationError(str(error).replace(str(file), there)) from None
        finally:
            sys.path.remove(folder)


def put(project: Project, name: str, text: str) -> Path:
    """Write defs/NAME/defs.yaml: whole, or nothing is changed. Raises AlreadyThereError."""
    folder = project.defs / name
    project.defs.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".batchrec-new-", dir=project.root))
    try:
        (made / "defs.yaml").write_text(text, encoding="utf-8")
        made.chmod(0o755)
        # It takes the place of no folder that has anything in it.
        made.rename(folder)
    except OSError as error:
        if folder.exists():
            raise AlreadyThereError(f"{folder} is there already") from error
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder / "defs.yaml"
