"""Preparation: turn files and settings into interactions, items, users and reported problems."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import polars as pl
from click import UsageError
from pydantic import ValidationError

from batchrec_dagster.cli.recognise_ratings import recognise_ratings
from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.items_and_users import BatchUsers, ItemSettings, UserSettings
from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.errors import Retry as Retry
from batchrec_dagster.errors import UserError as UserError
from batchrec_dagster.preparation import counting
from batchrec_dagster.preparation.attributes import parse_attributes
from batchrec_dagster.preparation.file_form import NULL_VALUES
from batchrec_dagster.preparation.id_lists import read_ids
from batchrec_dagster.preparation.polars import row_filters
from batchrec_dagster.preparation.polars.decoding import RawFile as DecodedFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.row_rules import PreparationResult
from batchrec_dagster.preparation.sources import archives, packing
from batchrec_dagster.preparation.sources.source import RowSource, SourceContext
from batchrec_dagster.preparation.spark.task import ERASED_USERS_FILE, PARTS, SparkTask
from batchrec_dagster.samples import generator
from batchrec_dagster.steps.data.stored_files import put_stream
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers
from batchrec_dagster.storage.objects import ObjectStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class RawFile:
    """A source's file that a run has copied."""

    name: str
    """The file's name in the storage, which messages show."""
    version: str
    """A text that changes when the file changes."""
    path: Path
    """The path of the copy."""


@dataclass(frozen=True)
class Interactions:
    """The interactions that were kept from the ratings, and counts of the other rows."""

    rows: list[tuple[str, str, int]]
    """The user, the item and the time in seconds of each row that was kept."""
    events: list[tuple[str, ...]]
    """The event type and value of each kept row, if the declaration names their columns."""
    rows_read: int
    left_out: dict[str, int]
    """The number of rows that were left out, by reason."""
    bad_rows: tuple[str, ...]
    """The first rows that could not be read: file, line and reason."""
    warnings: tuple[str, ...]
    """The warnings about how the files were read."""
    erased_users: int
    """The number of erased users that have rows."""


@dataclass(frozen=True)
class Attributes:
    """The result of reading a file of items or users."""

    metadata: pl.DataFrame
    """The columns of the good rows that Personalize gets."""
    titles: pl.DataFrame
    """For items: item_id and title, and image and link if they are declared. Empty for users."""
    rows_read: int
    left_out: dict[str, int]
    bad_rows: tuple[str, ...]


@contextmanager
def _user_errors() -> Iterator[None]:
    """Raise UserError in place of pydantic's ValidationError, for errors in the declaration."""
    try:
        yield
    except ValidationError as error:
        raise UserError(str(error)) from error


def _open_sources(folder: Path) -> SourceContext:
    """Return a source context for a folder.

    Relative paths start in the folder. The environment names the endpoint of S3.
    """
    store = ObjectStore({"raw": folder / "raw"}, endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3"))
    return SourceContext(store, folder, folder / "cache", generator)


def _make_erased_users(users: Collection[str]) -> ErasedUsers:
    return NOBODY.add(users) if users else NOBODY


def declare(blocks: Mapping[str, Any]) -> None:
    """Raise UserError if the blocks of a declaration are wrong."""
    with _user_errors():
        Pipeline.model_validate({"name": "shop", **blocks})


def list_files(folder: Path, ratings: Mapping[str, Any]) -> dict[str, str]:
    """Return the name and the version of each file of the source, without copying the files."""
    with _user_errors():
        rows = RatingsSettings.model_validate(ratings).rows
        return {file.filename: file.fingerprint for file in rows.files(_open_sources(folder))}


def copy_raw(
    folder: Path, ratings: Mapping[str, Any], meanwhile: Callable[[], object] = lambda: None
) -> list[RawFile]:
    """Copy the files of the source, in their order, into the subfolder `raw`.

    folder: the folder at which relative paths start.
    ratings: the block of the YAML.
    meanwhile: is called after the files are listed and before they are copied.
    """
    sources = _open_sources(folder)
    copies = []
    with _user_errors():
        listed_files = RatingsSettings.model_validate(ratings).rows.files(sources)
        meanwhile()
        for listed in listed_files:
            put_stream(sources.store, f"s3://raw/{listed.filename}", listed.chunks())
            path = folder / "raw" / listed.filename
            copies.append(RawFile(listed.filename, listed.fingerprint, path))
    return copies


@contextmanager
def _open_files(folder: Path, rows: RowSource) -> Iterator[list[DecodedFile]]:
    """Yield the files of a source, opened on this machine. Raises UserError."""
    sources = _open_sources(folder)
    with _user_errors(), ExitStack() as stack:
        yield [
            DecodedFile(stack.enter_context(listed.open_locally()), listed.filename)
            for listed in rows.files(sources)
        ]


def prepare(
    folder: Path,
    blocks: Mapping[str, Any],
    *,
    erased: Collection[str] = (),
    spark: SparkSession | None = None,
) -> Interactions:
    """Read the ratings as a run does, and write interactions.csv into the folder.

    Raises UserError.

    folder: the folder at which relative paths start.
    blocks: blocks of the YAML, such as `ratings` and `interactions`.
    erased: the ids of erased users.
    spark: a Spark session that prepares the ratings; None for the engine for one machine.
    """
    with _user_errors():
        pipeline = Pipeline.model_validate({"name": "shop", **blocks})
    target, erased_users = folder / "interactions.csv", _make_erased_users(erased)
    form, columns = pipeline.ratings.file_form, pipeline.ratings.file_columns
    result: PreparationResult
    with (
        _open_files(folder, pipeline.ratings.rows) as files,
        open_ratings(files, form, columns, pipeline.rules, erased_users) as ratings,
    ):
        if spark is None:
            result = ratings.write_interactions(target)
        else:
            from batchrec_dagster.preparation.spark.prepare import run_task

            task = SparkTask(
                {file.name: f"file://{file.path}" for file in files},
                ratings.recognised.form,
                ratings.recognised.columns,
                pipeline.rules,
                ratings.unit,
                f"file://{folder}/work",
            )
            (folder / "work").mkdir()
            (folder / "work" / ERASED_USERS_FILE).write_bytes(erased_users.encode())
            result = run_task(spark, task, logging.getLogger(__name__))
            parts = sorted(folder.glob(f"work/{PARTS}/part-*"))
            header = ",".join(pipeline.interactions_columns)
            target.write_text("".join([f"{header}\n", *(part.read_text() for part in parts)]))
        warnings = tuple(ratings.recognised.warnings)
    names = [name.upper() for name in ("event_type", "event_value") if name in columns.roles]
    with target.open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    return Interactions(
        [(row["USER_ID"], row["ITEM_ID"], int(row["TIMESTAMP"])) for row in rows],
        [tuple(row[name] for name in names) for row in rows],
        result.rows_read,
        dict(result.left_out),
        tuple(result.bad_row_examples),
        warnings,
        result.erased_users,
    )


@contextmanager
def parts_of(rows: int) -> Iterator[None]:
    """Make preparation read and count rows in parts of this size, as for a very large file."""
    with (
        patch.object(row_filters, "PART_ROWS", rows),
        patch.object(counting, "PIECE_ROWS", rows),
    ):
        yield


def recognise(folder: Path, source: str, columns: Mapping[str, str | int]) -> dict[str, Any]:
    """Return the block `ratings` that `batchrec new` writes for a file.

    Raises UserError.

    columns: the columns that the command's options name.
    """
    files = [DecodedFile(folder / source, source)]
    with _user_errors():
        try:
            recognised = recognise_ratings(source, files, columns, skip=True, whole=False)
            return dict(recognised.settings)
        except UsageError as error:
            raise UserError(error.message) from error


def prepare_items(folder: Path, items: Mapping[str, Any]) -> Attributes:
    """Read the file of items as a run does.

    Raises UserError.

    items: the block of the YAML.
    """
    with _user_errors():
        settings = ItemSettings.model_validate(items)
    with _open_files(folder, settings.rows) as (file,):
        layout = settings.layout
        read = parse_attributes(file, layout)
    titles = read.good.select(pl.col(layout.id_name), pl.col("^(title|image|link)$"))
    return Attributes(
        read.good.select(layout.columns),
        titles,
        read.rows,
        dict(read.bad.counts),
        tuple(read.bad.examples),
    )


def prepare_users(
    folder: Path, users: Mapping[str, Any], erased: Collection[str] = ()
) -> Attributes:
    """Read the file of users as a run does.

    Raises UserError.

    users: the block of the YAML.
    erased: the ids of erased users.
    """
    with _user_errors():
        settings = UserSettings.model_validate(users)
    with _open_files(folder, settings.rows) as (file,):
        read = parse_attributes(file, settings.layout, _make_erased_users(erased))
    bad = read.bad
    return Attributes(read.good, pl.DataFrame(), read.rows, dict(bad.counts), tuple(bad.examples))


def list_users(folder: Path, batch_users: Mapping[str, Any]) -> list[str]:
    """Return the ids in a list of users.

    Raises UserError.

    batch_users: the block of the YAML.
    """
    with _user_errors():
        settings = BatchUsers.model_validate(batch_users)
    assert settings.rows is not None
    with _open_files(folder, settings.rows) as files:
        ids = read_ids(
            files, "user", settings.column, "batch_users.column", NULL_VALUES, settings.file_header
        )
    return ids.to_list()


@contextmanager
def before_unpacking(act: Callable[[], None]) -> Iterator[None]:
    """Until the block ends, act each time that a file is about to be read from an archive."""
    unpack_member = packing.unpack_member

    def act_and_unpack(*arguments: Any) -> None:
        act()
        unpack_member(*arguments)

    with patch.object(archives, "unpack_member", act_and_unpack):
        yield
