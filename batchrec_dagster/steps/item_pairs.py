"""The table of pairs of items that the same people had, and how near that makes them.

A pair's score is the number of people who had both items, over the geometric mean of the numbers of
people who had either: the cosine of item-kNN (Sarwar et al., "Item-based collaborative filtering
recommendation algorithms", WWW 2001). Few people can be chance, so they count less.

Two kinds of pairs are counted. What people had together within some days makes lists of similar
items. Of these, people who had both at different times count less, as few people ever buy two
things at once, and what goes together by taste is better than nothing. The pairs of whole histories
say which item of a person's own speaks for a recommendation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, SECONDS_A_DAY, TIMESTAMP, USER_ID
from batchrec_dagster.steps.numbered_ids import Int64s, find_positions
from batchrec_dagster.steps.success import is_of_types

# How many people must have had both items: with fewer, a list would show what one person bought.
FEWEST_PEOPLE = 2
# How much people count who had both items, but never together.
WEIGHT_APART = 0.3
# If this many people had both items, the discount is one half: of what was had together, and of
# whole histories.
DISCOUNT_TOGETHER, DISCOUNT_HISTORIES = 5, 10
# An item is paired with this many that the same person has after it: nobody buys more together,
# while an automatic import of a history would make millions of pairs. With items that were not had
# together, it is only paired with the next few: pairs of whole histories would take most of the
# time.
MOST_AFTER, MOST_AFTER_APART = 100, 25
# How many events are paired at once, which bounds the memory.
EVENTS_AT_ONCE = 50_000
# How many counts of pairs are kept before those of the same pairs are added up.
COUNTS_AT_ONCE = 20_000_000
# How many bytes of people who had items are compared at once.
BYTES_AT_ONCE = 32_000_000
# Two bounds keep the counting of whole histories at a few seconds: the number of users that are
# counted, and the sum over them of the square of their interactions.
MOST_COUNTED = 100_000
MOST_PAIRS = 100_000_000


def find_bought_together(
    interactions: pl.LazyFrame, *, within_days: int, most: int, events: Sequence[str] = ()
) -> pl.DataFrame:
    """For each item those that people had together with it, best first.

    The columns are item_id, similar_item_id and score, in the order of the items' ids. Items that
    go with no other are missing.

    interactions: the columns of Personalize's dataset.
    within_days: how many days there may be between both, at most, so that they were had together.
    most: how many items an item's list has at most.
    events: the types of events that count, in any case; all if empty.
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
    """The users whose whole histories are counted: all, or every n-th.

    counts: the columns user_id and interactions, in the order of the ids.
    """
    pairs = int((counts.get_column("interactions").cast(pl.Int64) ** 2).sum())
    # Minus signs around the division make it round up.
    step = max(-(-pairs // MOST_PAIRS), -(-counts.height // MOST_COUNTED), 1)
    return counts.get_column("user_id").gather_every(step)


def number_histories(histories: pl.LazyFrame, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """The columns user and item, by their indices in `users` and `items`, each pair once.

    What is not there is left out.

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
    """The items that speak for others, by the people who had both in their whole histories.

    The columns are item, other, both (how many people had both) and score, in the order of items,
    with each pair in both directions. Weak ones are missing: those of fewer than
    FEWEST_PEOPLE, and of no more people than would have both by chance.

    had: as of `number_histories`.
    people: how many people are counted.
    of_items: only the pairs with one of these items; None for all.
    """
    items, is_counted = had.lazy(), pl.col("item") < pl.col("other")
    if of_items is not None:
        items = items.filter(pl.col("item").is_in(of_items.implode()))
        is_counted |= ~pl.col("other").is_in(of_items.implode())
    pairs = (
        items.join(had.lazy().rename({"item": "other"}), on="user")
        .filter(is_counted, pl.col("item") != pl.col("other"))
        # By one column the groups are found in a third of the time.
        .group_by(pair=pl.col("item").cast(pl.UInt64) * 2**32 + pl.col("other"))
        .agg(both=pl.len())
        .filter(pl.col("both") >= FEWEST_PEOPLE)
        .select(*_split_pair(), "both")
        .collect(engine="streaming")
    )
    return _select_strong(pairs, had, people)


def count_pairs(had: pl.DataFrame, people: int, pairs: pl.DataFrame) -> pl.DataFrame:
    """Those of `pair_histories` that are among these pairs, and the same the other way round.

    It is faster than that where few pairs are asked for.

    had: as of `number_histories`.
    people: how many people are counted.
    pairs: the columns item and other, by their numbers, each pair once with the lower number first.
    """
    users, items_had = (had.get_column(name).to_numpy() for name in ("user", "item"))
    # A bit for each person, in a row for each item.
    has_item = np.zeros((1 + items_had.max(initial=0), -(-people // 8)), np.uint8)
    np.bitwise_or.at(has_item, (items_had, users >> 3), (1 << (users & 7)).astype(np.uint8))
    pairs = pairs.filter(pl.all_horizontal(pl.col("item", "other") < len(has_item)))
    both = np.zeros(pairs.height, np.uint32)
    at_once = max(1, BYTES_AT_ONCE // max(1, has_item.shape[1]))
    for start in range(0, pairs.height, at_once):
        part = pairs.slice(start, at_once)
        items, others = (part.get_column(name).to_numpy() for name in ("item", "other"))
        shared = has_item[items] & has_item[others]
        both[start : start + at_once] = np.bitwise_count(shared).sum(axis=1, dtype=np.uint32)
    counted = pairs.with_columns(both=both).filter(pl.col("both") >= FEWEST_PEOPLE)
    return _select_strong(counted, had, people)


def _select_strong(pairs: pl.DataFrame, had: pl.DataFrame, people: int) -> pl.DataFrame:
    """The pairs that more people have than by chance, with their score, in both directions.

    pairs: the columns item, other and both.
    had, people: as of `pair_histories`.
    """
    scored = _score(pairs, _count_people(had), DISCOUNT_HISTORIES)
    by_chance = pl.col("people").cast(pl.Float64) * pl.col("people_of_other") / people
    strong = scored.filter(pl.col("both") > by_chance).select(*pairs.columns, "score")
    return _mirror(strong).sort("item", "other")


def _mirror(pairs: pl.DataFrame) -> pl.DataFrame:
    """Each pair in both directions."""
    mirrored = pairs.with_columns(item="other", other="item")
    return pl.concat([pairs, mirrored])


def _count_people(had: pl.DataFrame) -> pl.DataFrame:
    """How many people had each item: the columns item and people."""
    return had.group_by("item").agg(people=pl.col("user").n_unique())


def _score(pairs: pl.DataFrame, people: pl.DataFrame, discount: int) -> pl.DataFrame:
    """The pairs with the columns people and people_of_other, of either item, and score.

    pairs: the columns item, other, and both: how many people had both, by their weight.
    people: as of `_count_people`.
    discount: of how many people the discount is one half.
    """
    both, product = pl.col("both"), pl.col("people") * pl.col("people_of_other")
    return (
        pairs.join(people, on="item")
        .join(people.rename({"item": "other", "people": "people_of_other"}), on="other")
        .with_columns(score=both / (both + discount) * both / product.cast(pl.Float64).sqrt())
    )


def _count_together(rows: pl.DataFrame, within_seconds: int) -> pl.DataFrame:
    """How many people had both items of a pair: the columns item, other, people and together.

    Each pair of at least FEWEST_PEOPLE is there once, with the lower number first. `together` has
    how many of the people had both together.

    rows: the columns user, item and time, in the order of users and of their times.
    within_seconds: what was had within them was had together.
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
    """The columns item and other of a pair's number."""
    item, other = pl.col("pair") // 2**32, pl.col("pair") % 2**32
    return item.cast(pl.UInt32).alias("item"), other.cast(pl.UInt32).alias("other")


def _add_up(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The counts of all parts: the columns pair, people and together."""
    schema = {"pair": pl.UInt64, "people": pl.UInt32, "together": pl.UInt32}
    counts = pl.concat([pl.DataFrame(schema=schema), *parts])
    return counts.group_by("pair").agg(pl.col("people", "together").sum())


def _iterate_pairs(rows: pl.DataFrame, within_seconds: int) -> Iterator[pl.DataFrame]:
    """Tables of user, pair and is_near, with all pairs of a user in one of them.

    A pair's number is that of the lower item, times 2 to the power of 32, and the other.
    """
    users = rows.get_column("user").to_numpy()
    items = rows.get_column("item").to_numpy().astype(np.uint64)
    times = rows.get_column("time").to_numpy()
    first_rows = np.flatnonzero(np.diff(users, prepend=-1))
    start = 0
    while start < len(users):
        # The first user who begins after this many events, or the end.
        user = np.searchsorted(first_rows, start + EVENTS_AT_ONCE)
        end = int(first_rows[user]) if user < len(first_rows) else len(users)
        part = slice(start, end)
        yield _pair_events(_Events(users[part], items[part], times[part]), within_seconds)
        start = end


@dataclass(frozen=True)
class _Events:
    """What people had: an entry for each event, in the order of users and of their times."""

    users: Int64s
    items: np.ndarray
    times: Int64s


def _pair_events(events: _Events, within_seconds: int) -> pl.DataFrame:
    """The columns user, pair, and is_near: whether both events were had together."""
    users, items, times = events.users, events.items, events.times
    schema = {"user": pl.UInt32, "pair": pl.UInt64, "is_near": pl.Boolean}
    pairs = [pl.DataFrame(schema=schema)]
    for distance in range(1, min(len(users), MOST_AFTER + 1)):
        rows = np.flatnonzero(users[distance:] == users[:-distance])
        is_near = times[rows + distance] - times[rows] <= within_seconds
        if distance > MOST_AFTER_APART:
            rows, is_near = rows[is_near], is_near[is_near]
        # Those further apart are not within the days either.
        if not len(rows):
            break
        one, other = items[rows], items[rows + distance]
        is_pair = one != other
        lower = np.minimum(one, other)[is_pair] << np.uint64(32)
        codes = lower | np.maximum(one, other)[is_pair]
        pairs.append(
            pl.DataFrame({"user": users[rows][is_pair], "pair": codes, "is_near": is_near[is_pair]})
        )
    return pl.concat(pairs)
