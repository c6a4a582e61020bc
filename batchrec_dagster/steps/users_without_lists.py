"""Which of the requested users an edition has no rows of, and why if that is known."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles


def keep_users_without_lists(
    files: ListFiles, version: str, requested: pl.Series, table: Path, failed: pl.DataFrame
) -> None:
    """Store which of the requested users have no rows in an edition's table, and why if known.

    The outcomes of an experiment count them too, and `batchrec show` says why. The published table
    deletes the file with the edition.

    version: the edition's.
    requested: the ids of all users who were to have a list.
    table: the file of the edition's table.
    failed: the columns subject and error, of the users whom Personalize returned an error for.
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
    """The ids of the requested users without rows in an experiment's edition. Raises
    UserError."""
    fix = "delete it: then the users without lists do not count in this edition's outcomes"
    users = files.read_parquet(files.keys.users_without_lists(edition.version), fix)
    if users is None:
        return pl.Series("user_id", [], pl.String)
    return users.get_column("user_id")
