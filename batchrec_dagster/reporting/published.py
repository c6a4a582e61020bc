"""Reads what a pipeline published. Of a large table, it reads only the parts that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import polars as pl

# pyarrow.compute is not used, because it imports pandas for a plain value.
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.file_formats import scan_interactions
from batchrec_dagster.reporting.remote_file import RemoteFile
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, ListFiles, ListKeys
from batchrec_dagster.storage.nights import Night
from batchrec_dagster.storage.objects import ObjectInfo


def list_published(storage: Storage, pipeline: str | None = None) -> list[str]:
    """The addresses of what has published lists for users: `shop`, or `shop/newsletter`.

    pipeline: the only pipeline to look in; None for all.

    Raises UserError.
    """
    root = storage.uri("")
    path = storage.store.local_path(root)
    if path is not None and not path.exists():
        # Listing the folders of the storage would create it.
        return []
    pipelines = storage.store.subfolders(root) if pipeline is None else [pipeline]
    addresses: list[str] = []
    for name in pipelines:
        lists = storage.store.subfolders(storage.uri(ListKeys(name).lists))
        names = sorted(set(lists).difference([SEGMENTS, SIMILAR_ITEMS]))
        addresses += [name, *(f"{name}/{list_name}" for list_name in names)]
    return [name for name in addresses if PublishedResults(storage, name).edition is not None]


@dataclass(frozen=True)
class PublishedResults:
    """The published results of a pipeline or of one of its lists. Every method raises
    UserError."""

    storage: Storage
    address: str
    """The pipeline's name, such as `shop`, or that of a list, such as `shop/newsletter`."""
    chosen_edition: Edition | None = None
    """The edition to read instead of the published one."""

    @property
    def files(self) -> ListFiles:
        return ListFiles(self.storage, ListKeys(self.address))

    @cached_property
    def edition(self) -> Edition | None:
        """The published table, or the chosen edition; None if there is none."""
        if self.chosen_edition is not None:
            return self.chosen_edition
        table = self.files.editions
        with _convert_read_errors(self.storage, table.uri):
            return table.live()

    def require_edition(self) -> Edition:
        """The same. Raises UserError if there is none."""
        if self.edition is None:
            name = self.address.partition("/")[0]
            raise UserError(f"{self.address} has published nothing yet: `batchrec run {name}`")
        return self.edition

    @cached_property
    def similar_items(self) -> PublishedResults | None:
        """The published lists of similar items of the same pipeline; None if there are none."""
        pipeline = self.files.keys.pipeline
        similar_items = PublishedResults(self.storage, f"{pipeline}/{SIMILAR_ITEMS}")
        return similar_items if similar_items.edition is not None else None

    @property
    def publication_time(self) -> datetime:
        """When the table was made."""
        return self.require_edition().made_at

    def read_publication(self) -> Night | None:
        """Since when the live edition is live, and why; None if nothing is."""
        return self.files.editions.record().live

    @property
    def report(self) -> ObjectInfo | None:
        return self.storage.store.head(self.storage.uri(self.files.keys.report))

    def count_rows_and_users(self) -> tuple[int, int]:
        """The numbers of rows and users in the table."""
        with self._open_table() as table:
            groups = range(table.num_row_groups)
            ranks = (table.read_row_group(group, ["rank"], use_threads=False) for group in groups)
            # Each user has one item of rank 1.
            users = sum(pl.DataFrame(rank).filter(pl.col("rank") == 1).height for rank in ranks)
            return table.metadata.num_rows, users

    def find_example_user(self) -> str | None:
        """The user of the first row; None if the table is empty."""
        with self._open_table() as table:
            for rows in table.iter_batches(1, columns=["user_id"], use_threads=False):
                return str(rows.column(0)[0])
        return None

    def read_rows(self, column: str, value: str) -> pl.DataFrame:
        """The rows of the table with this value in the column, such as `user_id`."""
        with self._open_table() as table:
            return _read_matching_rows(table, column, value)

    def read_failure(self, user: str) -> str | None:
        """The error that Personalize returned instead of the user's list; None if it did not."""
        users = self._read_users_without_lists()
        if users is None:
            return None
        errors = users.filter(user_id=user).get_column("error")
        return errors.item() if len(errors) else None

    def is_without_list(self, user: str) -> bool:
        """Whether the user was requested and has no list, as far as that is recorded."""
        users = self._read_users_without_lists()
        return users is not None and user in users.get_column("user_id")

    def _read_users_without_lists(self) -> pl.DataFrame | None:
        key = self.files.keys.users_without_lists(self.require_edition().version)
        return self.files.parquet(key, "delete it: it only says why some users have no list")

    def has_interactions(self) -> bool:
        """Whether the interactions are there, which explain the lists."""
        return self.storage.store.head(self.files.interactions) is not None

    def read_titles(self, items: Sequence[str]) -> dict[str, str | None]:
        """The titles of these items; an item that is not in the file of titles is left out."""
        uri = self.storage.uri(self.files.keys.item_titles)
        if not items or self.storage.store.head(uri) is None:
            return {}
        with self._open_parquet(uri) as table:
            titles = pl.DataFrame(table.read(["item_id", "title"], use_threads=False))
            return dict(titles.filter(pl.col("item_id").is_in(items)).rows())

    def find_titles(self, text: str) -> list[tuple[str, str]]:
        """The ids and titles of the items whose title has this text, in any case, by title.

        If no title has it, those that have all of its words.
        """
        uri = self.storage.uri(self.files.keys.item_titles)
        phrase = " ".join(text.lower().split())
        if not phrase or self.storage.store.head(uri) is None:
            return []
        with self._open_parquet(uri) as table:
            titles = pl.DataFrame(table.read(["item_id", "title"], use_threads=False))
        lowercase = pl.col("title").str.to_lowercase()
        for parts in ([phrase], phrase.split()):
            matches = titles.filter([lowercase.str.contains(part, literal=True) for part in parts])
            if matches.height:
                return matches.sort("title", "item_id").rows()
        return []

    @contextmanager
    def open_interactions(self) -> Iterator[tuple[pl.LazyFrame, int]]:
        """The interactions (see scan_interactions), and the size of their file in bytes."""
        with self.storage.local_file(self.files.interactions) as path:
            if not path.exists():
                raise UserError(f"{path} does not exist; run the pipeline's refresh job again")
            yield scan_interactions(path), path.stat().st_size

    def _open_table(self) -> AbstractContextManager[pq.ParquetFile]:
        return self._open_parquet(self.require_edition().uri)

    @contextmanager
    def _open_parquet(self, uri: str) -> Iterator[pq.ParquetFile]:
        # A thread of pyarrow that still holds a Python file when the interpreter exits may abort
        # the command (apache/arrow issue 50482). So a local path is not opened as a Python file,
        # and nothing is read with threads.
        path = self.storage.store.local_path(uri)
        with (
            _convert_read_errors(self.storage, uri),
            pa.OSFile(str(path)) if path is not None else RemoteFile(self.storage, uri) as file,
            pq.ParquetFile(file) as table,
        ):
            yield table


@contextmanager
def _convert_read_errors(storage: Storage, uri: str) -> Iterator[None]:
    """A block in which errors of reading the object become UserError."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"cannot read {storage.where(uri)}: {error}") from error


def _read_matching_rows(table: pq.ParquetFile, column: str, value: str) -> pl.DataFrame:
    """The rows with this value in the column.

    A row group is read only if its statistics allow the value, and all its columns only if the
    column has it.
    """
    column_index = table.schema_arrow.get_field_index(column)
    tables = [pl.DataFrame(table.schema_arrow.empty_table())]
    for group in range(table.num_row_groups):
        statistics = table.metadata.row_group(group).column(column_index).statistics
        if (
            statistics is not None
            and statistics.has_min_max
            and not statistics.min <= value <= statistics.max
        ):
            continue
        ids = pl.DataFrame(table.read_row_group(group, [column], use_threads=False))
        if value in ids.get_column(column):
            rows = pl.DataFrame(table.read_row_group(group, use_threads=False))
            tables.append(rows.filter(pl.col(column) == value))
    return pl.concat(tables)
