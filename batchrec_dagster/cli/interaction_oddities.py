"""What is odd in the interactions that `batchrec new` made of a file, and may not be meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.file_formats import choose_csv_types
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID

# With fewer different ids, one may well have a tenth of the rows.
LEAST_IDS = 30
# An id with a larger share of the rows may stand for no user or item in particular.
LARGEST_SHARE = 0.1
# A smaller share of repeated rows is ordinary, such as a double click.
LEAST_REPEATED_SHARE = 0.01


def count_repeated_rows(path: Path, columns: list[str]) -> int:
    """How many rows of a file of interactions are equal to an earlier one.

    columns: all columns of the file.
    """
    rows = pl.scan_csv(path, schema=choose_csv_types(columns), glob=False)
    # The hashes of rows need a fraction of the rows' memory.
    counts = rows.select(pl.struct(columns).hash().alias("row")).select(
        pl.len().alias("all"), pl.col("row").n_unique().alias("different")
    )
    row = counts.collect(engine="streaming").row(0)
    return int(row[0] - row[1])


def describe_repeated_rows(repeated: int, rows: int) -> Iterator[str]:
    """The warning that rows repeat others; none for a few."""
    if repeated > LEAST_REPEATED_SHARE * rows:
        yield (
            f"{repeated:,} of {rows:,} rows repeat another one, as in exports that overlap. If each"
            " happened once, set interactions.duplicates: drop"
        )


def describe_frequent_ids(path: Path, columns: list[str]) -> Iterator[str]:
    """A warning for a user and an item that has too large a share of the rows.

    columns: all columns of the file.
    """
    rows = pl.scan_csv(path, schema=choose_csv_types(columns), glob=False)
    for word, column in (("user", USER_ID), ("item", ITEM_ID)):
        counts = rows.group_by(column).len().collect(engine="streaming")
        total = int(counts.get_column("len").sum())
        if len(counts) < LEAST_IDS:
            continue
        name, most = counts.sort("len", column, descending=[True, False]).row(0)
        if most > LARGEST_SHARE * total:
            yield (
                f"{word} {name!r} has {most:,} of {total:,} rows. If it stands for no {word} in"
                f" particular, drop its rows: --null-value {name} --on-bad-rows skip"
            )


def describe_similar_ids(word: str, ids: pl.Series) -> Iterator[str]:
    """The warning that ids differ only in case or in blanks around them; none if there are none.

    word: what the ids are of.
    """
    simple = pl.col("id").str.strip_chars().str.to_lowercase()
    groups = (
        pl.DataFrame({"id": ids})
        .lazy()
        .group_by(simple.alias("simple"))
        .agg(pl.col("id").sort())
        .filter(pl.col("id").list.len() > 1)
        .sort("simple")
        .collect()
    )
    if not groups.height:
        return
    first, second, *_ = groups.item(0, "id")
    count = int(groups.select(pl.col("id").list.len().sum()).item())
    yield (
        f"{count:,} {word} ids differ from another only in case or blanks, such as {first!r} and"
        f" {second!r}, and count as different. A ratings.query with lower(trim(…)) makes them one"
    )
