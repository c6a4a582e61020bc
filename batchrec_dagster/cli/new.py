"""`batchrec new`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.pipelines import load_pipelines
from batchrec_dagster.cli.project import Project, enter_project, load_storage
from batchrec_dagster.preparation.layout import NO_TIMES
from batchrec_dagster.reporting.views.plain import fit_terminal, format_program, shorten_path

if TYPE_CHECKING:
    from batchrec_dagster.cli.recognise_attributes import AttributesBlock
    from batchrec_dagster.cli.recognised_source import RecognisedSource
    from batchrec_dagster.preparation.layout import Column

# A folder of many files is judged by the first ones.
MOST_FILES = 20
RATING_ROLES = ("user", "item", "timestamp", "rating")
# Shells complete it as a path; it may be a URL too.
FILE = click.Path(readable=False)


@click.command(short_help="Declare a pipeline for your own ratings.")
@click.argument("name")
@click.option(
    "--ratings",
    metavar="FILE",
    required=True,
    type=FILE,
    help="Ratings, orders or events: a file, a folder, a pattern, s3://… or https://…",
)
@click.option(
    "--items", metavar="FILE", type=FILE, help="Titles, categories and numbers of the items."
)
@click.option(
    "--users",
    metavar="FILE",
    type=FILE,
    help="What is known of users, such as country and consent.",
)
@click.option("--user", metavar="COL", help="Column with the user's id.")
@click.option("--item", metavar="COL", help="Column with the item's id.")
@click.option("--time", "timestamp", metavar="COL", help="Column with the time; none: no times.")
@click.option("--rating", metavar="COL", help="Column with the rating, if any.")
@click.option(
    "--min-rating",
    metavar="NUMBER",
    type=float,
    help="Lowest rating that counts. Default: 3.5 on a scale of 5, 7 on one of 10, else all count.",
)
@click.option("--time-format", metavar="FORMAT", help="Format of the times, as for strptime.")
@click.option(
    "--on-bad-rows",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    help="skip: drop unreadable rows. fail, the default: refuse a file with any.",
)
def new(name: str, ratings: str, items: str | None, users: str | None, **options: Any) -> None:
    """Declare the pipeline NAME for a file of ratings.

    Recognises format, columns and times, and shows the first rows as it read them; the options
    override what it recognises. Give columns by name, or by position, from 1, if the file has no
    header. What could not run is refused. Writes defs/NAME/defs.yaml, with comments, into the
    project around this folder, once it loads: all else is edited there. Never overwrites a file.

    \b
    Examples:
      batchrec new shop --ratings data/orders.csv
      batchrec new shop --ratings data/orders.csv --items data/products.csv
      batchrec new shop --ratings data/orders.csv --users data/customers.csv
      batchrec new shop --ratings 's3://shop/orders/*.parquet' --time ordered_at
      batchrec new films --ratings ratings.dat --user 1 --item 2 --rating 3 --time 4
    """
    columns = _parse_columns({role: options[role] for role in RATING_ROLES})
    # The files are named from the folder in which the command is typed.
    folder = Path.cwd()
    project = enter_project()
    _check_name(name, project)

    from batchrec_dagster.cli.item_columns import ItemsBlock
    from batchrec_dagster.cli.user_columns import UsersBlock
    from batchrec_dagster.cli.write_declaration import (
        build_text,
        require_loadable_project,
        write_declaration,
    )
    from batchrec_dagster.config.new_declaration import format_block, ignore_home_in_git
    from batchrec_dagster.reporting.views.plain import escape_invisible

    ratings_source = _choose_declared_source(ratings, folder, project)
    recognised_ratings = _recognise_ratings(ratings_source, project, columns, options)
    sources, recognised_items, recognised_users = [recognised_ratings], None, None
    if items is not None:
        items_source = _choose_declared_source(items, folder, project)
        recognised_items = _recognise_attributes(
            ItemsBlock(), items_source, project, options, recognised_ratings
        )
        sources.append(recognised_items)
    if users is not None:
        users_source = _choose_declared_source(users, folder, project)
        recognised_users = _recognise_attributes(
            UsersBlock(), users_source, project, options, recognised_ratings
        )
        sources.append(recognised_users)
    on_bad_rows = options["on_bad_rows"]
    text = build_text(
        project.defs / name,
        name,
        on_bad_rows,
        recognised_ratings,
        recognised_items,
        recognised_users,
    )
    declaration_path = write_declaration(project, name, text)
    click.echo(f"{recognised_ratings.preview}\n")
    for source in sources:
        settings = {key: value for key, value in source.settings.items() if key != "source"}
        lines = [
            *source.summary,
            *format_block(settings, "  "),
            *(f"  {rule}" for rule in source.rules),
        ]
        click.echo("\n".join(map(escape_invisible, lines)))
    for source in sources:
        for warning in source.warnings:
            message = fit_terminal(escape_invisible(warning), start="Warning: ")
            click.echo(f"Warning: {message}", err=True)
    require_loadable_project(project, declaration_path)
    ignore_home_in_git(project.root)
    batchrec = format_program()
    click.echo(
        f"\nWrote {shorten_path(declaration_path)}; it loads. Next:\n"
        f"  {batchrec} run {name}\n"
        f"  {batchrec} open --pipeline {name}\n"
        f"  {batchrec} show --pipeline {name}"
    )


def _parse_columns(given: Mapping[str, str | None]) -> dict[str, Column]:
    """The given columns by role, by name or position. Raises click.UsageError for a mix of both."""
    columns: dict[str, Column] = {
        role: int(text) if text.isascii() and text.isdecimal() else text
        for role, text in given.items()
        if text is not None
    }
    if len({type(column) for column in columns.values() if column != NO_TIMES}) > 1:
        raise click.UsageError("give the columns all by name, or all by position")
    return columns


def _check_name(name: str, project: Project) -> None:
    """Raise click.UsageError for an invalid name, ClickException for one that is taken."""
    from pydantic import ValidationError

    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.config.problems import describe_error
    from batchrec_dagster.pipeline.component_files import find_component_file

    try:
        Pipeline.model_validate({"name": name, "ratings": {"source": "sample://hetrec"}})
    except ValidationError as error:
        reason = describe_error(error.errors()[0])
        raise click.UsageError(f"{name!r} is not a valid name: {reason}") from error
    folder = project.defs / name
    existing = load_pipelines(project).files.get(name) or find_component_file(folder) or folder
    if existing.exists():
        raise click.ClickException(
            f"{shorten_path(existing)} already exists. Choose another name, or delete it first"
        )


def _choose_declared_source(source: str, typed_in: Path, project: Project) -> str:
    """The source as declared: a path in the project is relative to the project's folder.

    typed_in: the folder from which a relative path leads to the source.
    """
    archive, inside, member = source.partition("!/")
    if "://" in archive:
        return source
    path = Path(os.path.abspath(typed_in / Path(archive).expanduser()))  # noqa: PTH100 (keeps links)
    end = "/" if archive.endswith("/") else ""
    if path.is_relative_to(project.root):
        path = path.relative_to(project.root)
    return f"{path.as_posix()}{end}{inside}{member}"


def _recognise_ratings(
    source: str, project: Project, columns: Mapping[str, Column], options: Mapping[str, Any]
) -> RecognisedSource:
    from batchrec_dagster.cli.recognise_ratings import recognise_ratings
    from batchrec_dagster.cli.recognised_source import ReadingOptions
    from batchrec_dagster.preparation.sources.parsing import parse_source
    from batchrec_dagster.steps.raw_files import open_source

    reading = ReadingOptions(
        options["time_format"], options["min_rating"], skip=options["on_bad_rows"] == "skip"
    )
    with open_source(parse_source(source), load_storage(), project.root) as files:
        reading = replace(reading, whole=len(files) <= MOST_FILES)
        recognised = recognise_ratings(source, files[:MOST_FILES], columns, reading)
    unread_count = len(files) - MOST_FILES
    if unread_count > 0:
        recognised.warnings.append(f"{unread_count:,} more files were not looked at")
        recognised.summary.append(f"in the first {MOST_FILES} of {len(files):,} files")
    return recognised


def _recognise_attributes(
    block: AttributesBlock,
    source: str,
    project: Project,
    options: Mapping[str, Any],
    ratings: RecognisedSource,
) -> RecognisedSource:
    from batchrec_dagster.cli.recognise_attributes import recognise_attributes
    from batchrec_dagster.cli.recognised_source import ReadingOptions
    from batchrec_dagster.preparation.sources.parsing import parse_source
    from batchrec_dagster.steps.raw_files import open_source

    reading = ReadingOptions(skip=options["on_bad_rows"] == "skip")
    with open_source(parse_source(source), load_storage(), project.root) as files:
        return recognise_attributes(block, source, files[0], reading, ratings)
