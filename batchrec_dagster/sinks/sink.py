"""What a sink is, and the table of recommendations as sinks read it.

The table comes as a LazyFrame. Its columns are user_id, rank (1 is the best), item_id, those of
recommendations.columns (by default the title, where there are titles), score and, in an experiment,
the user's arm. They may be other ones in the next edition. Every user's rows stand together, in
order of rank. In lists of similar items, item_id and similar_item_id stand in the place of user_id
and item_id: `storage/list_subjects.py` says which.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import polars as pl

from batchrec_dagster.errors import Retry
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.list_subjects import find_subject

BATCH_ROWS = 100_000


@dataclass(frozen=True)
class SinkContext:
    """What a sink knows of the deployment."""

    pipeline: str
    """The pipeline's name, or the address of one of its lists, such as `shop/newsletter`."""
    storage: StorageResource
    project: Path
    """The project's folder, at which relative paths start."""
    environment: Mapping[str, str]
    run_id: str = ""
    """The id of Dagster's run, or nothing where `batchrec check` looks at the sink."""


@dataclass(frozen=True)
class SinkDescription:
    """A sink in words."""

    text: str
    """The description of its asset."""
    kind: str
    """The kind of its asset, which Dagster shows as an icon."""
    place: str | None = None
    """The setting that says where it writes, with its value: no two pipelines may share it.

    None if it writes into the pipeline's own storage.
    """
    removal: str | None = None
    """How its owner removes what it wrote; None if that goes with the pipeline's storage."""
    secret: str | None = None
    """The environment variable whose value no message may repeat."""


@dataclass(frozen=True)
class SinkCheck:
    """What a check of a sink found out."""

    message: str
    """What the sink can write to, or what is to be fixed."""
    fix: str | None = None
    """What to do; None if nothing is to be fixed."""


class SinkCounts(NamedTuple):
    """How much the table of recommendations holds."""

    rows: int
    users: int
    longest: int
    """The number of items in the longest list."""


@dataclass(frozen=True)
class SinkResult:
    """What was written."""

    counts: SinkCounts
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further metadata of the sink's asset."""
    warning: str | None = None


class Sink(Protocol):
    """A place that people read the lists from.

    A sink reads the table in batches, so that its memory does not grow with the table. It leaves
    the old lists in place until the new ones are complete, removes users who are gone, and counts
    afterwards.
    """

    asset: ClassVar[str]
    """The name of its asset."""

    def describe(self, project: Path) -> SinkDescription: ...

    def check(self, context: SinkContext) -> SinkCheck:
        """Try what writing needs, and leave nothing behind. Raises UserError if that fails."""

    def write(self, lists: pl.LazyFrame, context: SinkContext) -> SinkResult:
        """Replace the lists in this place.

        Raises UserError, or Retry if a retry may work.
        """

    def count_users(self, users: Collection[str], context: SinkContext) -> int:
        """How many of these users the place has; 0 if it does not exist. Raises as `write`."""

    def erase_users(self, users: Collection[str], context: SinkContext) -> int:
        """Erase these users from the place, and return how many it had. Raises as `write`."""


def count_lists(frame: pl.LazyFrame) -> SinkCounts:
    """Counts over the whole table. Of similar items, the items that have a list are its users."""
    rank = pl.col("rank")
    # Each user has one item of rank 1.
    totals = frame.select(pl.len(), first=(rank == 1).sum(), longest=rank.max().fill_null(0))
    return SinkCounts(*totals.collect(engine="streaming").row(0))


def require_equal_counts(
    expected: SinkCounts, *, rows: int | None = None, users: int, where: str
) -> None:
    """Raise Retry unless as much was written as the table holds.

    If the numbers differ, most likely new lists were published meanwhile.
    `rows` is None if only users can be counted. `where` names the place for the message.
    """
    if users != expected.users or (rows is not None and rows != expected.rows):
        written = f"{users:,} users" + ("" if rows is None else f" and {rows:,} rows")
        raise Retry(
            f"{written} were written to {where}, but there are {expected.users:,} users and"
            f" {expected.rows:,} rows: run it again"
        )


def iterate_batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in order, in tables of BATCH_ROWS rows."""
    for batch in frame.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
        if batch.height:
            yield batch


def group_by_user(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Tables with a row for each user.

    The columns are user_id (item_id of similar items), arm (in an experiment) and items: a list of
    structs of the other columns, best first. At least one table comes, so that even of an empty one
    the columns are known.
    """
    # The last user's rows may continue in the next batch.
    open_user: pl.DataFrame | None = None
    key = find_subject(frame.collect_schema().names()).column
    for batch in iterate_batches(frame):
        rows = batch if open_user is None else pl.concat([open_user, batch])
        is_last_user = pl.col(key) == rows.get_column(key)[-1]
        open_user = rows.filter(is_last_user)
        yield _collect_items(rows.filter(~is_last_user))
    yield _collect_items(frame.head(0).collect() if open_user is None else open_user)


def _collect_items(rows: pl.DataFrame) -> pl.DataFrame:
    key = find_subject(rows.columns).column
    user_columns = [name for name in (key, "arm") if name in rows.columns]
    return rows.group_by(user_columns, maintain_order=True).agg(
        items=pl.struct(pl.exclude(user_columns))
    )
