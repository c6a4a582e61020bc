"""The published tables, and the tables in which a person or an item is looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import polars as pl

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS, ListKeys


def find_published(storage: Storage, pipeline: str | None = None) -> list[ListFiles]:
    """Return the files of each published list for users.

    Lists of similar items and of segments are not included.

    pipeline: the only pipeline to look in; None for all pipelines.

    Raises UserError.
    """
    root = storage.uri("")
    path = storage.store.local_path(root)
    if path is not None and not path.exists():
        # Listing the folders of the storage would create the storage.
        return []
    pipelines = storage.store.subfolders(root) if pipeline is None else [pipeline]
    addresses: list[str] = []
    for name in pipelines:
        lists = storage.store.subfolders(storage.uri(ListKeys(name).lists))
        names = sorted(set(lists).difference([SEGMENTS, SIMILAR_ITEMS]))
        addresses += [name, *(f"{name}/{list_name}" for list_name in names)]
    all_files = [ListFiles(storage, ListKeys(address)) for address in addresses]
    return [files for files in all_files if files.editions.live() is not None]


def find_similar_items(files: ListFiles) -> ListFiles:
    """Return the files of the pipeline's list of similar items, which may not be published."""
    return ListFiles(files.storage, ListKeys(f"{files.keys.pipeline}/{SIMILAR_ITEMS}"))


def read_rows(files: ListFiles, edition: Edition, column: str, value: str) -> pl.DataFrame:
    """Return the rows of the edition with this value in the column, by rank.

    Raises UserError.
    """
    rows = files.editions.read_rows(edition).filter(pl.col(column) == value)
    return rows.collect(engine="streaming").sort("rank", maintain_order=True)


def read_users_with_lists(lists: pl.LazyFrame) -> pl.Series:
    """Return the ids of the users with a list, in any order.

    lists: the rows of the lists, with user_id and rank.
    """
    # Each list has one item of rank 1.
    users = lists.filter(pl.col("rank") == 1).select("user_id")
    return users.collect(engine="streaming").to_series()


def scan_titles(files: ListFiles) -> pl.LazyFrame:
    """Return the columns item_id and title of the items.

    There are no rows if the pipeline declares no titles. Raises UserError.
    """
    uri = files.uri(files.keys.item_titles)
    if files.storage.store.head(uri) is None:
        return pl.LazyFrame(schema={"item_id": pl.String, "title": pl.String})
    with files.storage.store.open(uri) as file:
        return pl.scan_parquet(file).select("item_id", "title")


def read_titles(files: ListFiles, items: Iterable[str | None]) -> dict[str, str | None]:
    """Return the titles of these items by id, as far as the items have titles.

    Raises UserError.
    """
    ids = pl.Series([*items], dtype=pl.String)
    titles = scan_titles(files).filter(pl.col("item_id").is_in(ids.implode()))
    return dict(titles.collect(engine="streaming").iter_rows())


@contextmanager
def open_interactions(files: ListFiles) -> Iterator[pl.LazyFrame | None]:
    """Yield the interactions as `scan_interactions` returns them; None if they are gone.

    Raises UserError.
    """
    if files.storage.store.head(files.interactions) is None:
        yield None
        return
    with files.storage.local_file(files.interactions) as path:
        yield scan_interactions(path)
