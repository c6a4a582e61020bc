"""Pairs of items that the same people had, with a score for their similarity.

A pair's score is the number of people who had both items, divided by the geometric mean of the
numbers of people who had each item. This is the cosine of item-kNN (Sarwar et al., "Item-based
collaborative filtering recommendation algorithms", WWW 2001). The score is discounted if few people
had both items, because that can be chance.

There are two kinds of pairs. Lists of similar items come from pairs of items that people had
together, within some days. In these pairs, people who had both items at different times count too,
but less: few people buy two things at once, and items for the same taste are better than an empty
list. Pairs of whole histories give the reasons for recommendations: the item in a person's history
that speaks most for the recommended item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, SECONDS_A_DAY, TIMESTAMP, USER_ID
from batchrec_dagster.steps.data.numbered_ids import Int64s, find_positions
from batchrec_dagster.steps.data.success import is_of_types

# The fewest people who must have had both items. With one person, a list would show what that
# person bought.
FEWEST_PEOPLE = 2
# The weight of a person who had both items, but never together. A person who had both items
# together has the weight 1.
WEIGHT_APART = 0.3
# The number of people with both items at which the discount halves the score: for items had
# together, and for whole histories.
DISCOUNT_TOGETHER, DISCOUNT_HISTORIES = 5, 10
# An event is paired with at most this many later events of the same person. Nobody buys more items
# together, and an automatic import of a history would make millions of pairs. Items that were not
# had together are paired only within the second, smaller number of events, because pairing whole
# histories would take most of the time.
MOST_AFTER, MOST_AFTER_APART = 100, 25
# The number of events that are paired at once. This bounds the memory.
EVENTS_AT_ONCE = 50_000
# The number of counts that are kept before the counts of the same pairs are added up.
COUNTS_AT_ONCE = 20_000_000
# The number of bytes, with one bit for each person, that are compared at once.
BYTES_AT_ONCE = 32_000_000
# Two bounds keep the counting of whole histories at a few seconds: the number of users that are
# counted, and the sum of the squares of these users' numbers of interactions.
MOST_COUNTED = 100_000
MOST_PAIRS = 100_000_000


def find_bought_together(
    interactions: pl.LazyFrame, *, within_days: int, most: int, events: Sequence[str] = ()
) -> pl.DataFrame:
    """Return for each item the items that the same people had, best first.

    A person who had two items together counts more than a person who had them at different times.
    The table has the columns item_id, similar_item_id and score, and is sorted by item_id. Items
    without any pair are missing.

    interactions: a table with the columns of Personalize's dataset.
    within_days: the most days between two events for the items to count as had together.
    most: the most items in an item's list.
    events: the types of events that count, in upper or lower case; if empty, all types count.
    """
    interactions = interactions.filter(is_of_types(interactions, events))
    users, items = pl.collect_all(
        [interactions.select(pl.col(column).unique().sort()) for column in (USER_ID, ITEM_ID)],
        engine="streaming",
    )
    rows = (
        interactions.select(
            user=find_positions(USER_ID, users.to_series()),
            item=find_positions(ITEM_ID, items.to_series()),
            time=TIMESTAMP,
        )
        .cast({"user": pl.UInt32, "item": pl.UInt32})
        .unique()
        .sort("user", "time", "item")
        .collect(engine="streaming")
    )
    pairs = _count_together(rows, within_days * SECONDS_A_DAY).select(
        "item",
        "other",
        both=WEIGHT_APART * pl.col("people") + (1 - WEIGHT_APART) * pl.col("together"),
    )
    scored = _mirror(_score(pairs, _count_people(rows), DISCOUNT_TOGETHER))
    ids = pl.lit(items.to_series())
    return (
        scored.sort("item", "score", "both", "other", descending=[False, True, True, False])
        .group_by("item", maintain_order=True)
        .head(most)
        .select(
            item_id=ids.gather(pl.col("item")),
            similar_item_id=ids.gather(pl.col("other")),
            score="score",
        )
    )


def choose_counted_users(counts: pl.DataFrame) -> pl.Series:
    """Choose the users for the counting of whole histories: all users, or every n-th user.

    The bounds MOST_COUNTED and MOST_PAIRS decide n.

    counts: the columns user_id and interactions, sorted by user_id.
    """
    pairs = int((counts.get_column("interactions").cast(pl.Int64) ** 2).sum())
    # The two minus signs make the floor division round up.
    step = max(-(-pairs // MOST_PAIRS), -(-counts.height // MOST_COUNTED), 1)
    return counts.get_column("user_id").gather_every(step)


def number_histories(histories: pl.LazyFrame, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """Return the histories with numbers for users and items: their indices in the given series.

    The columns are user and item, with each pair once. Rows with a user that is not in `users` or
    an item that is not in `items` are left out.

    histories: the columns user_id and item.
    """
    return (
        histories.select(
            user=find_positions("user_id", users).cast(pl.UInt32),
            item=find_positions("item", items).cast(pl.UInt32),
        )
        .drop_nulls()
        .unique()
        .collect(engine="streaming")
    )


def pair_histories(
    had: pl.DataFrame, people: int, of_items: pl.Series | None = None
) -> pl.DataFrame:
    """Return the pairs of items that the same people had in their whole histories.

    The columns are item, other, both (the number of people who had both items) and score. The table
    is sorted by item and other, with each pair in both directions. Weak pairs are missing: pairs of
    fewer than FEWEST_PEOPLE people, and pairs of no more people than chance would give.

    had: the numbered histories that `number_histories` returns.
    people: the number of counted people.
    of_items: the numbers of items. Each returned pair has at least one of these items; None for
        all pairs.
    """
    items, is_counted = had.lazy(), pl.col("item") < pl.col("other")
    if of_items is not None:
        items = items.filter(pl.col("item").is_in(of_items.implode()))
        is_counted |= ~pl.col("other").is_in(of_items.implode())
    pairs = (
        items.join(had.lazy().rename({"item": "other"}), on="user")
        .filter(is_counted, pl.col("item") != pl.col("other"))
        # Grouping by one column takes a third of the time that grouping by two takes.
        .group_by(pair=pl.col("item").cast(pl.UInt64) * 2**32 + pl.col("other"))
        .agg(both=pl.len())
        .filter(pl.col("both") >= FEWEST_PEOPLE)
        .select(*_split_pair(), "both")
        .collect(engine="streaming")
    )
    return _select_strong(pairs, had, people)


def count_pairs(had: pl.DataFrame, people: int, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `pair_histories` for these pairs, in both directions.

    This is faster than `pair_histories` for few pairs.

    had: the numbered histories that `number_histories` returns.
    people: the number of counted people.
    pairs: the columns item and other with item numbers, each pair once, the lower number first.
    """
    users, items_had = (had.get_column(name).to_numpy() for name in ("user", "item"))
    # The array has a row for each item, with a bit for each person.
    has_item = np.zeros((1 + items_had.max(initial=0), -(-people // 8)), np.uint8)
    np.bitwise_or.at(has_item, (items_had, users >> 3), (1 << (users & 7)).astype(np.uint8))
    pairs = pairs.filter(pl.all_horizontal(pl.col("item", "other") < len(has_item)))
    counts = np.zeros(pairs.height, np.uint32)
    at_once = max(1, BYTES_AT_ONCE // max(1, has_item.shape[1]))
    for start in range(0, pairs.height, at_once):
        part = pairs.slice(start, at_once)
        items, other_items = (part.get_column(name).to_numpy() for name in ("item", "other"))
        shared = has_item[items] & has_item[other_items]
        counts[start : start + at_once] = np.bitwise_count(shared).sum(axis=1, dtype=np.uint32)
    counted = pairs.with_columns(both=counts).filter(pl.col("both") >= FEWEST_PEOPLE)
    return _select_strong(counted, had, people)


def _select_strong(pairs: pl.DataFrame, had: pl.DataFrame, people: int) -> pl.DataFrame:
    """Return the pairs that more people had than by chance, with scores, in both directions.

    pairs: the columns item, other and both.
    had: the numbered histories that `number_histories` returns.
    people: the number of counted people.
    """
    scored = _score(pairs, _count_people(had), DISCOUNT_HISTORIES)
    by_chance = pl.col("people").cast(pl.Float64) * pl.col("people_of_other") / people
    strong = scored.filter(pl.col("both") > by_chance).select(*pairs.columns, "score")
    return _mirror(strong).sort("item", "other")


def _mirror(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return each pair in both directions."""
    mirrored = pairs.with_columns(item="other", other="item")
    return pl.concat([pairs, mirrored])


def _count_people(had: pl.DataFrame) -> pl.DataFrame:
    """Count the people who had each item. The columns are item and people."""
    return had.group_by("item").agg(people=pl.col("user").n_unique())


def _score(pairs: pl.DataFrame, people: pl.DataFrame, discount: int) -> pl.DataFrame:
    """Return the pairs with the added columns people, people_of_other and score.

    people and people_of_other are the numbers of people who had the item and the other item.

    pairs: the columns item, other and both (the weighted number of people who had both items).
    people: the table that `_count_people` returns.
    discount: the number of people at which the discount halves the score.
    """
    shared, product = pl.col("both"), pl.col("people") * pl.col("people_of_other")
    return (
        pairs.join(people, on="item")
        .join(people.rename({"item": "other", "people": "people_of_other"}), on="other")
        .with_columns(score=shared / (shared + discount) * shared / product.cast(pl.Float64).sqrt())
    )


def _count_together(rows: pl.DataFrame, within_seconds: int) -> pl.DataFrame:
    """Count the people who had both items of a pair. The columns are item, other, people, together.

    Each pair of at least FEWEST_PEOPLE people is there once, with the lower item number first.
    `people` is the number of people who had both items, and `together` is the number of people who
    had both items together.

    rows: the columns user, item and time, sorted by user and time.
    within_seconds: the most seconds between two events for the items to count as had together.
    """
    parts: list[pl.DataFrame] = []
    size = 0
    for pairs in _iterate_pairs(rows, within_seconds):
        of_people = pairs.group_by("user", "pair").agg(pl.col("is_near").any())
        counts = of_people.group_by("pair").agg(people=pl.len(), together=pl.col("is_near").sum())
        parts.append(counts)
        size += counts.height
        if size > COUNTS_AT_ONCE:
            parts = [_add_up(parts)]
            size = parts[0].height
    return (
        _add_up(parts)
        .filter(pl.col("people") >= FEWEST_PEOPLE)
        .select(*_split_pair(), "people", "together")
    )


def _split_pair() -> tuple[pl.Expr, pl.Expr]:
    """Return expressions for the columns item and other from the number in the column pair."""
    item, other = pl.col("pair") // 2**32, pl.col("pair") % 2**32
    return item.cast(pl.UInt32).alias("item"), other.cast(pl.UInt32).alias("other")


def _add_up(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Add up the counts of all parts. The columns are pair, people and together."""
    schema = {"pair": pl.UInt64, "people": pl.UInt32, "together": pl.UInt32}
    counts = pl.concat([pl.DataFrame(schema=schema), *parts])
    return counts.group_by("pair").agg(pl.col("people", "together").sum())


def _iterate_pairs(rows: pl.DataFrame, within_seconds: int) -> Iterator[pl.DataFrame]:
    """Yield tables with the columns user, pair and is_near. All pairs of a user are in one table.

    The column pair has a pair's number: the lower item number times 2 to the power of 32, plus the
    higher item number.
    """
    users = rows.get_column("user").to_numpy()
    items = rows.get_column("item").to_numpy().astype(np.uint64)
    times = rows.get_column("time").to_numpy()
    first_rows = np.flatnonzero(np.diff(users, prepend=-1))
    start = 0
    while start < len(users):
        # The part ends before the first user who begins after this many events, or at the end.
        user = np.searchsorted(first_rows, start + EVENTS_AT_ONCE)
        end = int(first_rows[user]) if user < len(first_rows) else len(users)
        part = slice(start, end)
        yield _pair_events(_Events(users[part], items[part], times[part]), within_seconds)
        start = end


@dataclass(frozen=True)
class _Events:
    """The events of users: arrays with one entry for each event, sorted by user and time."""

    users: Int64s
    items: np.ndarray
    times: Int64s


def _pair_events(events: _Events, within_seconds: int) -> pl.DataFrame:
    """Return the pairs of the events as a table with the columns user, pair and is_near.

    is_near: whether the items of the two events were had together.
    """
    users, items, times = events.users, events.items, events.times
    schema = {"user": pl.UInt32, "pair": pl.UInt64, "is_near": pl.Boolean}
    pairs = [pl.DataFrame(schema=schema)]
    for distance in range(1, min(len(users), MOST_AFTER + 1)):
        rows = np.flatnonzero(users[distance:] == users[:-distance])
        is_near = times[rows + distance] - times[rows] <= within_seconds
        if distance > MOST_AFTER_APART:
            rows, is_near = rows[is_near], is_near[is_near]
        # If no two events are left at this distance, none are left at a larger distance either.
        if not len(rows):
            break
        earlier, later = items[rows], items[rows + distance]
        is_pair = earlier != later
        lower = np.minimum(earlier, later)[is_pair] << np.uint64(32)
        codes = lower | np.maximum(earlier, later)[is_pair]
        pairs.append(
            pl.DataFrame({"user": users[rows][is_pair], "pair": codes, "is_near": is_near[is_pair]})
        )
    return pl.concat(pairs)
