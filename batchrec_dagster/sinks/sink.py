"""What a sink is, and the table of lists as sinks read it.

The table comes as a LazyFrame. Its columns are user_id, rank (1 is the best), item_id, those of
recommendations.columns (by default the title, where there are titles), score and, in an experiment,
the user's arm. They may be other ones in the next edition. Every user's rows stand together, in
order of rank. In lists of similar items, item_id and similar_item_id stand in the place of user_id
and item_id: `storage/list_subjects.py` says which.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict

from batchrec_dagster.errors import Retry
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.list_subjects import USERS, ListSubject, find_subject

BATCH_ROWS = 100_000


@dataclass(frozen=True)
class SinkContext:
    """Whose lists a sink has, and where it runs."""

    address: str
    """The pipeline's name, or the address of one of its lists, such as `shop/newsletter`."""
    storage: Storage
    project: Path
    """The project's folder, at which relative paths start."""
    run_id: str = ""
    """The id of Dagster's run; empty outside of runs."""
    subject: ListSubject = USERS
    """Whether users have the lists, or items."""


@dataclass(frozen=True)
class SinkDescription:
    """A sink in words."""

    text: str
    """The description of its asset."""
    kind: str
    """The kind of its asset, which Dagster shows as an icon."""
    place: str | None
    """The setting that says where it writes, with its value: no two pipelines may share it.

    None if it writes into the pipeline's own storage.
    """
    removal: str | None
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
    """How much the table of lists holds."""

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
    remains: str | None = None
    """What the place keeps of the lists that were replaced, and what to do; None if nothing."""


class Sink(BaseModel):
    """The settings of a place that people read the lists from, and what writes there.

    A sink reads the table in batches, so that its memory does not grow with the table. It leaves
    the old lists in place until the new ones are complete, and removes users who are gone. So to
    erase people is to write the lists again without them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset: ClassVar[str]
    """The name of its asset."""

    @abstractmethod
    def describe(self, project: Path) -> SinkDescription:
        """The sink in words.

        project: the folder at which relative paths start.
        """

    @abstractmethod
    def check(self, context: SinkContext) -> SinkCheck:
        """Try what writing needs, and leave nothing behind. Raises UserError if that fails."""

    @abstractmethod
    def has_lists(self, context: SinkContext) -> bool:
        """Whether the place is there and has lists of this address. Raises as `write`."""

    @abstractmethod
    def write(self, lists: pl.LazyFrame, context: SinkContext) -> SinkResult:
        """Replace the lists in this place.

        Raises UserError, or Retry if a retry may work.
        """


def count_lists(lists: pl.LazyFrame) -> SinkCounts:
    """Counts over the whole table. Of similar items, the items that have a list are its users."""
    rank = pl.col("rank")
    # Each user has one item of rank 1.
    totals = lists.select(pl.len(), first=(rank == 1).sum(), longest=rank.max().fill_null(0))
    return SinkCounts(*totals.collect(engine="streaming").row(0))


def require_written(expected: int, written: int, unit: str, where: str) -> None:
    """Raise Retry unless as many rows or users were written as the table holds.

    If the numbers differ, most likely new lists were published meanwhile.
    """
    if written != expected:
        raise Retry(
            f"{written:,} {unit} were written to {where}, but there are {expected:,}: run it again"
        )


def iterate_batches(lists: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in order, in tables of BATCH_ROWS rows."""
    for batch in lists.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
        if batch.height:
            yield batch


def group_by_user(lists: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Tables with a row for each user.

    The columns are user_id (item_id of similar items), arm (in an experiment) and items: a list of
    structs of the other columns, best first. At least one table comes, so that even of an empty one
    the columns are known.
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
