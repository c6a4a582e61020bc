"""Measures popular items for newcomers: the newest users, as if nothing were known of them.

People without a history have nothing to hold out, so no model can be measured on them. What they
get are popular items, and for these one can ask: how many of the last who came would have found
something among the items that were popular before they came?
"""

from __future__ import annotations

import numpy as np
import polars as pl

from batchrec_dagster.steps.popularity_window import LIST_LENGTH, SECONDS_A_DAY, PeopleOfItems
from batchrec_dagster.steps.sampled_interactions import SampledInteractions

# One user in this many counts as a newcomer: those whose first interaction is the latest.
PARTS_OF_USERS = 10
# How many of the items that a newcomer chose first count. With all of them, those who stayed
# longest would be the easiest to please.
FIRST_CHOICES = 10


def find_newcomer_hits(sample: SampledInteractions, days: int | None) -> pl.Series | None:
    """Whether each newcomer chose something from popular items; None without newcomers.

    The list has the 25 items that were most popular when the first of the newcomers came. The
    newcomers are those who had an event that counts as success.

    days: how many days before that count for popularity; None for all time.
    """
    starts = sample.rows.group_by("user").agg(start=pl.col("time").min())
    newest_first = starts.get_column("start").sort(descending=True)
    number = len(newest_first) // PARTS_OF_USERS
    if not number:
        return None
    # The last user who is no newcomer came at this time. Users who came then are none either.
    latest = int(newest_first[number])
    newcomers = starts.filter(pl.col("start") > latest).select("user")
    before = sample.rows.filter(pl.col("time") <= latest)
    after = None if days is None else latest - days * SECONDS_A_DAY
    places = PeopleOfItems(before, sample.items).place(after)
    # Interactions of the same second are in an order that does not depend on the items' ids alone.
    mixed = (pl.col("item").cast(pl.UInt64) * 2_654_435_761 + pl.col("user") * 40_503) % 2**32
    chosen = (
        sample.rows.filter("is_target")
        .join(newcomers, on="user", how="semi")
        .group_by("user", "item")
        .agg(pl.col("time").min())
        .sort("user", "time", mixed, "item")
        .group_by("user", maintain_order=True)
        .head(FIRST_CHOICES)
    )
    if not chosen.height:
        return None
    is_hit = pl.Series(np.asarray(places[chosen.get_column("item").to_numpy()] <= LIST_LENGTH))
    hits = chosen.with_columns(is_hit=is_hit)
    return hits.group_by("user", maintain_order=True).agg(pl.col("is_hit").any())["is_hit"]
