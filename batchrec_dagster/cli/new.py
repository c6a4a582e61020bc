"""`batchrec new`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchrec_dagster.cli.declared_pipelines import find_declared_pipelines
from batchrec_dagster.cli.project import Project, find_project, load_storage
from batchrec_dagster.cli.terminal import fit_terminal, format_program, shorten_path

if TYPE_CHECKING:
    from batchrec_dagster.cli.recognise_attributes import AttributesBlock
    from batchrec_dagster.cli.recognised_source import RecognisedSource
    from batchrec_dagster.preparation.attributes import AttributesLayout
    from batchrec_dagster.preparation.layout import Column

L = TypeVar("L", bound="AttributesLayout")

# A folder of many files is judged by the first ones.
MOST_FILES = 20
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
    help="Lowest rating that counts; none: all. Default: by the scale.",
)
@click.option("--event-type", metavar="COL", help="Column with the event type, if any.")
@click.option("--delimiter", metavar="CHAR", help="Delimiter of the CSV file.")
@click.option(
    "--header",
    metavar="LINE",
    help="Line that names the columns; none: no line does. Default: as the file shows.",
)
@click.option("--time-format", metavar="FORMAT", help="Format of the times, as for strptime.")
@click.option("--timezone", metavar="ZONE", help="Time zone of times without one. Default: UTC.")
@click.option("--encoding", metavar="NAME", default="auto", help="Encoding, such as cp1250.")
@click.option("--no-quotes", is_flag=True, help='" in CSV is like any other character.')
@click.option(
    "--null-value",
    "null_values",
    metavar="TEXT",
    multiple=True,
    help="Text that means no value, besides NULL, nan and the like; repeatable.",
)
@click.option(
    "--on-bad-rows",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    help="skip: drop unreadable rows. fail, the default: refuse a file with any.",
)
@click.option("--items-id", "items_item", metavar="COL", help="Items: column of the id.")
@click.option("--items-title", metavar="COL", help="Items: column of the title.")
@click.option("--items-image", metavar="COL", help="Items: column of a picture's address.")
@click.option("--items-link", metavar="COL", help="Items: column of the page's address.")
@click.option(
    "--items-created", metavar="COL", help="Items: column of the release time; none: no such times."
)
@click.option(
    "--items-category",
    metavar="[NAME=]COL",
    multiple=True,
    help="Items: column of text for Personalize, and the field's name there; repeatable.",
)
@click.option(
    "--items-number",
    metavar="[NAME=]COL",
    multiple=True,
    help="Items: column of numbers for Personalize; repeatable.",
)
@click.option("--items-delimiter", metavar="CHAR", help="Items: delimiter of the file.")
@click.option("--users-id", "users_user", metavar="COL", help="Users: column of the id.")
@click.option(
    "--users-category",
    metavar="[NAME=]COL",
    multiple=True,
    help="Users: column of text, such as country or consent, and the field's name in Personalize;"
    " repeatable.",
)
@click.option(
    "--users-number",
    metavar="[NAME=]COL",
    multiple=True,
    help="Users: column of numbers, such as age; repeatable.",
)
@click.option("--users-delimiter", metavar="CHAR", help="Users: delimiter of the file.")
def new(name: str, ratings: str, items: str | None, users: str | None, **options: Any) -> None:
    """Declare the pipeline NAME for a file of ratings.

    Recognises format, columns and times, and shows the first rows as it read them; the options
    override what it recognises. Give columns by name, or by position, from 1, if the file has no
    header. What could not run is refused. Writes defs/NAME/defs.yaml, with
    comments, into the project around this folder, once it loads. Never overwrites a file.

    \b
    Examples:
      batchrec new shop --ratings data/orders.csv
      batchrec new shop --ratings data/orders.csv --items data/products.csv
      batchrec new shop --ratings data/orders.csv --items data/products.csv \\
        --items-id sku --items-title called --items-category GENRES=kind
      batchrec new shop --ratings data/orders.csv --users data/customers.csv
      batchrec new shop --ratings 's3://shop/orders/*.parquet' --time ordered_at
      batchrec new films --ratings ratings.dat --user 1 --item 2 --rating 3 --time 4
    """
    from batchrec_dagster.cli.given_columns import (
        get_item_columns,
        get_rating_columns,
        get_user_columns,
    )

    columns, item_columns, user_columns = (
        get_columns(options)
        for get_columns in (get_rating_columns, get_item_columns, get_user_columns)
    )
    if items is None and (item_columns or options["items_delimiter"]):
        raise click.UsageError("columns of the items are given, but not their file: --items FILE")
    if users is None and (user_columns or options["users_delimiter"]):
        raise click.UsageError("columns of the users are given, but not their file: --users FILE")
    project = find_project()
    _check_name(name, project)

    from batchrec_dagster.cli.item_columns import ItemsBlock
    from batchrec_dagster.cli.user_columns import UsersBlock
    from batchrec_dagster.cli.write_declaration import (
        build_text,
        require_loadable_project,
        write_declaration,
    )
    from batchrec_dagster.config.new_declaration import format_block, ignore_home_in_git
    from batchrec_dagster.reporting.terminal import escape_invisible

    ratings_source = _choose_declared_source(ratings, project)
    recognised_ratings = _recognise_ratings(ratings_source, project, columns, options)
    sources, recognised_items, recognised_users = [recognised_ratings], None, None
    if items is not None:
        items_source = _choose_declared_source(items, project)
        recognised_items = _recognise_attributes(
            ItemsBlock(), items_source, project, item_columns, options, recognised_ratings
        )
        sources.append(recognised_items)
    if users is not None:
        users_source = _choose_declared_source(users, project)
        recognised_users = _recognise_attributes(
            UsersBlock(), users_source, project, user_columns, options, recognised_ratings
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


def _check_name(name: str, project: Project) -> None:
    """Raise click.UsageError for an invalid name, ClickException for one that is taken."""
    from pydantic import ValidationError

    from batchrec_dagster.config import Pipeline
    from batchrec_dagster.config.validation_messages import describe_error

    try:
        Pipeline.model_validate({"name": name, "ratings": {"source": "sample://hetrec"}})
    except ValidationError as error:
        problem = error.errors()[0]
        reason = describe_error(problem["type"], problem["msg"])
        raise click.UsageError(f"{name!r} is not a valid name: {reason}") from error
    folder = project.defs / name
    existing = find_declared_pipelines(project).get(name) or folder
    if existing.exists():
        raise click.ClickException(
            f"{shorten_path(existing)} already exists. Choose another name, or delete it first"
        )


def _choose_declared_source(source: str, project: Project) -> str:
    """The source as declared: a path in the project is relative to the project's folder."""
    archive, inside, member = source.partition("!/")
    if "://" in archive:
        return source
    path = Path(os.path.abspath(Path(archive).expanduser()))  # noqa: PTH100 (keeps links)
    folder = "/" if archive.endswith("/") else ""
    if path.is_relative_to(project.root):
        path = path.relative_to(project.root)
    return f"{path.as_posix()}{folder}{inside}{member}"


def _recognise_ratings(
    source: str, project: Project, columns: Mapping[str, Column], options: Mapping[str, Any]
) -> RecognisedSource:
    from batchrec_dagster.cli.given_columns import parse_header
    from batchrec_dagster.cli.recognise_ratings import recognise_ratings
    from batchrec_dagster.cli.recognised_source import ReadingOptions
    from batchrec_dagster.preparation.sources.parsing import parse_source
    from batchrec_dagster.steps.raw_files import open_source

    lowest = options["min_rating"]
    if lowest not in (None, "none") and not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", lowest):
        raise click.UsageError(f"--min-rating is {lowest!r}: write a number such as 3.5, or none")
    reading = ReadingOptions(
        options["delimiter"],
        options["time_format"],
        lowest,
        encoding=options["encoding"],
        quoted=not options["no_quotes"],
        null_values=options["null_values"],
        timezone=options["timezone"],
        header=parse_header(options["header"]),
        skip=options["on_bad_rows"] == "skip",
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
    block: AttributesBlock[L],
    source: str,
    project: Project,
    columns: Mapping[str, Column],
    options: Mapping[str, Any],
    ratings: RecognisedSource,
) -> RecognisedSource:
    from batchrec_dagster.cli.recognise_attributes import recognise_attributes
    from batchrec_dagster.cli.recognised_source import ReadingOptions
    from batchrec_dagster.preparation.sources.parsing import parse_source
    from batchrec_dagster.steps.raw_files import open_source

    name = block.rows.block
    reading = ReadingOptions(options[f"{name}_delimiter"], skip=options["on_bad_rows"] == "skip")
    with open_source(parse_source(source), load_storage(), project.root) as files:
        return recognise_attributes(block, source, files[0], columns, reading, ratings)
