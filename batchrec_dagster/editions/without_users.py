"""Reduced files of an edition, without users who are gone or items that are not sold.

The edition keeps its number and its version. Its footer gets the number of users who lost their
list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.list_file import ListWriter, rewrite
from batchrec_dagster.editions.subjects import SEGMENTS
from batchrec_dagster.storage.durable import temporary_folder


def drop_users(editions: Editions, edition: Edition, users: pl.Series) -> int:
    """Remove these users' rows from the edition's file, and return the number of users with rows.

    If none of the users has a row, the file stays as it is.

    edition: the live edition or a kept one. Only the file at its URI changes: if the live edition
        is also kept, the other file stays.
    users: the ids. Ids without rows are allowed.
    The caller must hold the list's lock. Without the lock, another run could replace the file
    meanwhile.
    Raises UserError, and DamagedObjectError if the edition's file is damaged.
    """
    is_dropped = pl.col("user_id").is_in(users.cast(pl.String).implode())
    rows = editions.read_rows(edition).filter(is_dropped)
    dropped = rows.select(pl.col("user_id").n_unique()).collect(engine="streaming").item()
    if dropped:
        with temporary_folder() as folder:
            path = folder / "lists.parquet"
            write_without(editions, edition, ~is_dropped, path)
            editions.store.put(edition.uri, path)
    return int(dropped)


def write_without(
    editions: Editions, edition: Edition, is_kept: pl.Expr, path: Path, **facts: Any
) -> Edition:
    """Write the kept rows of the edition to another file.

    The items of a list get new ranks without gaps. The users of a segment keep their ranks.

    facts: new values for fields of the edition.
    Returns the edition that is in the footer of the new file. Raises UserError.
    """
    subject = edition.columns.column
    before = after = 0

    def choose_rows(rows: pl.DataFrame) -> pl.DataFrame:
        nonlocal before, after
        kept = rows.filter(is_kept)
        before += rows.get_column(subject).n_unique()
        after += kept.get_column(subject).n_unique()
        if edition.columns is SEGMENTS:
            return kept
        rank = pl.int_range(1, pl.len() + 1).over(subject)
        return kept.with_columns(rank.cast(rows.schema["rank"]).alias("rank"))

    with editions.open(edition) as file, ListWriter(path) as writer:
        rewrite(file, writer, subject, choose_rows)
        if edition.users is not None:
            facts["users_dropped"] = edition.users_dropped + before - after
        reduced = edition.model_copy(update=facts)
        writer.finish(reduced)
    return reduced
