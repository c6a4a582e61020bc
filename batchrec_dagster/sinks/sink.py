"""The base class of sinks, and the table of lists as sinks read it.

The table is a LazyFrame. Its columns are user_id, rank (1 is the best), item_id, the columns in
recommendations.columns (by default the title, if there are titles), score and, in an experiment,
the user's arm. The next edition may have other columns. The rows of a user stand together, in order
of rank. Lists of similar items have the columns item_id and similar_item_id in place of user_id and
item_id: see `editions/subjects.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict

from batchrec_dagster.editions.subjects import USERS, ListSubject, find_subject
from batchrec_dagster.errors import Retry
from batchrec_dagster.storage.connection import Storage

BATCH_ROWS = 100_000


@dataclass(frozen=True)
class SinkContext:
    """The address of a sink's lists, and the storage, the project and the run of the sink."""

    address: str
    """The pipeline's name, or the address of a list of the pipeline, such as `shop/newsletter`."""
    storage: Storage
    project: Path
    """The project's folder, which relative paths start from."""
    run_id: str = ""
    """The id of Dagster's run; empty outside of runs."""
    subject: ListSubject = USERS
    """The subject of the lists: users or items."""


@dataclass(frozen=True)
class SinkDescription:
    """The description of a sink."""

    text: str
    """The description of the sink's asset."""
    kind: str
    """The kind of the sink's asset, which Dagster shows as an icon."""
    place: str | None
    """The setting for the place that the sink writes to, with its value.

    No two pipelines may share this place. None if the sink writes into the pipeline's own storage.
    """
    removal: str | None
    """A text that names the data that the sink writes, and says how its owner removes the data.

    None if the data is removed with the pipeline's storage.
    """
    secret: str | None = None
    """The environment variable with a value that no message may repeat."""


@dataclass(frozen=True)
class SinkCheck:
    """The result of a check of a sink."""

    message: str
    """The place that the sink can write to, or a problem that does not stop the sink."""
    fix: str | None = None
    """The fix of the problem; None if there is no problem."""


class SinkCounts(NamedTuple):
    """The size of the table of lists."""

    rows: int
    users: int
    longest: int
    """The number of items in the longest list."""


@dataclass(frozen=True)
class SinkResult:
    """The result of writing the lists."""

    counts: SinkCounts
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further metadata of the sink's asset."""
    warning: str | None = None
    remains: str | None = None
    """The data of replaced lists that stays in the place, and the fix; None if none stays."""


class Sink(BaseModel):
    """The settings of a place that people read the lists from, and the methods that write there.

    A sink reads the table in batches, so its memory does not grow with the table. It leaves the old
    lists in place until the new lists are complete, and removes users who are gone. So writing the
    lists again without some people erases these people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset: ClassVar[str]
    """The name of the sink's asset."""

    @abstractmethod
    def describe(self, project: Path) -> SinkDescription:
        """Return the description of the sink.

        project: the folder that relative paths start from.
        """

    @abstractmethod
    def check(self, context: SinkContext) -> SinkCheck:
        """Check that the sink can write, and leave nothing behind.

        Raises UserError if the sink cannot write. The result has a fix if the sink can write, but
        something else is wrong, such as a time to live that is off.
        """

    @abstractmethod
    def has_lists(self, context: SinkContext) -> bool:
        """Return whether the place exists and has lists of this address.

        Raises the same errors as `write`.
        """

    @abstractmethod
    def write(self, lists: pl.LazyFrame, context: SinkContext) -> SinkResult:
        """Replace the lists in this place.

        Raises UserError, or Retry if a retry may work.
        """


def count_lists(lists: pl.LazyFrame) -> SinkCounts:
    """Return the counts over the whole table.

    In lists of similar items, the items that have a list are counted as users.
    """
    rank = pl.col("rank")
    # Each user has one item of rank 1.
    totals = lists.select(pl.len(), first=(rank == 1).sum(), longest=rank.max().fill_null(0))
    return SinkCounts(*totals.collect(engine="streaming").row(0))


def require_written(expected: int, written: int, unit: str, where: str) -> None:
    """Raise Retry unless the sink wrote as many rows or users as the table holds.

    If the numbers differ, most likely new lists were published meanwhile.
    """
    if written != expected:
        raise Retry(
            f"{written:,} {unit} were written to {where}, but there are {expected:,}: run it again"
        )


def iterate_batches(lists: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows in order, in tables of about BATCH_ROWS rows. No table is empty."""
    for batch in lists.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
        if batch.height:
            yield batch


def group_by_user(lists: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Yield tables with a row for each user.

    The columns are user_id (item_id in lists of similar items), arm (in an experiment) and items.
    An items cell is a list of structs of the other columns, best item first. At least one table is
    yielded, so that the columns are known even if there are no rows.
    """
    key = find_subject(lists.collect_schema().names()).column
    # The last user's rows may continue in the next batch.
    open_user = lists.head(0).collect()
    for batch in iterate_batches(lists):
        rows = pl.concat([open_user, batch])
        is_last_user = pl.col(key) == rows.get_column(key)[-1]
        open_user = rows.filter(is_last_user)
        yield _collect_items(rows.filter(~is_last_user), key)
    yield _collect_items(open_user, key)


def _collect_items(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    user_columns = [name for name in (key, "arm") if name in rows.columns]
    return rows.group_by(user_columns, maintain_order=True).agg(
        items=pl.struct(pl.exclude(user_columns))
    )
