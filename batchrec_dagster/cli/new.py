"""`batchrec new`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.completion import files as files_that_begin
from batchrec_dagster.cli.deployed import storage
from batchrec_dagster.cli.items_options import asked, column, items_options
from batchrec_dagster.cli.project import (
    Project,
    ProjectError,
    declared_pipelines,
    find_project,
)

if TYPE_CHECKING:
    from batchrec_dagster.cli.items_found import FoundItems
    from batchrec_dagster.cli.ratings_found import Found

# A folder of many files is judged by the first of them.
MOST_FILES = 20


@click.command(short_help="Declare a pipeline for your own ratings.")
@click.argument("name")
@click.option(
    "--ratings",
    metavar="FILE",
    required=True,
    shell_complete=files_that_begin,
    help="The ratings, orders or events: a file, a folder, a pattern, s3://… or https://…",
)
@click.option(
    "--items",
    metavar="FILE",
    shell_complete=files_that_begin,
    help="Titles, categories and numbers of the items.",
)
@click.option("--user", metavar="COL", help="The column with the user's id.")
@click.option("--item", metavar="COL", help="The column with the item's id.")
@click.option("--time", metavar="COL", help="The column with the time.")
@click.option("--rating", metavar="COL", help="The column with the rating, if there is one.")
@click.option("--event-type", metavar="COL", help="The column with the kind of event, if any.")
@click.option("--delimiter", metavar="CHAR", help="What separates the fields of a CSV file.")
@click.option("--time-format", metavar="FORMAT", help="How times are written, as for strptime.")
@items_options
def new(
    name: str,
    ratings: str,
    items: str | None,
    user: str | None,
    item: str | None,
    time: str | None,
    rating: str | None,
    event_type: str | None,
    delimiter: str | None,
    time_format: str | None,
    **of_items: Any,
) -> None:
    """Look at a file of ratings, and declare the pipeline NAME for it.

    What can be seen in the file is not asked for. Columns go by name; those of a file without a
    header by position, from 1. Writes defs/NAME/defs.yaml in the project around this folder, with
    comments, once it loads; what is there already is never overwritten.

    \b
    Examples:
      batchrec new shop --ratings data/orders.csv
      batchrec new shop --ratings data/orders.csv --items data/products.csv
      batchrec new shop --ratings data/orders.csv --items data/products.csv \\
        --items-id sku --items-title called --items-category GENRES=kind
      batchrec new shop --ratings 's3://shop/orders/*.parquet' --time ordered_at
      batchrec new films --ratings ratings.dat --user 1 --item 2 --rating 3 --time 4
    """
    told = {
        "user": user, "item": item, "timestamp": time, "rating": rating, "event_type": event_type,
    }  # fmt: skip
    columns = {role: column(text) for role, text in told.items() if text is not None}
    if len({type(each) for each in columns.values()}) > 1:
        raise click.UsageError("give the columns all by name, or all by position")
    items_asked = asked(items, **of_items)
    try:
        project = find_project()
    except ProjectError as error:
        raise click.ClickException(str(error)) from error
    _check_name(name, project)

    from batchrec_dagster.cli import declare
    from batchrec_dagster.cli.items_found import find_items
    from batchrec_dagster.cli.ratings_columns import UnknownColumnsError
    from batchrec_dagster.cli.ratings_found import find_out
    from batchrec_dagster.pipeline.loading import DeclarationError
    from batchrec_dagster.preparation.layout import PreparationError
    from batchrec_dagster.preparation.sources.source import SourceError
    from batchrec_dagster.reporting.terminal import plain
    from batchrec_dagster.steps.raw_files import in_place, without_secrets
    from batchrec_dagster.storage.object_store import StorageError

    deployed = storage()
    source = _source(ratings, project)
    try:
        with in_place(source, deployed, project.root) as files:
            found = find_out(
                source,
                files[:MOST_FILES],
                columns,
                delimiter=delimiter,
                time_format=time_format,
            )
            more = len(files) - MOST_FILES
        with_items = None
        if items is not None:
            items_source = _source(items, project)
            with in_place(items_source, deployed, project.root) as files:
                ids = [str(found.columns["item"])] if found.columns else []
                with_items = (
                    items_source,
                    find_items(items_source, files[0], items_asked, ids, found.items),
                )
        text = declare.declaration(name, source, found, with_items, project.defs / name)
        declare.check(project, name, text)
        written = declare.put(project, name, text)
    except UnknownColumnsError as error:
        raise click.UsageError(plain(str(error))) from error
    except (
        PreparationError,
        SourceError,
        StorageError,
        DeclarationError,
        declare.AlreadyThereError,
    ) as error:
        raise click.ClickException(plain(str(error))) from error
    click.echo(plain(f"{without_secrets(source)}: {found.rows:,} rows, {found.format}"))
    for line in _told(found):
        click.echo(f"  {plain(line)}")
    if with_items is not None:
        click.echo(plain(f"{with_items[0]}: {with_items[1].rows:,} rows"))
        for line in _told_of_items(with_items[1]):
            click.echo(f"  {plain(line)}")
    if more > 0:
        click.echo(f"  and {more:,} files more, which were not looked at")
    for warning in [*found.warnings, *(with_items[1].warnings if with_items else [])]:
        click.echo(f"Warning: {plain(warning)}", err=True)
    click.echo(f"\nWrote {_near(written)}, which loads. Next:")
    for command in _next(name, project):
        click.echo(f"  {command}")


def _check_name(name: str, project: Project) -> None:
    """Raises click.UsageError for what can be no name, ClickException for one that is taken."""
    from pydantic import ValidationError

    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.reporting.terminal import plain

    try:
        Pipeline.model_validate({"name": name, "ratings": {"source": "sample://hetrec"}})
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise click.UsageError(f"{plain(name)!r} can be no name: {said}") from error
    taken = declared_pipelines(project).get(name)
    folder = project.defs / name
    if taken or folder.exists():
        raise click.ClickException(
            f"{_near(taken or folder)} is there already, and stays as it is: take another name, or"
            " delete it first"
        )


def _source(source: str, project: Project) -> str:
    """The source as the declaration has it: a path from the project's folder, where it is in it."""
    archive, inside, member = source.partition("!/")
    if "://" in archive:
        return source
    path = Path(os.path.abspath(Path(archive).expanduser()))  # noqa: PTH100 (keeps links)
    folder = "/" if archive.endswith("/") else ""
    if path.is_relative_to(project.root):
        path = path.relative_to(project.root)
    return f"{path.as_posix()}{folder}{inside}{member}"


def _told(found: Found) -> list[str]:
    of = {role: f" in column {column}" for role, column in found.columns.items()}
    time = found.timestamp_format or {"s": "seconds", "ms": "milliseconds"}.get(
        found.timestamp_unit, found.timestamp_unit
    )
    lines = [
        f"users    {found.users:,}{of.get('user', '')}",
        f"items    {len(found.items):,}{of.get('item', '')}",
    ]
    if found.min_rating is not None:
        lines.append(
            f"ratings  {found.kept:,} are {found.min_rating:g} or more{of.get('rating', '')}"
        )
    if found.kinds:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.kinds.items())
        lines.append(f"events   {kinds}{of['event_type']}")
    span = f"{found.first:%Y-%m-%d} to {found.last:%Y-%m-%d}" if found.first else "unknown"
    return [*lines, f"times    {span}, as {time}{of.get('timestamp', '')}"]


def _told_of_items(found: FoundItems) -> list[str]:
    roles = {
        "ids": found.item,
        "titles": found.title,
        "categories": ", ".join(map(str, found.categories.values())),
        "numbers": ", ".join(map(str, found.numbers.values())),
        "created": found.created,
    }
    return [f"{role:<11}{column}" for role, column in roles.items() if column]


def _next(name: str, project: Project) -> list[str]:
    module = f"{project.module}.definitions"
    dagster, batchrec = _program("dagster"), _program("batchrec")
    # Told the module alone, Dagster warns of its name once for each pipeline.
    workspace = project.root / "workspace.yaml"
    where = f"-w {shlex.quote(str(_near(workspace)))}" if workspace.is_file() else f"-m {module}"
    return [
        f"{dagster} definitions validate {where}",
        f"{dagster} job execute -m {module} -j {name}_refresh",
        f"{batchrec} show --pipeline {name}",
    ]


def _program(name: str) -> str:
    """How to call a program of this environment from here."""
    path = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found) == path:
        return name
    return shlex.quote(str(_near(path)))


def _near(path: Path) -> Path:
    """The path from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
