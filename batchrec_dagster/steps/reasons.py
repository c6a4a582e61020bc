"""Says why each item is on a list: which item of the person's own speaks for it, if one does.

It shows which items go together, and not how the model decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from batchrec_dagster.config import PublishedList
from batchrec_dagster.config.list_columns import (
    REASON,
    REASON_EVENT,
    REASON_ITEM,
    REASON_TITLE,
    REASONS,
)
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, USER_ID
from batchrec_dagster.steps.arms import MODEL
from batchrec_dagster.steps.item_pairs import choose_counted_users, number_histories, pair_histories
from batchrec_dagster.steps.items import read_titles
from batchrec_dagster.steps.numbered_ids import Int64s, NumberedIds, find_positions
from batchrec_dagster.steps.popular_items import POPULAR
from batchrec_dagster.steps.work import Work

# The reason of a row, besides those that rules give: an item of the history speaks for it; most
# people like it, of whom the engine knows nothing else; nobody has had it yet.
BECAUSE, NEW = "because", "new"
# This many items of histories are looked up at once, which bounds the memory.
LOOKED_UP_AT_ONCE = 2_000_000


class Reasons:
    """Adds to the rows of lists why the item is there, and counts the reasons.

    interactions: the columns of Personalize's dataset.
    users: the distinct ids of the users whom lists are made for.
    strengths: as of `weigh_events`.
    titles: the columns item_id and title; None if nobody wants to read them.
    """

    def __init__(
        self,
        interactions: pl.LazyFrame,
        users: pl.Series,
        strengths: Mapping[str, float],
        titles: pl.DataFrame | None = None,
    ) -> None:
        items = interactions.select(pl.col(ITEM_ID).unique().sort()).collect(engine="streaming")
        self._users, self._items = NumberedIds(users), NumberedIds(items.to_series())
        own = select_strongest(interactions, users, items.to_series(), strengths)
        self._speaking = SpeakingItems(
            own, len(users), _pair_items(interactions, items.to_series())
        )
        self._titles = pl.repeat(None, items.height, dtype=pl.String, eager=True)
        if titles is not None:
            titles = titles.rename({"item_id": ITEM_ID})
            titled = items.join(titles, on=ITEM_ID, how="left", maintain_order="left")
            self._titles = titled.get_column("title")
        self.counts: Counter[str] = Counter()
        """How many rows have each reason so far."""

    def add(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with the columns REASONS. What its column reason says already stays.

        The reason is BECAUSE, and reason_item that item of the user's own, if one speaks for the
        row's item; POPULAR for a user without a history; NEW for an item without interactions. It
        is null where nothing is known.

        table: the columns user_id, item_id, score and, in an experiment, arm.
        """
        given = pl.col(REASON) if REASON in table.columns else pl.lit(None, pl.String)
        # Personalize adds popular items, without a score, where a filter leaves too few.
        is_popular = pl.col("score").is_null() & pl.col("score").is_not_null().any()
        if "arm" in table.columns:
            is_popular |= pl.col("arm") != MODEL
        stated = pl.coalesce(given, pl.when(is_popular).then(pl.lit(POPULAR)))
        rows = table.select(
            stated=stated,
            user=pl.when(stated.is_null()).then(self._users.find(table.get_column("user_id"))),
            item=self._items.find(table.get_column("item_id")),
        )
        own_item = pl.col("own_item")
        explained = rows.hstack(self._speaking.find(rows)).select(
            pl.coalesce(
                "stated",
                pl.when(pl.col("item").is_null()).then(pl.lit(NEW)),
                pl.when(~pl.col("has_history")).then(pl.lit(POPULAR)),
                pl.when(own_item.is_not_null()).then(pl.lit(BECAUSE)),
            ).alias(REASON),
            pl.lit(self._items.ids).gather(own_item).alias(REASON_ITEM),
            pl.lit(self._titles).gather(own_item).alias(REASON_TITLE),
            pl.col("event").cast(pl.String).alias(REASON_EVENT),
        )
        for reason, count in explained.get_column(REASON).drop_nulls().value_counts().iter_rows():
            self.counts[reason] += count
        return table.with_columns(explained.get_columns())


class SpeakingItems:
    """Finds which item of a user's own speaks best for another.

    own: the columns user and item, by their indices, in their order, each pair once, and others.
    users: how many users have an index.
    pairs: as of `pair_histories`, by the same indices of items.
    """

    def __init__(self, own: pl.DataFrame, users: int, pairs: pl.DataFrame) -> None:
        self._own, self._both = own, pairs.get_column("both")
        # A user without a number has nothing: the last two starts are the same.
        self._starts = np.searchsorted(own.get_column("user"), np.arange(users + 2))
        self._items = own.get_column("item").to_numpy().astype(np.uint64)
        codes = pl.col("item").cast(pl.UInt64) * 2**32 + pl.col("other")
        # The last code is that of no pair, so that each search ends at one.
        self._codes = np.append(pairs.select(codes).to_series().to_numpy(), np.uint64(2**64 - 1))
        self._scores = np.append(pairs.get_column("score").to_numpy(), 0.0)

    def find(self, rows: pl.DataFrame) -> pl.DataFrame:
        """For each row the columns own_item, both, has_history, and the others of `own`.

        They are the item of the user's own, how many people had both items, and whether the user
        had anything. All but the last are null where no item speaks for the row's.

        rows: the columns user and item, null where one has no number.
        """
        users = rows.get_column("user").fill_null(len(self._starts) - 2).to_numpy()
        items = rows.get_column("item").fill_null(2**32 - 1).to_numpy().astype(np.uint64)
        starts = self._starts[users]
        lengths = self._starts[users + 1] - starts
        # Rows of the same item are looked up together, as their pairs stand together.
        order = np.argsort(items, kind="stable")
        order = order[lengths[order] > 0]
        best = np.full((2, rows.height), -1)
        for part in _split(lengths[order]):
            part_rows = order[part]
            best[:, part_rows] = self._find_best(
                items[part_rows], starts[part_rows], lengths[part_rows]
            )
        own, pair = (pl.Series(numbers).set(pl.Series(numbers < 0), None) for numbers in best)
        return self._own.select(pl.all().gather(own)).select(
            pl.exclude("user", "item"),
            own_item="item",
            both=self._both.gather(pair),
            has_history=pl.Series(lengths > 0),
        )

    def _find_best(self, items: Int64s, starts: Int64s, lengths: Int64s) -> np.ndarray:
        """The row of `own` and that of the pairs that speak best for each item; -1 if none does."""
        ends = np.cumsum(lengths)
        firsts = ends - lengths
        own = np.repeat(starts - firsts, lengths) + np.arange(ends[-1])
        codes = (np.repeat(items, lengths) << np.uint64(32)) | self._items[own]
        pairs = np.searchsorted(self._codes, codes)
        scores = np.where(self._codes[pairs] == codes, self._scores[pairs], 0.0)
        highest = np.maximum.reduceat(scores, firsts)
        is_highest = np.flatnonzero(scores == np.repeat(highest, lengths))
        best = is_highest[np.searchsorted(is_highest, firsts)]
        return np.where(highest > 0, [own[best], pairs[best]], -1)


def weigh_events(solution: Solution) -> dict[str, float]:
    """How much each type of event says of a person's taste, by its name in lower case.

    It is its weight in training, or else whether it counts as success. Others say nothing.
    """
    weights = solution.event_weights or dict.fromkeys(solution.success, 1.0)
    return {name.lower(): weight for name, weight in weights.items()}


def select_strongest(
    interactions: pl.LazyFrame, users: pl.Series, items: pl.Series, strengths: Mapping[str, float]
) -> pl.DataFrame:
    """What each user had by the strongest type of event that they have, each item once.

    Whoever bought something is not told of what they only looked at. The columns are user and item,
    which are indices, and event, in the order of users and items. The event is null if the
    interactions have no types.

    strengths: as of `weigh_events`.
    """
    names: list[str] = []
    if EVENT_TYPE in interactions.collect_schema():
        types = interactions.select(pl.col(EVENT_TYPE).unique()).collect(engine="streaming")
        names = types.to_series().drop_nulls().to_list()
    names.sort(key=lambda name: (-strengths.get(name.lower(), 0.0), name))
    event = find_positions(EVENT_TYPE, pl.Series(names)) if names else pl.lit(0)
    had = (
        interactions.select(
            user=find_positions(USER_ID, users).cast(pl.UInt32),
            item=find_positions(ITEM_ID, items).cast(pl.UInt32),
            # One without a type is the weakest.
            event=event.fill_null(len(names)).cast(pl.UInt8),
        )
        .drop_nulls("user")
        .collect(engine="streaming")
        .sort("user", "item", "event")
    )
    weights = [strengths.get(name.lower(), 0.0) for name in names]
    if len({*weights}) > 1:
        weight = pl.lit(pl.Series([*weights, -1.0])).gather(pl.col("event"))
        had = had.filter(weight == weight.max().over("user"))
    is_repeated = (pl.col("user") == pl.col("user").shift()) & (
        pl.col("item") == pl.col("item").shift()
    )
    named = pl.lit(pl.Series([*names, None], dtype=pl.Enum(names))).gather(pl.col("event"))
    return had.filter(~is_repeated.fill_null(value=False)).with_columns(event=named)


def prepare_reasons(
    work: Work, published: PublishedList, interactions: pl.LazyFrame, users: pl.Series
) -> Reasons | None:
    """What says why items are on the lists of these users; None if the declaration does not ask.

    Raises UserError.
    """
    declared = {*published.columns} & {*REASONS}
    if not declared:
        return None
    titles = read_titles(work) if REASON_TITLE in declared else None
    return Reasons(interactions, users, weigh_events(work.pipeline.solution), titles)


def _pair_items(interactions: pl.LazyFrame, items: pl.Series) -> pl.DataFrame:
    """The pairs of these items, by their indices, as of `pair_histories`."""
    histories = interactions.select(user_id=USER_ID, item=ITEM_ID)
    counts = histories.group_by("user_id").agg(interactions=pl.len())
    users = choose_counted_users(counts.collect(engine="streaming").sort("user_id"))
    return pair_histories(number_histories(histories, users, items), len(users))


def _split(lengths: Int64s) -> Iterator[slice]:
    """Parts of rows whose lengths add up to about LOOKED_UP_AT_ONCE."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        looked_up = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, looked_up + LOOKED_UP_AT_ONCE)))
        yield slice(start, end)
        start = end
