"""The stored table of requested users who have no list in an edition, with reasons if known."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.files import ListFiles


def keep_users_without_lists(
    files: ListFiles, version: str, requested: pl.Series, table: Path, failed: pl.DataFrame
) -> None:
    """Store the requested users who have no rows in an edition's table, with the error if known.

    The outcomes of an experiment count these users too, and `batchrec show` shows the error. The
    file is deleted together with the edition.

    version: the version of the edition.
    requested: the ids of all users who should have a list.
    table: the file of the edition's table.
    failed: the users that Personalize returned an error for: the columns subject and error.

    Raises UserError.
    """
    listed = pl.scan_parquet(table, glob=False).filter(rank=1).select("user_id")
    without = (
        pl.LazyFrame({"user_id": requested})
        .join(listed, on="user_id", how="anti")
        .join(failed.lazy().rename({"subject": "user_id"}), on="user_id", how="left")
        .sort("user_id")
    )
    key = files.keys.users_without_lists(version)
    files.write_parquet(key, without.collect(engine="streaming"))


def read_users_without_lists(files: ListFiles, edition: Edition) -> pl.Series:
    """Read the ids of the requested users without rows in an edition; empty if none are stored.

    Raises UserError.
    """
    fix = "delete it: then the users without lists do not count in this edition's outcomes"
    users = files.read_parquet(files.keys.users_without_lists(edition.version), fix)
    if users is None:
        return pl.Series("user_id", [], pl.String)
    return users.get_column("user_id")
