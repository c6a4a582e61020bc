"""Writes the defs.yaml of `batchrec new`, once it loads."""

from __future__ import annotations

import importlib
import sys
import tempfile
import uuid
from pathlib import Path

import click
import dagster as dg

from batchrec_dagster.cli import pipelines
from batchrec_dagster.cli.project import Project
from batchrec_dagster.cli.recognised_source import RecognisedSource
from batchrec_dagster.config.new_declaration import format_block, format_declaration
from batchrec_dagster.pipeline.declaration_errors import DeclarationError
from batchrec_dagster.pipeline.loading import load_pipelines
from batchrec_dagster.reporting.views.plain import escape_invisible, shorten_path


def build_text(
    folder: Path,
    name: str,
    on_bad_rows: str,
    ratings: RecognisedSource,
    items: RecognisedSource | None,
    users: RecognisedSource | None,
) -> str:
    """The text of the defs.yaml, with comments and suggestions.

    folder: where the file will be.
    name: of the pipeline.
    on_bad_rows: the setting of the ratings.
    """
    other_blocks = [
        "  interactions:                 # which rows count",
        *(f"    {line}" for line in ratings.rules),
        "    duplicates: keep            # or drop",
        "    # window: {days: 365}       # only the newest days",
        "",
    ]
    if items is not None:
        other_blocks += [
            "  items:                        # titles for people, metadata for Personalize"
        ]
        other_blocks += [*format_block(items.settings), ""]
    if users is not None:
        other_blocks += ["  users:                        # for filters and Personalize"]
        other_blocks += [*format_block(users.settings)]
        other_blocks += [*(f"  {rule}" for rule in users.rules), ""]
    bad_rows = (
        f"    on_bad_rows: {on_bad_rows}           # skip: leave out and count unreadable rows"
    )
    notes = ["Written by batchrec new, from", *map(escape_invisible, ratings.summary)]
    return format_declaration(
        folder,
        name,
        [*format_block(ratings.settings), bad_rows],
        notes,
        "\n" + "\n".join(other_blocks),
    )


def write_declaration(project: Project, name: str, text: str) -> Path:
    """Write defs/NAME/defs.yaml atomically, after it was loaded in a project of its own.

    Raises DeclarationError, click.ClickException.
    """
    target = project.defs / name
    try:
        temporary_project = tempfile.TemporaryDirectory(prefix=".batchrec-new-", dir=project.root)
    except OSError as error:
        raise click.ClickException(f"cannot write {project.root}: {error.strerror}") from error
    with temporary_project as root:
        module = f"batchrec_new_{uuid.uuid4().hex}"
        folder = Path(root, module, "defs", name)
        folder.mkdir(parents=True)
        (folder / "defs.yaml").write_text(text, encoding="utf-8")
        Path(root, module, "__init__.py").touch()
        Path(root, "pyproject.toml").write_text(
            f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{module}"\n'
        )
        sys.path.insert(0, root)
        try:
            importlib.invalidate_caches()
            dg.Definitions.validate_loadable(load_pipelines(Path(root, module)))
        except DeclarationError as error:
            raise DeclarationError(str(error).replace(str(folder), str(target))) from None
        finally:
            sys.path.remove(root)
        project.defs.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError as error:
            raise click.ClickException(f"cannot write {target}: {error.strerror}") from error
    return target / "defs.yaml"


def require_loadable_project(project: Project, declaration_path: Path) -> None:
    """Raise click.ClickException if the project does not load with the new declaration."""
    loaded = pipelines.load_pipelines(project)
    errors = loaded.errors or pipelines.find_definitions_errors(project)
    if errors:
        reasons = "\n  ".join(errors)
        raise click.ClickException(
            f"wrote {shorten_path(declaration_path)}; the project does not load:\n  {reasons}"
        )
