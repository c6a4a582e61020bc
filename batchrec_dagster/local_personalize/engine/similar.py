"""The recipe of items for an item: items that the same users had, then popular items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.recipes import Values

from . import store
from .blend import drop_extreme_users, mark_within_percentiles
from .content import ItemFeatures
from .data import (
    Float32,
    History,
    Ids,
    Int32,
    Interactions,
    Log,
    find_positions,
    order_by_popularity,
    read_histories,
)
from .evaluate import Measurements, hold_out, measure
from .pairs import fit_related
from .parallel import ordered_map
from .serve import Exclude, Lists, split_requests, top_k

POPULARITY_DISCOUNT = 0.5  # The default of aws-sims' popularity_discount_factor.
MIN_COINTERACTIONS = 3  # The default of aws-sims' min_cointeraction_count.
NEIGHBORS = 500  # The number of similar items to keep for each item.


@dataclass(frozen=True)
class SimilarItems:
    """A model that finds items that share users with a given item, then popular items."""

    item_ids: Ids
    """Distinct item ids of shape (n_items,), the most popular first."""

    weights: csr_matrix
    """Similarities above 0, float32 of shape (n_items, n_items).

    A row is the item of a request, and its columns are the similar items.
    """

    def list_similar(
        self, item_ids: Sequence[str], k: int, exclude: Exclude | None = None
    ) -> Iterator[Lists]:
        """Yield the lists of similar items in chunks, in the order of the given items.

        An item's list never has the item itself. If too few items are similar, popular items
        follow. The list of an unknown item has only popular items. All scores are 0. Lists that run
        out of items end with -1.

        k: the length of each list.
        exclude: excludes items from the lists.
        """
        queries = find_positions(self.item_ids, item_ids)

        def answer(block: slice) -> Lists:
            scores = self.compare(queries[block])
            if exclude is not None:
                exclude(block, scores)
            items = top_k(scores, k)
            return Lists(items, np.zeros(items.shape))

        return ordered_map(answer, split_requests(len(queries), len(self.item_ids)))

    def compare(self, items: Int32) -> Float32:
        """Return the similarity of all items to each given item, of shape (len(items), n_items).

        The similarity of an item to itself is -inf. Items that are not similar get negative values
        that fall with the items' popularity.

        items: item indices; -1 is an unknown item.
        """
        n = len(self.item_ids)
        scores = np.tile(-1 - np.arange(n, dtype=np.float32), (len(items), 1))
        known_rows = np.flatnonzero(items >= 0)
        similar = self.weights[items[known_rows]]
        rows = np.repeat(known_rows, np.diff(similar.indptr))
        scores[rows, similar.indices] = similar.data
        scores[known_rows, items[known_rows]] = -np.inf
        return scores

    def save(self, folder: Path) -> None:
        """Write the model into the folder."""
        values = {"item_ids": self.item_ids, "weights": self.weights}
        store.save(folder, values, {})

    @classmethod
    def load(cls, folder: Path) -> SimilarItems:
        """Return the saved model. Raises ModelFileError if it is missing or damaged."""
        values, _ = store.load(folder)
        return cls(values["item_ids"], values["weights"])


@dataclass(frozen=True)
class LastItemModel:
    """A model that recommends items similar to the user's last item, to measure similar items."""

    model: SimilarItems

    @property
    def item_ids(self) -> Ids:
        return self.model.item_ids

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """Return similarities of shape (users, n_items), always in a new array."""
        last = np.full(len(history.lengths), -1, np.int32)
        has_items = history.lengths > 0
        last[has_items] = history.items[history.starts[:-1][has_items]]
        return self.model.compare(last)

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """Return the items of each list, best first, of shape (users, k); -1 pads."""
        return top_k(scores, k)


def train_sims(
    interactions: Interactions, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[SimilarItems, Measurements]:
    """Train aws-sims, where items with few common users are not similar."""
    values = {"min_cointeraction_count": MIN_COINTERACTIONS, **values}
    return train_similar_items(interactions, features, values, log)


def train_similar_items(
    interactions: Interactions, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[SimilarItems, Measurements]:
    """Train aws-similar-items, where items with few common users are similar, too."""
    held_out = hold_out(interactions)
    measurements = Measurements()
    if held_out is not None:
        test_model = LastItemModel(_fit(held_out.train, values))
        measurements = measure(test_model, held_out)
    return _fit(interactions, values), measurements


def _fit(interactions: Interactions, values: Values) -> SimilarItems:
    order = order_by_popularity(interactions)
    item_ids = interactions.item_ids[order]
    selected = drop_extreme_users(interactions, values)
    history = read_histories(selected, item_ids, np.unique(selected.users))
    counts = interactions.item_counts[order]
    is_kept = mark_within_percentiles(counts, "item_interaction_count", values)
    weights = fit_related(
        history.keep(is_kept[history.items]),
        neighbors=NEIGHBORS,
        discount=float(values.get("popularity_discount_factor", POPULARITY_DISCOUNT)),
        least_users=int(values.get("min_cointeraction_count", 1)),
    )
    return SimilarItems(item_ids, weights)
