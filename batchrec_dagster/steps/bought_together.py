"""Which items people had together: batchrec's own count, without Amazon Personalize.

Two items were had together if the same person had both within some days. A pair's score is the
number of people who had both together, over the geometric mean of the numbers of people who had
either: the cosine of item-kNN (Sarwar et al., "Item-based collaborative filtering recommendation
algorithms", WWW 2001). Two things differ from it. People who had both, but not together, count
less, as few people ever buy two things at once, and what goes together by taste is better than
nothing. And few people can be chance, so they count less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from batchrec_dagster.personalize.conditions import SECONDS_A_DAY
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.pairs import Numbers, find_positions

# How many people must have had both items: with fewer, a list would show what one person bought.
FEWEST_PEOPLE = 2
# How much people count who had both items, but never together.
WEIGHT_APART = 0.3
# If this many people had both items, the discount is one half.
DISCOUNT = 5
# Of what somebody has after an item, so many are paired with it: nobody buys more together, while
# an automatic import of a history would make millions of pairs. Of what was not had together, only
# the next few: pairs of whole histories would take most of the time.
MOST_AFTER, MOST_AFTER_APART = 100, 25
# So many events are paired at once, which bounds the memory.
EVENTS_AT_ONCE = 50_000
# The counts of so many pairs are kept before those of the same pairs are added up.
COUNTS_AT_ONCE = 20_000_000


def find_bought_together(
    interactions: pl.LazyFrame,
    *,
    within_days: int,
    most: int,
    events: Sequence[str] | None = None,
) -> pl.DataFrame:
    """For each item those that people had together with it, best first.

    The columns are item_id, similar_item_id and score, in the order of the items' ids. Items that
    go with no other are missing.

    interactions: the columns of Personalize's dataset.
    within_days: how many days there may be between both, at most, so that they were had together.
    most: how many items an item's list has at most.
    events: only events of these types count, in any case; None for all.
    """
    if events is not None:
        interactions = _select_events(interactions, events)
    ids = interactions.select(pl.col(ITEM_ID).unique()).collect(engine="streaming").to_series()
    ids = ids.sort()
    users = interactions.select(pl.col(USER_ID).unique()).collect(engine="streaming").to_series()
    rows = (
        interactions.select(
            user=find_positions(USER_ID, users.sort()),
            item=find_positions(ITEM_ID, ids),
            time=TIMESTAMP,
        )
        .cast({"user": pl.UInt32, "item": pl.UInt32})
        .unique()
        .sort("user", "time", "item")
        .collect(engine="streaming")
    )
    people = rows.select("user", "item").unique().group_by("item").len("people")
    pairs = count_people_of_pairs(rows, within_days * SECONDS_A_DAY).filter(
        pl.col("people") >= FEWEST_PEOPLE
    )
    scored = score_pairs(pairs, people)
    return (
        scored.sort("item", "score", "both", "other", descending=[False, True, True, False])
        .group_by("item", maintain_order=True)
        .head(most)
        .select(
            item_id=_name_items("item", ids),
            similar_item_id=_name_items("other", ids),
            score="score",
        )
    )


def _select_events(interactions: pl.LazyFrame, events: Sequence[str]) -> pl.LazyFrame:
    """The interactions of these types, in any case; none if they have no types."""
    if EVENT_TYPE not in interactions.collect_schema():
        return interactions.clear()
    names = [event.lower() for event in events]
    return interactions.filter(pl.col(EVENT_TYPE).str.to_lowercase().is_in(names))


def count_people_of_pairs(rows: pl.DataFrame, within_seconds: int) -> pl.DataFrame:
    """How many people had both items of a pair: the columns item, other, people and together.

    Each pair is there once, with the lower number first. `together` has how many of the people had
    both together.

    rows: the columns user, item and time, in the order of users and of their times.
    within_seconds: what was had within them was had together.
    """
    parts: list[pl.DataFrame] = []
    size = 0
    for codes in _iterate_pairs(rows, within_seconds):
        of_people = codes.group_by("user", "pair").agg(pl.col("is_near").any())
        counts = of_people.group_by("pair").agg(people=pl.len(), together=pl.col("is_near").sum())
        parts.append(counts)
        size += counts.height
        if size > COUNTS_AT_ONCE:
            parts = [_add_up(parts)]
            size = parts[0].height
    total = _add_up(parts)
    return total.select(
        item=(pl.col("pair") // 2**32).cast(pl.UInt32),
        other=(pl.col("pair") % 2**32).cast(pl.UInt32),
        people="people",
        together="together",
    )


def score_pairs(pairs: pl.DataFrame, people: pl.DataFrame) -> pl.DataFrame:
    """Each pair in both directions, with its score: the columns item, other, both and score.

    `both` is how many people had both, by their weight.

    pairs: as from `count_people_of_pairs`.
    people: how many people had each item: the columns item and people.
    """
    of_other = people.rename({"item": "other", "people": "people_of_other"})
    of_item = people.rename({"people": "people_of_item"})
    both = WEIGHT_APART * pl.col("people") + (1 - WEIGHT_APART) * pl.col("together")
    scored = (
        pairs.join(of_item, on="item")
        .join(of_other, on="other")
        .select(
            "item",
            "other",
            both=both,
            score=both
            / (both + DISCOUNT)
            * both
            / (pl.col("people_of_item") * pl.col("people_of_other")).cast(pl.Float64).sqrt(),
        )
    )
    mirrored = scored.select(
        pl.col("other").alias("item"), pl.col("item").alias("other"), "both", "score"
    )
    return pl.concat([scored, mirrored])


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
        # The first user who begins after so many events, or the end.
        place = np.searchsorted(first_rows, start + EVENTS_AT_ONCE)
        end = int(first_rows[place]) if place < len(first_rows) else len(users)
        part = slice(start, end)
        events = Events(users[part], items[part], times[part])
        yield _pair_events(events, within_seconds)
        start = end


@dataclass(frozen=True)
class Events:
    """What people had: an entry for each event, in the order of users and of their times."""

    users: Numbers
    items: np.ndarray
    times: Numbers


def _pair_events(events: Events, within_seconds: int) -> pl.DataFrame:
    """The columns user, pair, and is_near: whether both events were had together."""
    users, items, times = events.users, events.items, events.times
    pairs: list[pl.DataFrame] = []
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
    schema = {"user": pl.UInt32, "pair": pl.UInt64, "is_near": pl.Boolean}
    return pl.concat([pl.DataFrame(schema=schema), *pairs])


def _add_up(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    schema = {"pair": pl.UInt64, "people": pl.UInt32, "together": pl.UInt32}
    counts = pl.concat([pl.DataFrame(schema=schema), *parts])
    return counts.group_by("pair").agg(pl.col("people", "together").sum())


def _name_items(column: str, ids: pl.Series) -> pl.Expr:
    return pl.lit(ids).gather(pl.col(column))
