"""The recipe of items for an item: those that the same users had, then popular ones."""

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

POPULARITY_DISCOUNT = 0.5  # default of aws-sims' popularity_discount_factor
MIN_COINTERACTIONS = 3  # default of its min_cointeraction_count
NEIGHBORS = 500  # similar items that are kept of each item


@dataclass(frozen=True)
class SimilarItems:
    """Finds items that share users with a given item, then popular items."""

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    weights: csr_matrix
    """(n_items, n_items) float32 above 0: a row is the item of a request, a column is similar."""

    def list_similar(
        self, item_ids: Sequence[str], k: int, exclude: Exclude | None = None
    ) -> Iterator[Lists]:
        """Yield the lists of similar items in chunks, in the order of the given items.

        An item itself is never in its list. Popular items follow when too few are similar, and are
        the list of an unknown item. Scores are 0. Lists that run out of items end with -1.

        k: the length of each list.
        exclude: takes items out of the lists.
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
        """(len(items), n_items): the similarity of all items to each of the given ones.

        It is -inf for an item itself, and negative for items that are not similar: the popular ones
        among these come first.

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
        """The model that was saved. Raises ModelFileError."""
        values, _ = store.load(folder)
        return cls(values["item_ids"], values["weights"])


@dataclass(frozen=True)
class LastItemModel:
    """Recommends to users what is similar to their last item: used to measure similar items."""

    model: SimilarItems

    @property
    def item_ids(self) -> Ids:
        return self.model.item_ids

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """(users, n_items) similarities, in an array of their own."""
        last = np.full(len(history.lengths), -1, np.int32)
        has_items = history.lengths > 0
        last[has_items] = history.items[history.starts[:-1][has_items]]
        return self.model.compare(last)

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """See `serve.UserModel`."""
        return top_k(scores, k)


def train_sims(
    interactions: Interactions, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[SimilarItems, Measurements]:
    """aws-sims: items with few users in common are not similar."""
    values = {"min_cointeraction_count": MIN_COINTERACTIONS, **values}
    return train_similar_items(interactions, features, values, log)


def train_similar_items(
    interactions: Interactions, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[SimilarItems, Measurements]:
    """aws-similar-items: also items with few users in common are similar."""
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
