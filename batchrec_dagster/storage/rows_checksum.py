"""A checksum of the rows of published lists, by which equal lists are recognised."""

from __future__ import annotations

import hashlib
from typing import IO

import polars as pl

from batchrec_dagster.storage.list_subjects import find_subject

# This many rows are in memory at a time.
ROWS_AT_ONCE = 100_000
_DIGEST_BYTES = 16
NOBODY = pl.Series("user_id", [], pl.String)


def compute_rows_checksum(file: IO[bytes], without: pl.Series = NOBODY) -> str:
    """A checksum of the users, ranks and items in a file that `TableWriter` wrote.

    In a table of similar items, the items that have a list stand in the place of the users.

    without: the ids of users whose rows do not count.

    It does not depend on the order of the users, nor on scores, titles and metadata. The rows of a
    user are next to each other. Raises OSError, ValueError and pa.ArrowException, which is one of
    these, for a file that is no Parquet file.
    """
    import pyarrow.parquet as pq

    total, rows_left = 0, None
    table = pq.ParquetFile(file)
    subject = find_subject(table.schema_arrow.names)
    names = (subject.column, "rank", subject.item_column)
    columns = [name for name in names if name in table.schema_arrow.names]
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
        rows = pl.DataFrame(batch).select(columns).rename({subject.column: "user_id"})
        if len(without):
            rows = rows.filter(~pl.col("user_id").is_in(without.implode()))
        rows = rows if rows_left is None else pl.concat([rows_left, rows])
        if not rows.height:
            continue
        # The last user's list may go on in the next batch.
        is_last_user = rows.get_column("user_id") == rows.get_column("user_id")[-1]
        rows_left = rows.filter(is_last_user)
        total += _sum_digests(rows.filter(~is_last_user))
    if rows_left is not None:
        total += _sum_digests(rows_left)
    return f"{total % 2 ** (8 * _DIGEST_BYTES):0{2 * _DIGEST_BYTES}x}"


def _sum_digests(rows: pl.DataFrame) -> int:
    """The sum of a digest for each user, which is the same in any order of the users."""
    entries = [pl.col(name).cast(pl.String) for name in rows.columns if name != "user_id"]
    lists = rows.group_by("user_id").agg(
        pl.concat_str([*entries, pl.lit("")], separator="\0").str.join("\0").alias("list")
    )
    return sum(
        int.from_bytes(
            hashlib.blake2b(f"{user}\0{items}".encode(), digest_size=_DIGEST_BYTES).digest()
        )
        for user, items in lists.iter_rows()
    )
