"""Erases users from imported data, and reads the file that lists them."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH, USER_ID

from ..errors import JobFailedError
from .datasets import ROWS, save_interactions


def read_users(data: bytes, name: str) -> set[str]:
    """Return the ids in a CSV file with the one column USER_ID.

    name: what messages call the file. They quote no ids, because the catalog would keep them.

    Raises JobFailedError if it is another file.
    """
    try:
        rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        if next(rows, None) != [USER_ID]:
            raise JobFailedError(f"{name}, line 1: the file must have the one column {USER_ID}.")
        users = set()
        for row in rows:
            if not row:
                continue
            if len(row) > 1:
                raise JobFailedError(
                    f"{name}, line {rows.line_num}: {len(row)} fields, but the header has 1."
                )
            if not 0 < len(row[0]) <= MAX_ID_LENGTH:
                raise JobFailedError(
                    f"{name}, line {rows.line_num}: an id must have 1 to {MAX_ID_LENGTH}"
                    " characters."
                )
            users.add(row[0])
    except UnicodeDecodeError:
        raise JobFailedError(f"{name} is not encoded in UTF-8.") from None
    except csv.Error as error:
        raise JobFailedError(f"{name} cannot be read as CSV: {error}.") from None
    return users


def copy_without_users(
    source: Path, target: Path, users: Collection[str], *, is_interactions: bool
) -> int:
    """Copy an import without the rows of the users, and return how many rows they had.

    If they had none, nothing is copied. Other rows keep their order.

    source: the folder of the import.
    target: an empty folder.
    is_interactions: whether the rows are interactions, which are saved as arrays too.
    """
    rows = pl.scan_parquet(str(source / ROWS), glob=False)
    columns = [name for name in rows.collect_schema().names() if name.upper() == USER_ID]
    if not columns:
        return 0
    is_erased = pl.col(columns[0]).is_in(pl.Series(list(users), dtype=pl.String).implode())
    count = int(rows.select(is_erased.sum()).collect(engine="streaming").item())
    if count:
        rows.filter(~is_erased).sink_parquet(target / ROWS)
        if is_interactions:
            save_interactions(target)
    return count
