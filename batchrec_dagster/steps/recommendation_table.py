"""The table of recommendations, built from a batch inference's output, before it is published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from batchrec_dagster.config.recommendations import Experiment
from batchrec_dagster.outcomes.arms import MODEL, assign_arms
from batchrec_dagster.personalize.batch_files import read_inference
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID, scan_interactions
from batchrec_dagster.steps.batch_jobs import JobOutput, OutputTable, log_progress
from batchrec_dagster.steps.checks import (
    CheckResult,
    every_user_answered,
    items_known,
    lists_full,
    no_duplicates,
    no_failed_lines,
    no_seen_items,
)
from batchrec_dagster.steps.items import add_titles, read_item_ids, read_titles
from batchrec_dagster.steps.work import PersonalizeWork, Work
from batchrec_dagster.storage.progress import Progress
from batchrec_dagster.storage.published_table import TableWriter

# No pair has this number: users and items are numbered from 0, below 2**32 - 1.
NO_PAIR = 2**64 - 1

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


class Pairs:
    """Distinct pairs of a user's and an item's number, sorted: 8 bytes a pair, 16 while building.

    pairs: user, item; those with a null are left out.
    """

    def __init__(self, pairs: pl.LazyFrame) -> None:
        found = pairs.select(_encode_pairs()).drop_nulls().collect(engine="streaming")
        codes = found.get_column("pair").to_numpy(writable=True)
        # np.unique would hash them: ten times the time, five times the memory.
        codes.sort()
        again = codes[1:] == codes[:-1]
        self._codes = codes[np.append(True, ~again)] if again.any() else codes

    @property
    def users(self) -> Numbers:
        """The user of each pair."""
        return (self._codes >> 32).astype(np.int64)

    @property
    def items(self) -> Numbers:
        """The item of each pair."""
        return (self._codes & 0xFFFFFFFF).astype(np.int64)

    def among(self, pairs: pl.DataFrame) -> pl.Series:
        """Whether each of these is there. pairs: user, item; null for one that has no number."""
        if not len(self._codes):
            return pl.repeat(value=False, n=pairs.height, eager=True)
        wanted = pairs.select(_encode_pairs().fill_null(NO_PAIR)).get_column("pair").to_numpy()
        found = np.searchsorted(self._codes, wanted)
        return pl.Series(self._codes[np.minimum(found, len(self._codes) - 1)] == wanted)


class SeenItems:
    """The items that each of these users has interacted with. users: distinct ids."""

    def __init__(self, interactions: pl.LazyFrame, users: pl.Series) -> None:
        items = interactions.select(ITEM_ID).unique().collect(engine="streaming")
        self._users = pl.DataFrame({"user_id": users}).with_row_index("user")
        self._items = items.select(item_id=ITEM_ID).with_row_index("item")
        # The positions in two lists. Joins would find them too, with half more memory.
        self._pairs = Pairs(
            interactions.select(
                user=find_positions(USER_ID, self._users.get_column("user_id")),
                item=find_positions(ITEM_ID, self._items.get_column("item_id")),
            )
        )

    @property
    def longest(self) -> int:
        """How many items the user with the most has interacted with."""
        return int(np.bincount(self._pairs.users).max(initial=0))

    def among(self, table: pl.DataFrame) -> pl.Series:
        """Whether its user has interacted with the item, for each row of user_id and item_id."""
        # Fewer users make the join of a small table fast.
        users = self._users.join(table.select("user_id").unique(), on="user_id", how="semi")
        return self._pairs.among(
            table.select("user_id", "item_id")
            .join(users, on="user_id", how="left", maintain_order="left")
            .join(self._items, on="item_id", how="left", maintain_order="left")
        )


def find_positions(column: str, among: pl.Series) -> pl.Expr:
    """The position of the value among these distinct ones; null if it is not there."""
    return pl.col(column).cast(pl.Enum(among), strict=False).to_physical()


def _encode_pairs() -> pl.Expr:
    user, item = pl.col("user").cast(pl.UInt64), pl.col("item").cast(pl.UInt64)
    return (user * 2**32 + item).alias("pair")


class ListBuilder(OutputTable):
    """The best `num_results` items of each line as rows of user_id, rank, item_id and score, users
    in the lines' order.

    Items that a user has seen are dropped; `seen` None drops none. With an experiment a row has
    its user's arm.
    """

    def __init__(
        self,
        num_results: int,
        seen: SeenItems | None = None,
        titles: pl.DataFrame | None = None,
        experiment: Experiment | None = None,
    ) -> None:
        super().__init__("user_id", titles)
        self.num_results, self.seen, self.experiment = num_results, seen, experiment
        self.users = self.dropped = self._unscored = self._of_model = self._seen = self._full = 0
        self.items = pl.Series(dtype=pl.String)

    def add(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines. lines: user_id, items and scores (best first), error."""
        self._add_lines(lines)
        table = add_titles(self._table(lines), self.titles)
        if self.experiment is not None:
            users = lines.select("user_id").unique()
            users = users.with_columns(assign_arms(users.get_column("user_id"), self.experiment))
            table = table.join(users, on="user_id", how="left", maintain_order="left")
        self._count(table)
        self._add_rows(table)
        return table

    def done(self, users: pl.Series, *, filtered: bool) -> RecommendationTable:
        """What was written. users: those requested; filtered: is recommendations.filter set."""
        counts = ListCounts(
            self.rows, self.users, len(self.items), self.dropped, self.items_without_score
        )
        return RecommendationTable(counts, self.sample, self.checks(users, filtered=filtered))

    def checks(self, users: pl.Series, *, filtered: bool) -> list[CheckResult]:
        """The verdicts; see `done`."""
        answered, padding = pl.concat(self._answered), self.items_without_score
        return [
            every_user_answered(users, answered, empty=not self.rows),
            no_failed_lines(self._failed, len(answered), self._first_failure),
            no_duplicates(self._repeated),
            *([] if self.seen is None else [no_seen_items(self._seen)]),
            lists_full(
                self._full, len(users), self.num_results, filtered=filtered, padding=padding
            ),
        ]

    @property
    def items_without_score(self) -> int:
        """The rows without a score, though others have one: popular items that Personalize added
        to fill a list. Popularity-Count gives no scores at all."""
        return self._unscored if self._unscored < self._of_model else 0

    def _table(self, lines: pl.DataFrame) -> pl.DataFrame:
        # One score for each item, null where Personalize gave none.
        none = pl.col("items").list.eval(pl.lit(None, dtype=pl.Float64))
        scores = pl.coalesce(pl.col("scores").list.concat(none), none).list.head(
            pl.col("items").list.len()
        )
        offered = (
            lines.filter(pl.col("items").list.len() > 0)
            .select("user_id", item_id="items", score=scores)
            .explode("item_id", "score")
        )
        kept = offered if self.seen is None else offered.filter(~self.seen.among(offered))
        self.dropped += offered.height - kept.height
        return (
            kept.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
            .filter(pl.col("rank") <= self.num_results)
            .select("user_id", "rank", "item_id", "score")
        )

    def _count(self, table: pl.DataFrame) -> None:
        lengths = table.group_by("user_id").agg(
            pl.len(), pl.col("item_id").n_unique().alias("items")
        )
        self.users += lengths.height
        # Popularity's lists, which a control may get, have no scores.
        of_model = table if self.experiment is None else table.filter(arm=MODEL)
        self._of_model += of_model.height
        self._unscored += of_model.get_column("score").null_count()
        self.items = pl.concat([self.items, table.get_column("item_id").unique()]).unique()
        self._full += lengths.filter(pl.col("len") >= self.num_results).height
        self._repeated += table.height - int(lengths.get_column("items").sum())
        if self.seen is not None:
            self._seen += int(self.seen.among(table).sum())


@dataclass(frozen=True)
class ListCounts:
    """Rows, users and distinct items of a table; returned items that their user had already seen;
    popular items that Personalize added without a score. An edition's metadata have them too."""

    rows: int
    users: int
    items: int
    seen_items_dropped: int
    items_without_score: int


@dataclass(frozen=True)
class RecommendationTable:
    """A written table: its numbers, first rows and checks."""

    counts: ListCounts
    sample: pl.DataFrame
    checks: list[CheckResult]


def build_table(
    work: PersonalizeWork,
    outputs: Sequence[JobOutput],
    users: pl.Series,
    seen: SeenItems | None,
    table: TableWriter,
) -> RecommendationTable:
    """Write the table from the jobs' outputs. users: the requested ones. Raises StorageError,
    StepError."""
    wanted = work.pipeline.recommendations
    lists = ListBuilder(wanted.num_results, seen, read_titles(work), work.pipeline.experiment)
    progress = Progress("users' lists written", len(users), work.ensure.log.info)
    pieces = (piece for output in outputs for piece in output.pieces(read_inference))
    lists.write(log_progress(pieces, progress), table)
    done = lists.done(users, filtered=wanted.filter is not None)
    known = read_item_ids(work)
    return replace(done, checks=[*done.checks, *(items_known(lists.items, ids) for ids in known)])


@dataclass(frozen=True)
class KnownInteractions:
    """What an edition is made from. seen: what its users have interacted with, None if lists may
    contain it; until: the time of the newest interaction, in epoch seconds."""

    seen: SeenItems | None
    until: int


def read_interactions(work: Work, users: pl.Series) -> KnownInteractions:
    """What is known when lists are made for these users. Raises StorageError."""
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        exclude = work.pipeline.recommendations.exclude_seen
        return KnownInteractions(SeenItems(interactions, users) if exclude else None, int(newest))
