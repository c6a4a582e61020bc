"""Places whose files have a row or a line for each person: these rows are removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.personalize.file_formats import USER_FIELD
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles, PipelineFiles
from batchrec_dagster.storage.list_file import FOOTER_KEY, ListWriter, read_footer

# This many rows are in memory at a time.
ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class ImportedRows:
    """A CSV file that Personalize imports, with a column USER_ID."""

    files: PipelineFiles
    name: str
    key: str
    """The file's key in the storage."""
    trains_again: bool = True
    """Whether the next refresh trains again because the data have changed."""

    @property
    def consequence(self) -> str:
        and_trains = " and trains" if self.trains_again else ""
        return f"rows removed; the next refresh imports{and_trains} again"

    def count(self, people: People) -> Amount:
        return Amount(self._count(people), "rows")

    def erase(self, people: People) -> int:
        number = self._count(people)
        if number:
            storage, uri = self.files.storage, self.files.uri(self.key)
            with storage.local_file(uri) as path, temporary_folder() as folder:
                # As text, so that the other rows stay as they are.
                rows = pl.scan_csv(path, infer_schema=False, glob=False)
                rows.filter(~people.are_in(USER_ID)).sink_csv(folder / "rows.csv")
                storage.store.put(uri, folder / "rows.csv")
        return number

    def _count(self, people: People) -> int:
        storage, uri = self.files.storage, self.files.uri(self.key)
        if storage.store.head(uri) is None:
            return 0
        with storage.local_file(uri) as path:
            users = pl.scan_csv(path, infer_schema=False, glob=False).select(USER_ID)
            rows = users.filter(people.are_in(USER_ID)).select(pl.len())
            return int(rows.collect(engine="streaming").item())


def make_imported_places(files: PipelineFiles, *, trains_again: bool) -> list[ImportedRows]:
    """The places of the files that Personalize imports and that have users."""
    keys = files.keys
    return [
        ImportedRows(files, "interactions", keys.interactions, trains_again),
        ImportedRows(files, "attributes of users", keys.users, trains_again),
    ]


@dataclass(frozen=True)
class BatchUserLines:
    """The users of batch inference jobs, as JSON Lines: all of them, and those of each arm."""

    files: ListFiles
    name: str = "users who get lists"
    consequence: str = "lines removed"

    def count(self, people: People) -> Amount:
        counts = (lines.filter(people.are_in(USER_FIELD)).height for _, lines in self._read_files())
        return Amount(sum(counts), "lines")

    def erase(self, people: People) -> int:
        store, removed = self.files.storage.store, 0
        for uri, lines in self._read_files():
            remaining = lines.filter(~people.are_in(USER_FIELD))
            if not remaining.height:
                store.delete(uri)
            elif remaining.height < lines.height:
                store.put(uri, remaining.write_ndjson().encode())
            removed += lines.height - remaining.height
        return removed

    def _read_files(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """The URI and the lines of each file."""
        store, keys = self.files.storage.store, self.files.keys
        arms = store.subfolders(self.files.uri(keys.all_arm_users))
        users = [keys.users_of_list, *(keys.arm_users(arm) for arm in arms)]
        for uri in map(self.files.uri, users):
            content = store.get(uri) if store.head(uri) is not None else b""
            if content.strip():
                yield uri, pl.read_ndjson(content)


@dataclass(frozen=True)
class ParquetRows:
    """Parquet files with a column of users, in the storage."""

    name: str
    storage: Storage
    prefix: str
    """The URI of the file, or of a folder of files, which ends in a slash."""
    column: str = "user_id"
    consequence: str = "rows removed"

    def count(self, people: People) -> Amount:
        numbers = [self._count(uri, people) for uri in self._list()]
        return Amount(sum(numbers), "rows")

    def erase(self, people: People) -> int:
        return sum(self._erase(uri, people) for uri in self._list())

    def _list(self) -> list[str]:
        uris = [info.uri for info in self.storage.store.list(self.prefix)]
        return [uri for uri in uris if uri.endswith(".parquet")]

    def _count(self, uri: str, people: People) -> int:
        with self.storage.local_file(uri) as path:
            rows = pl.scan_parquet(path, glob=False).filter(people.are_in(self.column))
            return int(rows.select(pl.len()).collect(engine="streaming").item())

    def _erase(self, uri: str, people: People) -> int:
        with self.storage.local_file(uri) as path, temporary_folder() as folder:
            new = folder / "table.parquet"
            number = _copy_without(path, new, self.column, people)
            if number:
                self.storage.store.put(uri, new)
        return number


def _copy_without(source: Path, target: Path, column: str, people: People) -> int:
    """Copy a table without the people's rows, and return how many rows these were.

    A table that `ListWriter` wrote keeps its metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(source)
    number = 0

    def iterate_rows() -> Iterator[pa.Table]:
        nonlocal number
        yield pa.Table.from_batches([], table.schema_arrow)
        for batch in table.iter_batches(ROWS_AT_ONCE):
            ids = pl.Series(column, batch.column(column)).to_frame()
            is_kept = ids.select(~people.are_in(column)).to_series()
            number += int((~is_kept).sum())
            yield pa.Table.from_batches([batch]).filter(is_kept.to_arrow())

    if FOOTER_KEY.encode() in (table.metadata.metadata or {}):
        with ListWriter(target) as writer:
            for rows in iterate_rows():
                writer.write(rows.replace_schema_metadata(None))
            writer.finish(read_footer(source, Edition))
    else:
        with pq.ParquetWriter(target, table.schema_arrow, compression="zstd") as plain_writer:
            for rows in iterate_rows():
                plain_writer.write_table(rows)
    return number
