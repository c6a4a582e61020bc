"""Rows of people in a pipeline's tables and editions: how many there are, and without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.formats import USER_FIELD
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.steps.stored_files import PreparedRecord, put_file
from batchrec_dagster.steps.work import Work, list_removed_lists
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.edition_without import drop_users
from batchrec_dagster.storage.editions import Editions
from batchrec_dagster.storage.layout import SEGMENTS, ListFiles, ListKeys
from batchrec_dagster.storage.objects import DamagedObjectError
from batchrec_dagster.storage.records import load, save


def find_lists_of_users(work: Work) -> list[ListFiles]:
    """The files of each list with users: of removed ones first, then of those that are declared,
    and of segments.

    Who writes them to a sink in this order leaves the rows of a declared list where a removed one
    was written to the same place.
    """
    declared = [published.address for published in work.pipeline.user_lists]
    removed = [f"{work.pipeline.name}/{name}" for name in list_removed_lists(work)]
    # The list of the pipeline itself, from before it had several, is one of the removed.
    former = [address for address in [work.pipeline.name, *removed] if address not in declared]
    segments = f"{work.pipeline.name}/{SEGMENTS}"
    addresses = [*former, *declared, segments]
    return [ListFiles(work.storage, ListKeys(address)) for address in addresses]


def _is_in(column: str, ids: pl.Series) -> pl.Expr:
    """Whether a row's value in the column is one of the ids; false for none."""
    return pl.col(column).is_in(ids.implode()).fill_null(value=False)


class AnyPreparedRecord(PreparedRecord, frozen=True, extra="allow"):
    """The record of a file, with whatever else its step has recorded."""


@dataclass(frozen=True)
class UserTable:
    """A file with a row for each of many users, besides the editions of lists."""

    name: str
    """What its rows are of."""
    uri: str
    column: str
    """The column of the users' ids."""
    record: str | None = None
    """The URI of the record that says what the file is; None if nobody asks it."""

    def scan(self, path: Path) -> pl.LazyFrame:
        """The rows of a copy of it on this machine. CSV is text, so that all stays as it is."""
        if self.uri.endswith(".csv"):
            return pl.scan_csv(path, infer_schema=False, glob=False)
        if self.uri.endswith(".json"):
            return pl.scan_ndjson(path)
        return pl.scan_parquet(path, glob=False)

    def write(self, rows: pl.LazyFrame, path: Path) -> None:
        """Write these rows in the same format."""
        if self.uri.endswith(".csv"):
            rows.sink_csv(path)
        elif self.uri.endswith(".json"):
            rows.sink_ndjson(path)
        else:
            rows.sink_parquet(path)


def list_tables(work: Work) -> Iterator[UserTable]:
    """The tables of users that there are."""
    files_of_all, keys = work.files, work.pipeline.keys
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
    for files in find_lists_of_users(work):
        tables += [
            UserTable("users who get lists", files.uri(files.keys.users_of_list), USER_FIELD),
            UserTable(
                "users without lists", files.uri(files.keys.users_without_lists()), "user_id"
            ),
        ]
    yield from _find_tables(work, tables)


def list_users_of_sinks(work: Work) -> Iterator[UserTable]:
    """The tables of the users that sinks have written, to know who is gone."""
    folders = [files.uri(files.keys.users_in_dynamodb()) for files in find_lists_of_users(work)]
    tables = [UserTable("users in DynamoDB", folder, "user_id") for folder in folders]
    yield from _find_tables(work, tables)


def _find_tables(work: Work, tables: Sequence[UserTable]) -> Iterator[UserTable]:
    """The tables that there are.

    tables: each at the URI of a file, or of a folder of such files.
    """
    for table in dict.fromkeys(tables):
        for info in work.storage.store.list(table.uri):
            # Another program may have put a file of its own there.
            if info.uri.endswith((".csv", ".json", ".parquet")):
                yield replace(table, uri=info.uri)


def _count_rows_of(work: Work, table: UserTable, ids: pl.Series) -> tuple[int, int]:
    """How many rows of the table are of these people, and how many it has."""
    with work.storage.local_file(table.uri) as path:
        counts = table.scan(path).select(_is_in(table.column, ids).sum(), pl.len().alias("rows"))
        return counts.collect(engine="streaming").row(0)


def count_table_rows(work: Work, ids: pl.Series) -> dict[str, int]:
    """How many rows of all tables are of these people, by what the rows are of."""
    numbers: dict[str, int] = {}
    for table in [*list_tables(work), *list_users_of_sinks(work)]:
        number, _ = _count_rows_of(work, table, ids)
        numbers[table.name] = numbers.get(table.name, 0) + number
    return numbers


def erase_from_table(work: Work, table: UserTable, ids: pl.Series) -> None:
    """Remove the people's rows. A table of which nothing is left is deleted."""
    store = work.storage.store
    number, rows = _count_rows_of(work, table, ids)
    if number and number == rows:
        store.delete(table.uri)
    elif number:
        with work.storage.local_file(table.uri) as path, temporary_folder() as folder:
            new_path = folder / "table"
            table.write(table.scan(path).filter(~_is_in(table.column, ids)), new_path)
            file = put_file(store, table.uri, new_path)
        record = load(store, table.record, AnyPreparedRecord) if table.record else None
        if table.record and record is not None:
            new = {"file": file, "version": file.version}
            save(store, table.record, record.model_copy(update=new))


def count_edition_rows(editions: Editions, ids: pl.Series) -> int:
    """How many rows of the live edition and of all kept ones are of these people."""
    live = editions.live()
    return sum(
        _count_rows_of_edition(editions, edition, ids)
        for edition in [*editions.kept(), *([live] if live else [])]
    )


def _count_rows_of_edition(editions: Editions, edition: Edition, ids: pl.Series) -> int:
    """How many rows of the edition are of these people; 0 if its file is damaged."""
    try:
        rows = editions.read_rows(edition).filter(_is_in("user_id", ids)).select(pl.len())
        return int(rows.collect(engine="streaming").item())
    except DamagedObjectError:
        # It is deleted if it is not live, and otherwise erasing says what to do.
        return 0


def erase_from_editions(editions: Editions, ids: pl.Series) -> None:
    """Remove the people's rows. The number and the version of an edition stay.

    A kept edition that is damaged is deleted: nobody can go back to it, or read it.
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
