"""Chooses how many days of interactions count for popularity, by what people chose later.

At several cutoffs, the most popular items of the last days before it are compared with what people
chose in the time after it. The cutoffs are at whole multiples of that time since 1970, so that from
one night to the next the same days are compared, and the choice changes at most when such a time
has passed. The longest window wins that is not worse than the best by more than one standard error
over the cutoffs: a short one has to be better by more than chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.rules.pairs import Numbers
from batchrec_dagster.steps.sampled_interactions import SampledInteractions

SECONDS_A_DAY = 86_400
# The windows in days, the longest first; None is all time.
WINDOWS = (None, 365, 90, 30, 7)
# People are followed for so many days after a cutoff. The first that fits into the data four times
# is used.
HORIZONS = (30, 7, 1)
HORIZONS_NEEDED = 4
MOST_CUTOFFS = 10
MOST_PEOPLE = 2_000
LIST_LENGTH = 25
# The place of an item that nobody had.
FAR = 2**40

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Places = np.ndarray[tuple[int, int], np.dtype[np.int64]]


@dataclass(frozen=True)
class WindowChoice:
    """The chosen window, and what was measured."""

    days: int | None
    """None for all time."""
    ndcg: dict[str, float]
    """The NDCG@25 of the most popular items of each window, by its days or `all`. Empty if the data
    are too short to compare."""
    lists: int
    """How many lists were compared: one for each person at each cutoff."""
    horizon: int
    """How many days after a cutoff people were followed; 0 if nothing was compared."""

    def to_json(self) -> dict[str, Any]:
        """What an edition's metadata say of the choice."""
        return {
            "chosen": "auto",
            "ndcg_by_days": self.ndcg,
            "lists_compared": self.lists,
            "days_followed": self.horizon,
        }


def choose_window(sample: SampledInteractions, *, exclude_seen: bool) -> WindowChoice:
    """The window whose most popular items match best what people chose later.

    exclude_seen: whether lists leave out what people had.
    """
    rows = sample.rows
    undecided = WindowChoice(None, {}, 0, 0)
    if not rows.height:
        return undecided
    first, last = int(rows["time"].min()), int(rows["time"].max())  # type: ignore[arg-type]
    horizon = next(
        (days for days in HORIZONS if last - first >= HORIZONS_NEEDED * days * SECONDS_A_DAY), None
    )
    if horizon is None:
        return undecided
    length = horizon * SECONDS_A_DAY
    windows = [
        days for days in WINDOWS if days is None or days * SECONDS_A_DAY < last - length - first
    ]
    newest_cutoff = (last // length - 1) * length
    cutoffs = [newest_cutoff - number * length for number in range(MOST_CUTOFFS)]
    ndcg_by_cutoff = [
        _measure_windows(sample, windows, cutoff, length, exclude_seen=exclude_seen)
        for cutoff in cutoffs
        if cutoff >= first + length
    ]
    ndcg_by_cutoff = [values for values in ndcg_by_cutoff if len(values)]
    if len(ndcg_by_cutoff) < 2:
        return undecided
    lists = sum(map(len, ndcg_by_cutoff))
    sums = np.stack([values.sum(axis=0) for values in ndcg_by_cutoff])
    means = sums.sum(axis=0) / lists
    best = int(means.argmax())
    leads = means[best] - means
    # All lists of a cutoff are made from the same ranking, so the cutoffs count as one draw each.
    sizes = np.array([[len(values)] for values in ndcg_by_cutoff])
    deviations = sums[:, [best]] - sums - sizes * leads
    cutoffs_measured = len(ndcg_by_cutoff)
    errors = np.sqrt((deviations**2).sum(axis=0) * cutoffs_measured / (cutoffs_measured - 1))
    chosen = next(
        days
        for days, lead, error in zip(windows, leads, errors / lists, strict=True)
        if lead <= error
    )
    ndcg = {_name(days): round(float(mean), 6) for days, mean in zip(windows, means, strict=True)}
    return WindowChoice(chosen, ndcg, lists, horizon)


def _name(days: int | None) -> str:
    return "all" if days is None else f"{days}"


def _measure_windows(
    sample: SampledInteractions,
    windows: list[int | None],
    cutoff: int,
    length: int,
    *,
    exclude_seen: bool,
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(people, windows) the NDCG@25 of each window for each person who chose something.

    length: how many seconds after the cutoff people are followed.
    """
    time, rows = pl.col("time"), sample.rows
    chosen = rows.filter(time > cutoff, time <= cutoff + length, pl.col("weight") > 0)
    people = chosen.get_column("user").unique().sort()
    people = people.gather_every(-(-len(people) // MOST_PEOPLE) or 1)
    past = rows.filter(time <= cutoff)
    seen = past.select("user", "item").filter(pl.col("user").is_in(people.implode())).unique()
    chosen = chosen.select("user", "item").filter(pl.col("user").is_in(people.implode())).unique()
    if exclude_seen:
        chosen = chosen.join(seen, on=["user", "item"], how="anti")
    else:
        seen = seen.clear()
    if not chosen.height:
        return np.zeros((0, len(windows)))
    people_of_items = PeopleOfItems(past, sample.items)
    starts = [None if days is None else cutoff - days * SECONDS_A_DAY for days in windows]
    places = np.stack([people_of_items.place(start) for start in starts])
    return measure_lists(places, chosen, seen)


class PeopleOfItems:
    """Counts the people who had each item, each by the largest weight of their interactions.

    rows: the columns user, item, time and weight.
    items: how many items there are.
    """

    def __init__(self, rows: pl.DataFrame, items: int) -> None:
        self._items = items
        # For each weight its lead over the next lower one, and the latest interaction of at least
        # this weight of each user and item. Leads add up to the largest weight of a person.
        self._levels: list[tuple[float, Numbers, Numbers]] = []
        lower = 0.0
        for weight in rows.filter(pl.col("weight") > 0)["weight"].unique().sort():
            latest = (
                rows.filter(pl.col("weight") >= weight)
                .group_by("user", "item")
                .agg(pl.col("time").max())
            )
            columns = latest["item"].to_numpy(), latest["time"].to_numpy()
            self._levels.append((weight - lower, *columns))
            lower = weight

    def count(self, after: int | None) -> Floats:
        """The popularity of each item by the interactions after this time; None for all of them."""
        popularity = np.zeros(self._items)
        for lead, items, times in self._levels:
            in_window = items if after is None else items[times > after]
            popularity += lead * np.bincount(in_window, minlength=self._items)
        return popularity

    def place(self, after: int | None) -> Numbers:
        """The place of each item by the interactions after this time, and then by all of them."""
        return place_by_popularity(self.count(after), self.count(None))


def place_by_popularity(popularity: Floats, of_others: Floats) -> Numbers:
    """The place of each item by its popularity, from 1; ties are in the order of the items.

    The place is FAR for items without any popularity.

    of_others: a second popularity, by which items that have none follow.
    """
    second = np.where(popularity > 0, 0.0, of_others)
    order = np.lexsort((-second, -popularity))
    places = np.empty(len(popularity), np.int64)
    places[order] = np.arange(1, len(popularity) + 1)
    return np.where((popularity > 0) | (second > 0), places, FAR)


def measure_lists(
    places: Places, chosen: pl.DataFrame, seen: pl.DataFrame
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(people, rankings) the NDCG@25 of each ranking's best items for each person who chose any.

    The people are in the order of their numbers.

    places: (rankings, items) the place of each item, from 1.
    chosen: the columns user and item, of what people chose; distinct.
    seen: the same of what is left out of their lists; none of it is among the chosen.
    """
    users, items = (
        np.concatenate([chosen[column].to_numpy(), seen[column].to_numpy()]).astype(np.int64)
        for column in ("user", "item")
    )
    is_seen = np.arange(len(users)) >= chosen.height
    people, relevant = np.unique(chosen["user"].to_numpy(), return_counts=True)
    ideal = _IDEAL_GAINS[np.minimum(relevant, LIST_LENGTH)]
    columns = []
    for places_of_items in places:
        place = places_of_items[items]
        order = np.lexsort((place, users))
        seen_before = np.cumsum(is_seen[order])
        # How many seen items people with lower numbers have.
        starts = np.searchsorted(users[order], users[order])
        seen_of_others = np.concatenate([[0], seen_before])[starts]
        own_place = place[order] - (seen_before - seen_of_others)
        is_hit = ~is_seen[order] & (own_place <= LIST_LENGTH)
        hits = np.searchsorted(people, users[order][is_hit])
        gains = np.bincount(hits, 1 / np.log2(1 + own_place[is_hit]), minlength=len(people))
        columns.append(gains / ideal)
    return np.column_stack(columns)


# The gain of the best possible list by how many items are chosen.
_IDEAL_GAINS = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(LIST_LENGTH)))])
