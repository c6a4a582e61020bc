"""What a sink is, and the table of recommendations as sinks read it.

The table comes as a LazyFrame of user_id, rank (1 is the best), item_id, title (where there are
titles), score and, in an experiment, the user's arm, with every user's rows together in order of
rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import polars as pl

from batchrec_dagster.storage.resource import StorageResource

BATCH_ROWS = 100_000


class SinkError(Exception):
    """The lists cannot be written as declared; the message says why and what to do."""


class SinkUnavailableError(SinkError):
    """The lists cannot be written now; a retry may work."""


@dataclass(frozen=True)
class SinkContext:
    """What a sink knows of the deployment; relative paths start at `project`."""

    pipeline: str
    storage: StorageResource
    project: Path
    environment: Mapping[str, str]
    run_id: str = ""


@dataclass(frozen=True)
class SinkDescription:
    """A sink in words.

    `place` is the setting that says where it writes, with its value: no two pipelines may share it.
    None where it writes into the pipeline's own storage. `removal` says how its owner removes what
    it wrote. `secret` is the environment variable that no message may repeat.
    """

    text: str
    kind: str
    place: str | None = None
    removal: str | None = None
    secret: str | None = None


@dataclass(frozen=True)
class SinkCheck:
    """What a sink can be written to, or a warning with its fix."""

    message: str
    fix: str | None = None


class SinkCounts(NamedTuple):
    """Rows, users, and the length of the longest list."""

    rows: int
    users: int
    longest: int


@dataclass(frozen=True)
class SinkResult:
    """What was written, facts for the metadata, and a warning if there is one."""

    counts: SinkCounts
    facts: Mapping[str, Any] = field(default_factory=dict)
    warning: str | None = None


class Sink(Protocol):
    """One place that people read the lists from. It reads the table in batches, so that its memory
    does not grow with it, leaves the old lists in place until the new ones are whole, removes users
    who are gone, and counts afterwards."""

    asset: ClassVar[str]
    """The name of its asset."""

    def describe(self, project: Path) -> SinkDescription: ...

    def check(self, context: SinkContext) -> SinkCheck:
        """Try what writing takes, and leave nothing behind. Raises SinkError."""

    def write(self, lists: pl.LazyFrame, context: SinkContext) -> SinkResult:
        """Replace what is there by these lists. Raises SinkError, SinkUnavailableError."""


def count_lists(frame: pl.LazyFrame) -> SinkCounts:
    """Counts of the whole table; each user has one item of rank 1."""
    rank = pl.col("rank")
    totals = frame.select(pl.len(), first=(rank == 1).sum(), longest=rank.max().fill_null(0))
    return SinkCounts(*totals.collect(engine="streaming").row(0))


def require_equal_counts(
    expected: SinkCounts, *, rows: int | None = None, users: int, where: str
) -> None:
    """Raise SinkUnavailableError when what was written is not what was given: most likely new lists
    were published meanwhile."""
    if users != expected.users or (rows is not None and rows != expected.rows):
        written = f"{users:,} users" + ("" if rows is None else f" and {rows:,} rows")
        raise SinkUnavailableError(
            f"{written} were written to {where}, but there are {expected.users:,} users and"
            f" {expected.rows:,} rows: run it again"
        )


def iterate_batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in order, BATCH_ROWS at a time."""
    for batch in frame.collect_batches(chunk_size=BATCH_ROWS, engine="streaming"):
        if batch.height:
            yield batch


def group_by_user(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """A row for each user: user_id, arm (in an experiment), items (a list of structs of the other
    columns, best first).

    At least one frame, so that the columns are known even of an empty table.
    """
    open_user: pl.DataFrame | None = None  # The last user's rows may continue in the next batch.
    for batch in iterate_batches(frame):
        rows = batch if open_user is None else pl.concat([open_user, batch])
        is_last_user = pl.col("user_id") == rows.get_column("user_id")[-1]
        open_user = rows.filter(is_last_user)
        yield _collect_items(rows.filter(~is_last_user))
    yield _collect_items(frame.head(0).collect() if open_user is None else open_user)


def _collect_items(rows: pl.DataFrame) -> pl.DataFrame:
    user_columns = [name for name in ("user_id", "arm") if name in rows.columns]
    return rows.group_by(user_columns, maintain_order=True).agg(
        items=pl.struct(pl.exclude(user_columns))
    )
