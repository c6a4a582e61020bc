"""How novel the recommended items are: how well known they are, compared with what people had.

The page has three measures:

- the median popularity rank;
- the mean popularity percentile, which LensKit calls MeanPopRank (Ekstrand and Mahant, "Sturgeon
  and the cool kids", FLAIRS 2017);
- the mean self-information, the inverse free discovery of Vargas and Castells ("Rank and relevance
  in novelty and diversity metrics", RecSys 2011).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ItemNovelty:
    """How well known items are, as means over the places where they stand."""

    median_rank: int
    """Half of the places have items of this popularity rank or of a better one. 1 is the most
    popular item; 0 without any place."""
    percentile: float
    """The mean percentile of popularity: near 1 for the most popular item, 0 for items without
    interactions."""
    information: float
    """The mean self-information in bits, -log2 of an item's share of all interactions. Items
    without interactions are left out."""


@dataclass(frozen=True)
class Novelty:
    """How well known the items of the lists are, and those of the histories."""

    lists: ItemNovelty
    histories: ItemNovelty
    share_without_interactions: float
    """The share of all recommendations that are items without interactions."""


def measure_novelty(items: pl.DataFrame) -> Novelty:
    """How well known the items are.

    items: a row for each item of the catalogue, with its `interactions`, `lists` and `popularity`,
        the rank by interactions from 1.
    """
    interactions = items.get_column("interactions").to_numpy().astype(np.float64)
    lists = items.get_column("lists").to_numpy().astype(np.float64)
    ranks = items.get_column("popularity").to_numpy().astype(np.float64)
    percentiles = _rank_percentiles(items.get_column("interactions"))
    return Novelty(
        lists=_measure_places(lists, interactions, ranks, percentiles),
        histories=_measure_places(interactions, interactions, ranks, percentiles),
        share_without_interactions=float(lists[interactions == 0].sum() / max(1.0, lists.sum())),
    )


def find_weighted_median(values: Floats, weights: Floats) -> float | None:
    """The least value that half of the weight does not exceed; None without any weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    if not len(reached) or reached[-1] <= 0:
        return None
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _rank_percentiles(interactions: pl.Series) -> Floats:
    """The percentile of each item among those with interactions; equal ones share their mean."""
    ranks = interactions.replace(0, None).rank("average")
    items_with_interactions = int((interactions > 0).sum())
    return (ranks / max(1, items_with_interactions)).fill_null(0.0).to_numpy()


def _measure_places(
    places: Floats, interactions: Floats, ranks: Floats, percentiles: Floats
) -> ItemNovelty:
    """The novelty of places; each argument has a number for each item.

    places: how many places have the item.
    ranks, percentiles: those of its popularity.
    """
    measurable_places = places * (interactions > 0)
    shares = np.maximum(interactions, 1.0) / max(1.0, float(interactions.sum()))
    return ItemNovelty(
        median_rank=int(find_weighted_median(ranks, places) or 0),
        percentile=_average(percentiles, places),
        information=_average(-np.log2(shares), measurable_places),
    )


def _average(values: Floats, weights: Floats) -> float:
    """The weighted mean; 0 without any weight."""
    # Adding zero makes a negative zero positive.
    return float(weights @ values / max(1.0, float(weights.sum()))) + 0.0
