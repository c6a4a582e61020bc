"""The reasons why items are on lists, such as "because you had this other item".

If possible, the reason is an item from the person's own history that goes well with the listed
item. Such a reason shows that people often have both items. It does not show how the model decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.list_columns import (
    REASON,
    REASON_EVENT,
    REASON_ITEM,
    REASON_TITLE,
    REASONS,
)
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, USER_ID
from batchrec_dagster.steps.data.numbered_ids import Int64s, NumberedIds, find_positions
from batchrec_dagster.steps.data.popular_items import POPULAR
from batchrec_dagster.steps.lists.inputs import ListInputs
from batchrec_dagster.steps.lists.item_pairs import (
    choose_counted_users,
    number_histories,
    pair_histories,
)
from batchrec_dagster.steps.outcomes.arms import MODEL

# The reasons of a row besides POPULAR and the reasons that rules give. BECAUSE: an item of the
# user's history goes well with the row's item. NEW: nobody has had the row's item yet.
BECAUSE, NEW = "because", "new"
# The number of items of histories that are looked up at once. It bounds the memory.
LOOKED_UP_AT_ONCE = 2_000_000


class Reasons:
    """A builder of the reason columns of lists, which also counts the reasons.

    interactions: the columns of Personalize's dataset.
    users: the distinct ids of the users who get lists.
    strengths: the weights of event types that `weigh_events` returns.
    titles: the columns item_id and title; None if lists show no titles in their reasons.
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
        own_items = select_strongest(interactions, users, items.to_series(), strengths)
        self._speaking = SpeakingItems(
            own_items, len(users), _pair_items(interactions, items.to_series())
        )
        self._titles = pl.repeat(None, items.height, dtype=pl.String, eager=True)
        if titles is not None:
            titles = titles.rename({"item_id": ITEM_ID})
            titled = items.join(titles, on=ITEM_ID, how="left", maintain_order="left")
            self._titles = titled.get_column("title")
        self.counts: Counter[str] = Counter()
        """The number of rows with each reason so far."""

    def add(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table with the columns REASONS added. Reasons that the table has already stay.

        The first reason that applies is added:
        - POPULAR if Personalize filled the row with a popular item, or the user is in the control
          arm.
        - NEW if the item has no interactions.
        - POPULAR if the user has no history.
        - BECAUSE if an item of the user's history goes well with the row's item. That item is in
          the column reason_item.
        Otherwise the reason is null.

        table: the columns user_id, item_id and score. In an experiment there is also the column
            arm. The column reason is optional.
        """
        given = pl.col(REASON) if REASON in table.columns else pl.lit(None, pl.String)
        # If a filter leaves too few items, Personalize adds popular items without a score.
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
    """A search for the item of a user's history that goes best with another item.

    own_items: the histories of users: the columns user and item, both indices. The table is sorted
        by user and item, has each pair once, and may have further columns.
    users: the number of users that have an index.
    pairs: the table that `pair_histories` returns, with the same indices of items.
    """

    def __init__(self, own_items: pl.DataFrame, users: int, pairs: pl.DataFrame) -> None:
        self._own_items, self._people_with_both = own_items, pairs.get_column("both")
        # The last two starts are equal, so that an unknown user has an empty history.
        self._starts = np.searchsorted(own_items.get_column("user"), np.arange(users + 2))
        self._items = own_items.get_column("item").to_numpy().astype(np.uint64)
        codes = pl.col("item").cast(pl.UInt64) * 2**32 + pl.col("other")
        # The last code belongs to no pair, so that every search finds a code.
        self._codes = np.append(pairs.select(codes).to_series().to_numpy(), np.uint64(2**64 - 1))
        self._scores = np.append(pairs.get_column("score").to_numpy(), 0.0)

    def find(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return for each row the item of the user's history that goes best with the row's item.

        The columns are own_item, the item of the user's history; both, the number of people who had
        both items; has_history, whether the user has a history; and the further columns of
        `own_items`. All columns but has_history are null if no item goes well with the row's item.

        rows: the columns user and item, both indices; null for an unknown user or item.
        """
        users = rows.get_column("user").fill_null(len(self._starts) - 2).to_numpy()
        items = rows.get_column("item").fill_null(2**32 - 1).to_numpy().astype(np.uint64)
        starts = self._starts[users]
        lengths = self._starts[users + 1] - starts
        # Rows of the same item are looked up together, because their pairs are near each other in
        # memory.
        order = np.argsort(items, kind="stable")
        order = order[lengths[order] > 0]
        best = np.full((2, rows.height), -1)
        for part in _split(lengths[order]):
            part_rows = order[part]
            best[:, part_rows] = self._find_best(
                items[part_rows], starts[part_rows], lengths[part_rows]
            )
        own_rows, pair_rows = (
            pl.Series(numbers).set(pl.Series(numbers < 0), None) for numbers in best
        )
        return self._own_items.select(pl.all().gather(own_rows)).select(
            pl.exclude("user", "item"),
            own_item="item",
            both=self._people_with_both.gather(pair_rows),
            has_history=pl.Series(lengths > 0),
        )

    def _find_best(self, items: Int64s, starts: Int64s, lengths: Int64s) -> np.ndarray:
        """Return the best rows of `own_items` and of the pairs for each item; -1 if there is none.

        The result has the shape (2, items). A row of `own_items` is best if its item has the
        highest score with the searched item. Among equal scores, the first row is best.

        items: (items,) the searched items.
        starts, lengths: (items,) the first row of the user's history in `own_items`, and the number
            of its rows, at least 1.
        """
        ends = np.cumsum(lengths)
        firsts = ends - lengths
        own_rows = np.repeat(starts - firsts, lengths) + np.arange(ends[-1])
        codes = (np.repeat(items, lengths) << np.uint64(32)) | self._items[own_rows]
        pairs = np.searchsorted(self._codes, codes)
        scores = np.where(self._codes[pairs] == codes, self._scores[pairs], 0.0)
        highest = np.maximum.reduceat(scores, firsts)
        is_highest = np.flatnonzero(scores == np.repeat(highest, lengths))
        best = is_highest[np.searchsorted(is_highest, firsts)]
        return np.where(highest > 0, [own_rows[best], pairs[best]], -1)


def weigh_events(solution: Solution) -> dict[str, float]:
    """Return how much each type of event says about a user's taste, by its name in lower case.

    The number is the event type's weight in training. If no weights are declared, it is 1 for the
    events of success. Other types of events are missing, because they say nothing.
    """
    weights = solution.event_weights or dict.fromkeys(solution.success, 1.0)
    return {name.lower(): weight for name, weight in weights.items()}


def select_strongest(
    interactions: pl.LazyFrame, users: pl.Series, items: pl.Series, strengths: Mapping[str, float]
) -> pl.DataFrame:
    """Return the items that each user had by the strongest type of event in the user's history.

    So a user who bought something gets no reason that names an item they only looked at. The
    columns are user and item, which are indices, and event. Each pair of a user and an item is
    there once, sorted by user and item. The event is null if the interactions have no types.

    strengths: the weights of event types that `weigh_events` returns.
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
            # An interaction without a type is the weakest.
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


def prepare_reasons(published: ListTable, inputs: ListInputs) -> Reasons | None:
    """Return the builder of the lists' reasons; None if the lists have no column of reasons."""
    if not published.is_for_people or not {*published.columns} & {*REASONS}:
        return None
    strengths = weigh_events(published.pipeline.solution)
    return Reasons(inputs.interactions, inputs.subject_ids, strengths, inputs.titles)


def _pair_items(interactions: pl.LazyFrame, items: pl.Series) -> pl.DataFrame:
    """Return the pairs of these items, as `pair_histories` returns them, with items as indices."""
    histories = interactions.select(user_id=USER_ID, item=ITEM_ID)
    counts = histories.group_by("user_id").agg(interactions=pl.len())
    users = choose_counted_users(counts.collect(engine="streaming").sort("user_id"))
    return pair_histories(number_histories(histories, users, items), len(users))


def _split(lengths: Int64s) -> Iterator[slice]:
    """Yield slices of the rows such that the lengths in a slice add up to about LOOKED_UP_AT_ONCE.

    Every slice has at least one row.
    """
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        looked_up = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, looked_up + LOOKED_UP_AT_ONCE)))
        yield slice(start, end)
        start = end
