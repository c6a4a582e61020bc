"""Counting and erasing the rows of given users in a pipeline's tables and editions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.without_users import drop_users
from batchrec_dagster.personalize.formats import USER_FIELD
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.steps.context import StepContext, list_removed_lists
from batchrec_dagster.steps.data.stored_files import PreparedRecord, put_file
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.layout import SEGMENTS, ListKeys
from batchrec_dagster.storage.objects import DamagedObjectError
from batchrec_dagster.storage.records import load, save


def find_lists_of_users(step: StepContext) -> list[ListFiles]:
    """Return the files of every list with users: removed lists, declared lists, then segments.

    The order matters for sinks. If a removed list and a declared list were written to the same
    place, writing the lists in this order leaves the rows of the declared list there.
    """
    declared = [published.address for published in step.pipeline.user_lists]
    removed = [f"{step.pipeline.name}/{name}" for name in list_removed_lists(step)]
    # If the pipeline now declares several lists, the earlier list of the pipeline itself counts as
    # removed.
    former = [address for address in [step.pipeline.name, *removed] if address not in declared]
    segments = f"{step.pipeline.name}/{SEGMENTS}"
    addresses = [*former, *declared, segments]
    return [ListFiles(step.storage, ListKeys(address)) for address in addresses]


def _is_in(column: str, ids: pl.Series) -> pl.Expr:
    """Return an expression for whether a row's value in the column is one of the ids.

    It is false for a null.
    """
    return pl.col(column).is_in(ids.implode()).fill_null(value=False)


class AnyPreparedRecord(PreparedRecord, frozen=True, extra="allow"):
    """The record of a file, with all further fields that its step recorded."""


@dataclass(frozen=True)
class UserTable:
    """A file with rows of users, other than the editions of lists."""

    name: str
    """The name of the table's content, such as `interactions`."""
    uri: str
    column: str
    """The column of the users' ids."""
    record: str | None = None
    """The URI of the record that describes the file; None if no record does."""

    def scan(self, path: Path) -> pl.LazyFrame:
        """Scan a copy of the file on this machine.

        All columns of a CSV file are read as text, so that no value changes when rows are written
        again.
        """
        if self.uri.endswith(".csv"):
            return pl.scan_csv(path, infer_schema=False, glob=False)
        if self.uri.endswith(".json"):
            return pl.scan_ndjson(path)
        return pl.scan_parquet(path, glob=False)

    def write(self, rows: pl.LazyFrame, path: Path) -> None:
        """Write the rows in the format of the table's file."""
        if self.uri.endswith(".csv"):
            rows.sink_csv(path)
        elif self.uri.endswith(".json"):
            rows.sink_ndjson(path)
        else:
            rows.sink_parquet(path)


def list_tables(step: StepContext) -> Iterator[UserTable]:
    """Yield the existing tables with rows of users, without editions and tables of sinks."""
    files_of_all, keys = step.files, step.pipeline.keys
    tables = [
        UserTable(
            "interactions",
            files_of_all.interactions,
            USER_ID,
            files_of_all.record_uri("interactions"),
        ),
        UserTable(
            "attributes of users",
            files_of_all.uri(keys.users),
            USER_ID,
            files_of_all.record_uri("users"),
        ),
        UserTable(
            "users who get lists",
            files_of_all.uri(keys.job_input("batch_inference")),
            USER_FIELD,
        ),
    ]
    for files in find_lists_of_users(step):
        tables += [
            UserTable("users who get lists", files.uri(files.keys.users_of_list), USER_FIELD),
            UserTable(
                "users without lists", files.uri(files.keys.users_without_lists()), "user_id"
            ),
        ]
    yield from _find_tables(step, tables)


def list_users_of_sinks(step: StepContext) -> Iterator[UserTable]:
    """Yield the existing tables of written users, which sinks keep to find users who are gone."""
    folders = [files.uri(files.keys.users_in_dynamodb()) for files in find_lists_of_users(step)]
    tables = [UserTable("users in DynamoDB", folder, "user_id") for folder in folders]
    yield from _find_tables(step, tables)


def _find_tables(step: StepContext, tables: Sequence[UserTable]) -> Iterator[UserTable]:
    """Yield the tables whose files exist.

    tables: the possible tables. The URI of a table names a file, or a folder of files.
    """
    for table in dict.fromkeys(tables):
        for info in step.storage.store.list(table.uri):
            # Another program may have put a file of its own there.
            if info.uri.endswith((".csv", ".json", ".parquet")):
                yield replace(table, uri=info.uri)


def _count_rows_of(step: StepContext, table: UserTable, ids: pl.Series) -> tuple[int, int]:
    """Count the users' rows in the table, and all its rows."""
    with step.storage.local_file(table.uri) as path:
        counts = table.scan(path).select(_is_in(table.column, ids).sum(), pl.len().alias("rows"))
        return counts.collect(engine="streaming").row(0)


def count_table_rows(step: StepContext, ids: pl.Series) -> dict[str, int]:
    """Count the users' rows in all tables, by the name of the table."""
    numbers: dict[str, int] = {}
    for table in [*list_tables(step), *list_users_of_sinks(step)]:
        number, _ = _count_rows_of(step, table, ids)
        numbers[table.name] = numbers.get(table.name, 0) + number
    return numbers


def erase_from_table(step: StepContext, table: UserTable, ids: pl.Series) -> None:
    """Remove the users' rows from the table, and delete the table if no row is left."""
    store = step.storage.store
    number, rows = _count_rows_of(step, table, ids)
    if number and number == rows:
        store.delete(table.uri)
    elif number:
        with step.storage.local_file(table.uri) as path, temporary_folder() as folder:
            new_path = folder / "table"
            table.write(table.scan(path).filter(~_is_in(table.column, ids)), new_path)
            file = put_file(store, table.uri, new_path)
        record = load(store, table.record, AnyPreparedRecord) if table.record else None
        if table.record and record is not None:
            new = {"file": file, "version": file.version}
            save(store, table.record, record.model_copy(update=new))


def count_edition_rows(editions: Editions, ids: pl.Series) -> int:
    """Count the users' rows in the live edition and in all kept editions."""
    live = editions.live()
    return sum(
        _count_rows_of_edition(editions, edition, ids)
        for edition in [*editions.kept(), *([live] if live else [])]
    )


def _count_rows_of_edition(editions: Editions, edition: Edition, ids: pl.Series) -> int:
    """Count the users' rows in the edition; 0 if the edition's file is damaged."""
    try:
        rows = editions.read_rows(edition).filter(_is_in("user_id", ids)).select(pl.len())
        return int(rows.collect(engine="streaming").item())
    except DamagedObjectError:
        # Erasing deletes a damaged edition that is not live. For the live edition, erasing raises
        # an error that says what to do.
        return 0


def erase_from_editions(editions: Editions, ids: pl.Series) -> None:
    """Remove the users' rows from all editions. The number and version of an edition stay.

    A kept edition that is damaged is deleted, because nobody can read it or roll back to it.
    """
    kept = editions.kept()
    readable = {edition.uri for edition in kept}
    for info in editions.store.list(editions.history):
        if info.uri not in readable:
            editions.store.delete(info.uri)
    for edition in kept:
        try:
            drop_users(editions, edition, ids)
        except DamagedObjectError:
            editions.store.delete(edition.uri)
    live = editions.live()
    if live is not None:
        drop_users(editions, live, ids)
