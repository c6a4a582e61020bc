"""The defs.yaml that `batchrec new` writes, and keeps if it loads."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import yaml

from batchrec_dagster.cli import pipelines
from batchrec_dagster.cli.project import Project
from batchrec_dagster.cli.recognised_source import RecognisedSource
from batchrec_dagster.config.new_declaration import format_block, format_declaration
from batchrec_dagster.reporting.views.plain import escape_invisible, shorten_path


def build_text(
    folder: Path, name: str, on_bad_rows: str, sources: dict[str, RecognisedSource]
) -> str:
    """Return the text of the defs.yaml, with comments and suggestions.

    folder: the folder of the future file.
    name: the name of the pipeline.
    on_bad_rows: the setting ratings.on_bad_rows.
    sources: the recognised sources by the name of their block: ratings, perhaps items and users.
    """
    ratings = sources["ratings"]
    lines = [
        "",
        "  interactions:                 # which rows count",
        *(f"    {line}" for line in ratings.rules),
        "    duplicates: keep            # or drop",
        "    # window: {days: 365}       # only the newest days",
        "",
    ]
    for block, purpose in (
        ("items", "titles for people, metadata for Personalize"),
        ("users", "for filters and Personalize"),
    ):
        if block in sources:
            lines += [f"  {block}:                        # {purpose}"]
            lines += format_block(sources[block].settings)
            lines += [*(f"  {rule}" for rule in sources[block].rules), ""]
    bad_rows = (
        f"    on_bad_rows: {on_bad_rows}           # skip: leave out and count unreadable rows"
    )
    notes = ["Written by batchrec new, from", *map(escape_invisible, ratings.summary)]
    return format_declaration(
        folder, name, [*format_block(ratings.settings), bad_rows], notes, "\n".join(lines)
    )


def find_line(text: str, setting: Sequence[str]) -> int:
    """Return the number of the YAML line, from 1, with a setting of a pipeline.

    If the setting is not there, return the line of the block around it.
    """
    node, line = yaml.compose(text), 0
    for name in ("attributes", *setting):
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == name:
                node, line = value, key.start_mark.line + 1
                break
    return line


def write_declaration(project: Project, name: str, text: str) -> Path:
    """Write defs/NAME/defs.yaml atomically, and remove it again if it does not load.

    Raises click.ClickException if the file cannot be written, or does not load. If something else
    keeps the project from loading, the error is raised too, but the file stays.
    """
    target = project.defs / name
    try:
        with tempfile.TemporaryDirectory(prefix=".batchrec-new-", dir=project.root) as folder:
            Path(folder, name).mkdir()
            Path(folder, name, "defs.yaml").write_text(text, encoding="utf-8")
            project.defs.mkdir(parents=True, exist_ok=True)
            Path(folder, name).rename(target)
    except OSError as error:
        raise click.ClickException(f"cannot write {project.root}: {error.strerror}") from error
    errors = pipelines.load_pipelines(project).errors
    if any(str(target / "defs.yaml") in error for error in errors):
        shutil.rmtree(target)
        raise click.ClickException("\n".join(errors))
    if errors := errors or pipelines.find_definitions_errors(project):
        reasons = "\n  ".join(errors)
        raise click.ClickException(
            f"wrote {shorten_path(target / 'defs.yaml')}; the project does not load:\n  {reasons}"
        )
    return target / "defs.yaml"
