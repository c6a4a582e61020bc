"""`batchrec rollback`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchrec_dagster.cli.completion import pipelines as pipelines_that_begin
from batchrec_dagster.cli.project import NotFoundError, ProjectError, find_project, storage

if TYPE_CHECKING:
    from batchrec_dagster.storage.published_table import Edition, PublishedTable


@click.command(short_help="Publish older lists once more.")
@click.argument("pipeline", metavar="NAME", shell_complete=pipelines_that_begin)
@click.option(
    "--to",
    metavar="EDITION",
    help="The edition's number; by default the newest before the published one that was not rolled"
    " back itself.",
)
@click.option("--yes", is_flag=True, help="Do it without asking.")
def rollback(pipeline: str, to: str | None, yes: bool) -> None:
    """Publish older lists once more.

    Shows which are kept, asks, and runs the job NAME_rollback: it publishes them by one atomic put,
    keeps those that they replace, and brings the report and the sinks up to date. The lists that
    were rolled back are not published again by themselves; what is new is, by the next refresh.

    \b
    Examples:
      batchrec rollback shop               # to the lists before
      batchrec rollback shop --to 12       # to those of edition 12
      batchrec rollback shop --yes         # in a script
    """
    from dagster import Failure

    from batchrec_dagster.steps.rollback import (
        PREVIOUS,
        chosen,
        published_table,
        rolled_back_keys,
        run_config,
    )
    from batchrec_dagster.storage.object_store import StorageError
    from batchrec_dagster.storage.paths import Places

    deployed, places = storage(), Places(pipeline)
    table = published_table(deployed, places)
    try:
        current, bad = table.current(), rolled_back_keys(deployed, places)
        if current is None:
            raise NotFoundError(f"{deployed.where(table.uri)} is not there: nothing is published")
        edition = chosen(table, to or PREVIOUS, bad)
    except StorageError as error:
        raise click.ClickException(str(error)) from error
    except Failure as error:
        raise NotFoundError(error.description or "") from error
    click.echo(_shown(table, current, edition, bad))
    if edition == current:
        raise click.ClickException(f"edition {edition.number} is what is published already")
    execute = _execute(f"{pipeline}_rollback")
    if not yes:
        click.confirm(f"Publish edition {edition.number} once more?", abort=True)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "rollback.yaml"
        config.write_text(json.dumps(run_config(pipeline, str(edition.number))))
        done = subprocess.run([*execute, "-c", str(config)], check=False)
    after = table.current()
    click.echo(f"{pipeline}: published is edition {after.number if after else 'none'}")
    if done.returncode:
        raise click.ClickException(f"the run of {pipeline}_rollback failed: see above")


def _shown(
    table: PublishedTable, current: Edition, edition: Edition, rolled_back: list[str]
) -> str:
    """What is published and what is kept, a line each."""
    from batchrec_dagster.steps.rollback import told

    lines = [f"published: {told(current)}"]
    for older in table.older():
        line = f"kept:      {told(older)}"
        if not {*rolled_back}.isdisjoint(older.about.get("made_by", [])):
            line += " (rolled back)"
        lines.append(f"{line} <-" if older == edition else line)
    return "\n".join(lines)


def _execute(job: str) -> list[str]:
    """The command that runs the job, without its config."""
    if not os.environ.get("DAGSTER_HOME"):
        raise click.ClickException(
            "DAGSTER_HOME is not set, so that the run would be remembered nowhere: set it to the"
            " folder that dagster uses (make uses .batchrec/dagster)"
        )
    try:
        project = find_project()
    except ProjectError as error:
        raise click.ClickException(str(error)) from error
    place = ["-m", f"{project.module}.definitions", "-d", str(project.root)]
    return [sys.executable, "-m", "dagster", "job", "execute", *place, "-j", job]
