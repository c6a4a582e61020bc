"""The `batchrec new` command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchrec_dagster.cli.pipelines import load_pipelines
from batchrec_dagster.cli.project import Project, enter_project, load_storage
from batchrec_dagster.preparation.file_form import NO_TIMES, PreparationError
from batchrec_dagster.reporting.views.plain import (
    escape_invisible,
    fit_terminal,
    format_program,
    shorten_path,
)

if TYPE_CHECKING:
    from batchrec_dagster.cli.recognised_source import RecognisedSource
    from batchrec_dagster.preparation.attributes import AttributeSubject
    from batchrec_dagster.preparation.file_form import Column
    from batchrec_dagster.preparation.sources.source import ListedFile

# The maximum number of files of a source that are read. They are the first files.
MOST_FILES = 20
RATING_ROLES = ("user", "item", "timestamp", "rating")
# This type makes shells complete the value as a path, but accepts a URL too.
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

    Recognises format, columns and times, and shows the first rows as it read them. Options override
    what it recognises. Give columns by name, or by position (from 1) if the file has no header.
    Refuses a file that a run could not use. Writes defs/NAME/defs.yaml, with comments, into the
    project that has this folder, and deletes it again if it does not load. Edit that file to change
    anything else. Never overwrites a file.

    \b
    Examples:
      batchrec new shop --ratings data/orders.csv
      batchrec new shop --ratings data/orders.csv --items data/products.csv
      batchrec new shop --ratings data/orders.csv --users data/customers.csv
      batchrec new shop --ratings 's3://shop/orders/*.parquet' --time ordered_at
      batchrec new films --ratings ratings.dat --user 1 --item 2 --rating 3 --time 4
    """  # noqa: D301
    given = _parse_columns({role: options[role] for role in RATING_ROLES})
    # Relative paths start from the folder where the command is typed.
    folder = Path.cwd()
    project = enter_project()
    _require_new_name(name, project)

    from batchrec_dagster.cli.recognise_attributes import recognise_attributes
    from batchrec_dagster.cli.write_declaration import build_text, find_line, write_declaration
    from batchrec_dagster.config.new_declaration import format_block, ignore_home_in_git
    from batchrec_dagster.steps.data.raw_files import open_listed

    skip = options["on_bad_rows"] == "skip"
    source = _choose_declared_source(ratings, folder, project)
    recognised_ratings = _recognise_ratings(source, project, given, options)
    sources = {"ratings": recognised_ratings}
    attributes: tuple[tuple[AttributeSubject, str | None], ...] = (("item", items), ("user", users))
    for subject, path in attributes:
        if path is not None:
            source = _choose_declared_source(path, folder, project)
            with open_listed(_list_files(source, project)[:1]) as files:
                recognised = recognise_attributes(
                    subject, source, files[0], recognised_ratings, skip=skip
                )
            sources[f"{subject}s"] = recognised
    text = build_text(project.defs / name, name, options["on_bad_rows"], sources)
    lines: list[str] = []
    for recognised in sources.values():
        settings = {key: value for key, value in recognised.settings.items() if key != "source"}
        lines += [*recognised.summary, *format_block(settings, "  ")]
        lines += [f"  {rule}" for rule in recognised.rules]
    # The preview is already escaped, and has several lines.
    click.echo("\n".join([recognised_ratings.preview, "", *map(escape_invisible, lines)]))
    written = shorten_path(write_declaration(project, name, text))
    for doubt in (doubt for recognised in sources.values() for doubt in recognised.doubts):
        message = fit_terminal(escape_invisible(doubt.text), start="Warning: ")
        line = find_line(text, doubt.setting)
        click.echo(f"Warning: {message}\n  To change it, edit {written}, line {line}.", err=True)
    ignore_home_in_git(project.root)
    batchrec = format_program()
    click.echo(
        f"\nWrote {written}; it loads. Next:\n"
        f"  {batchrec} run {name}\n"
        f"  {batchrec} open --pipeline {name}\n"
        f"  {batchrec} show --pipeline {name}"
    )


def _parse_columns(given: Mapping[str, str | None]) -> dict[str, Column]:
    """Return the given columns by role, as names or positions.

    Raises click.UsageError if names and positions are mixed.
    """
    columns: dict[str, Column] = {
        role: int(text) if text.isascii() and text.isdecimal() else text
        for role, text in given.items()
        if text is not None
    }
    if len({type(column) for column in columns.values() if column != NO_TIMES}) > 1:
        raise click.UsageError("give the columns all by name, or all by position")
    return columns


def _require_new_name(name: str, project: Project) -> None:
    """Raise an error unless the name is valid and not taken.

    Raises click.UsageError for an invalid name, click.ClickException for a name that is taken.
    """
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
    """Return the source as it will be declared.

    A path in the project becomes relative to the project's folder. Other paths become absolute.

    typed_in: the folder from which a relative path starts.
    """
    archive, inside, member = source.partition("!/")
    if "://" in archive:
        return source
    path = Path(os.path.abspath(typed_in / Path(archive).expanduser()))  # noqa: PTH100 (keeps links)
    end = "/" if archive.endswith("/") else ""
    if path.is_relative_to(project.root):
        path = path.relative_to(project.root)
    return f"{path.as_posix()}{end}{inside}{member}"


def _list_files(source: str, project: Project) -> list[ListedFile]:
    """Return the files of a source.

    Raises UserError.
    """
    from batchrec_dagster.preparation.sources.parsing import parse_source
    from batchrec_dagster.steps.data.raw_files import make_source_context

    return parse_source(source).files(make_source_context(load_storage(), project.root))


def _recognise_ratings(
    source: str, project: Project, given: Mapping[str, Column], options: Mapping[str, Any]
) -> RecognisedSource:
    from batchrec_dagster.cli.recognise_ratings import recognise_ratings
    from batchrec_dagster.steps.data.raw_files import open_listed

    listed_files = _list_files(source, project)
    unread_count = max(0, len(listed_files) - MOST_FILES)
    with open_listed(listed_files[:MOST_FILES]) as files:
        try:
            recognised = recognise_ratings(
                source,
                files,
                given,
                time_form=options["time_format"],
                min_rating=options["min_rating"],
                skip=options["on_bad_rows"] == "skip",
                whole=not unread_count,
            )
        except PreparationError as error:
            # The message names a setting of the YAML, which is not written yet, so name the option.
            option = ". Here: --time-format" if "ratings.timestamp_" in str(error) else ""
            raise PreparationError(f"{error}{option}") from error
    if unread_count:
        from batchrec_dagster.cli.recognised_source import Doubt

        text = f"{unread_count:,} more files were not looked at"
        recognised.doubts.append(Doubt(text, ("ratings", "source")))
        recognised.summary.append(f"in the first {MOST_FILES} of {len(listed_files):,} files")
    return recognised
