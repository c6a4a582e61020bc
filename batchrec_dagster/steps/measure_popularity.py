"""Measures recommending popular items, as Personalize measures a model.

Amazon Personalize measures with the most popular items of all time, which a shop would not show.
This measures those of the last days on this side, for both engines alike, and those of all time in
the same way, so that one sees the difference.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import polars as pl
from numpy.typing import NDArray

from batchrec_dagster.config.popularity import ALL_TIME, AUTO, Popularity
from batchrec_dagster.outcomes.measured_popularity import MeasuredPopularity
from batchrec_dagster.steps.measure_newcomers import find_newcomer_hits
from batchrec_dagster.steps.popularity_window import (
    SECONDS_A_DAY,
    PeopleOfItems,
    choose_window,
    measure_lists,
    place_by_popularity,
)
from batchrec_dagster.steps.sampled_interactions import (
    SampledInteractions,
    choose_users,
    sample_interactions,
)

# One user in so many is tested, and this share of their interactions is held out: developer guide,
# "Evaluating a solution version with metrics".
PARTS_OF_USERS, HELD_OUT_SHARE = 10, 0.1
# Half of a 95% interval, in standard errors.
STANDARD_ERRORS = 1.96


def measure_popularity(
    interactions: pl.LazyFrame,
    settings: Popularity,
    *,
    exclude_seen: bool,
    target_events: Collection[str] = (),
) -> MeasuredPopularity | None:
    """The NDCG@25 of popular items for a tenth of the users; None if nobody can be tested.

    Popularity is counted on the interactions of all other users, and the newest tenth of the tested
    users' own is what they chose. Of very many interactions, those of a part of the users count.

    exclude_seen: whether lists leave out what users had. Then auto chooses the days by such lists.
    target_events: the types of events that count as chosen, in lower case; none if all do.
    """
    sample = sample_interactions(interactions, settings.weights, targets=target_events)
    if settings.days == AUTO:
        days = choose_window(sample, exclude_seen=exclude_seen).days
    else:
        days = None if settings.days == ALL_TIME else int(settings.days)
    chosen, seen, others = _hold_out(sample)
    if not (chosen.height and others.height):
        return None
    newest = int(others["time"].max())  # type: ignore[arg-type]
    after = None if days is None else newest - days * SECONDS_A_DAY
    recent_places = PeopleOfItems(others, sample.items).place(after)
    counts = np.bincount(others["item"].to_numpy(), minlength=sample.items).astype(np.float64)
    places = np.stack([recent_places, place_by_popularity(counts, counts)])
    recent, all_time = measure_lists(places, chosen, seen).T
    hits = find_newcomer_hits(sample, days)
    newcomer_hits = np.zeros(0) if hits is None else hits.cast(pl.Float64).to_numpy()
    return MeasuredPopularity(
        days,
        users=len(recent),
        ndcg=float(recent.mean()),
        margin=_compute_margin(recent),
        all_time_ndcg=float(all_time.mean()),
        all_time_margin=_compute_margin(all_time),
        newcomers=len(newcomer_hits),
        newcomer_hit_rate=float(newcomer_hits.mean()) if len(newcomer_hits) else None,
        newcomer_margin=_compute_margin(newcomer_hits),
    )


def _compute_margin(values: NDArray[np.float64]) -> float | None:
    """Half of the 95% interval of the mean of these values, one a user; None of one user alone."""
    if len(values) < 2:
        return None
    return STANDARD_ERRORS * float(values.std(ddof=1)) / float(np.sqrt(len(values)))


def _hold_out(
    sample: SampledInteractions,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """What the tested users chose, what they had before, and the rows of all other users.

    The first two have the columns user and item, once each; none of the first is in the second.
    """
    is_tested = choose_users(sample.user_ids, PARTS_OF_USERS, "tested")
    tested_users = pl.Series(np.flatnonzero(is_tested.to_numpy()), dtype=pl.UInt32)
    in_test = pl.col("user").is_in(tested_users.implode())
    # Interactions of the same second are in an order that does not depend on the items' ids alone.
    mixed = (pl.col("item").cast(pl.UInt64) * 2_654_435_761 + pl.col("user") * 40_503) % 2**32
    place, size = pl.int_range(pl.len()).over("user"), pl.len().over("user")
    rows = (
        sample.rows.filter(in_test)
        .with_columns(mixed=mixed)
        .sort("user", "time", "mixed", "item")
        .with_columns(is_seen=place < ((1 - HELD_OUT_SHARE) * size).floor())
        .filter(size > 1)
    )
    seen = rows.filter("is_seen").select("user", "item").unique()
    chosen = rows.filter(~pl.col("is_seen"), "is_target").select("user", "item").unique()
    chosen = chosen.join(seen, on=["user", "item"], how="anti")
    return chosen, seen, sample.rows.filter(~in_test)
