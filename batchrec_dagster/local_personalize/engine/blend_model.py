"""The model of items for users, which scores all items with a blend and places new items.

infer: histories -> each component's scores -> their weighted sum -> repeats, new items -> lists
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from . import store
from .content import ContentScorer
from .data import Bool, Float32, Float64, History, Ids, Int32
from .factors import FactorScorer
from .pairs import PairScorer
from .select import (
    CONTENT,
    COOCCURRENCE,
    FACTORS,
    FIRM_FACTORS,
    POPULARITY,
    SEQUENCE,
    Blend,
    Repeats,
    Scorer,
)
from .serve import LEAST_SCORE, top_k

# The defaults of Personalize's itemExplorationConfig. Personalize's recipes of version 2 choose
# these values by themselves.
EXPLORATION_WEIGHT = 0.3
MAX_AGE = 30.0  # The largest age in days. Items without a creation time have no largest age.
NEW_ITEMS = "new-items"
NEW_ITEMS_RECENCY = 0.3
# A new item must suit the user at least as well as the median of this many first items of a list.
COMPARED = 10


@dataclass(frozen=True)
class PopularityScorer:
    """A component that scores items by popularity. The scores are equal for all histories."""

    counts: Float32
    """The number of interactions of each item, of shape (n_items,)."""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """Add the weighted scores of all items to `scores`, in place."""
        scores += self.counts * np.float32(weight)


@dataclass(frozen=True)
class NewItems:
    """Items without interactions. In all arrays of items, they come after the known items."""

    scorer: ContentScorer
    """The scorer of all items, known and new, by their features."""

    ages: Float64
    """Days from the item's creation to the newest interaction, of shape (new,). NaN if unknown."""

    share: float = EXPLORATION_WEIGHT
    """The largest share of new items among the first n items of a list, for every n."""

    drops_history: bool = False
    """Whether the caller later removes from each list all items that its user had.

    A filter removes only the items of the user's latest interactions before `choose` is called. If
    this flag is set, `choose` counts places as if the filter had removed all items that the user
    had.
    """

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """Return the best known items, mixed with new items that suit the user.

        The result has shape (users, k). A new item suits a user if the score of its features is at
        least the median score of the features of the list's first ten items. Of the first n items
        of a list, for every n, at most `share` are new. If the known items run out, suitable new
        items fill the rest of the list.
        """
        n_known = scores.shape[1] - len(self.ages)
        known = top_k(scores[:, :n_known], k)
        is_had = np.zeros(scores.shape, bool)
        if self.drops_history:
            is_had[history.owners, history.items] = True
        suits = np.zeros(scores.shape, np.float32)
        self.scorer.add(suits, history, NEW_ITEMS_RECENCY, 1.0)
        counted = np.where(is_had[:, :n_known], np.float32(-np.inf), scores[:, :n_known])
        first = np.maximum(top_k(counted, COMPARED), 0)
        least = np.median(np.take_along_axis(suits, first, axis=1), axis=1, keepdims=True)
        is_suitable = (suits >= least) & (suits > 0) & (scores > -np.inf) & ~is_had
        is_suitable[:, :n_known] = False
        new = top_k(np.where(is_suitable, suits, np.float32(-np.inf)), k)
        lists = np.full(known.shape, -1, np.int32)
        rows = np.arange(len(lists))
        new_taken, places_counted = np.zeros((2, len(lists)), np.int64)
        for place in range(k):
            next_known, next_new = known[rows, place - new_taken], new[rows, new_taken]
            has_room = new_taken + 1 <= self.share * (places_counted + 1) + 1e-9
            is_new = (next_new >= 0) & (has_room | (next_known < 0))
            lists[:, place] = np.where(is_new, next_new, next_known)
            new_taken += is_new
            places_counted += is_new | ~is_had[rows, np.maximum(next_known, 0)]
        return lists


@dataclass(frozen=True)
class BlendModel:
    """A model that scores all items for users. Users without a history get popular items."""

    item_ids: Ids
    """Distinct item ids of shape (n_items,): known items by falling popularity, then new items."""

    popularity: Float32
    """The log of each known item's number of interactions, of shape (n_items - new,)."""

    scorers: Mapping[str, Scorer]
    """The components by name."""

    blend: Blend
    """The weights and recency exponents of the components."""

    repeats: Repeats | None = None
    """The chance that items of the history come again; None if repeats are rare in the data."""

    new_items: NewItems | None = None
    """The last items of `item_ids`, which had no interactions in training."""

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """Return logits of shape (users, n_items).

        New items have the least possible logit, because `choose` places them by their features.
        """
        known = history.keep_items(len(self.popularity))
        if out is None:
            out = np.empty((len(known.lengths), len(self.item_ids)), np.float32)
        out[:, known.n_items :] = LEAST_SCORE
        logits = out[:, : known.n_items]
        logits[:] = 0
        for scorer, exponent, weight in self._weighted_scorers:
            scorer.add(logits, known, exponent, weight)
        if self.repeats is not None:
            self.repeats.add(logits, known)
        logits[known.lengths == 0] = self.popularity
        return out

    @cached_property
    def _weighted_scorers(self) -> list[tuple[Scorer, float, float]]:
        """The components with their exponents and weights.

        All pair components with an equal exponent are added up to a single component, so that each
        history is multiplied with the sum once, and not with every component.
        """
        weighted: list[tuple[Scorer, float, float]] = []
        sums: dict[float, csr_matrix] = {}
        for name, scorer in self.scorers.items():
            exponent, weight = self.blend.exponents[name], self.blend.weights[name]
            if isinstance(scorer, PairScorer):
                weights = scorer.weights * np.float32(weight)
                sums[exponent] = sums[exponent] + weights if exponent in sums else weights
            else:
                weighted.append((scorer, exponent, weight))
        return [*weighted, *((PairScorer(sums[exponent]), exponent, 1.0) for exponent in sums)]

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """Return the items of each list, best first, of shape (users, k); -1 pads."""
        if self.new_items is None:
            return top_k(scores, k)
        return self.new_items.choose(scores, history, k)

    def with_exploration(self, weight: float, max_age: float) -> BlendModel:
        """Return the model with another share of new items, and only the young enough new items.

        weight: the largest share of new items in a list. With 0, the model has no new items.
        max_age: the largest age of a new item in days. Items of unknown age stay.
        """
        if self.new_items is None:
            return self
        ages = self.new_items.ages
        is_young: Bool = (np.isnan(ages) | (ages <= max_age)) & (weight > 0)
        is_kept = np.concatenate([np.ones(len(self.popularity), bool), is_young])
        if not is_young.any():
            return replace(self, item_ids=self.item_ids[is_kept], new_items=None)
        scorer = replace(
            self.new_items.scorer, features=self.new_items.scorer.features[np.flatnonzero(is_kept)]
        )
        new_items = replace(self.new_items, scorer=scorer, ages=ages[is_young], share=weight)
        return replace(self, item_ids=self.item_ids[is_kept], new_items=new_items)

    def dropping_history(self) -> BlendModel:
        """Return the model for callers that remove all items of the user's history from lists.

        The returned model has `NewItems.drops_history` set.
        """
        if self.new_items is None:
            return self
        return replace(self, new_items=replace(self.new_items, drops_history=True))

    def save(self, folder: Path) -> None:
        """Write the model into the folder."""
        values = {"item_ids": self.item_ids, "popularity": self.popularity}
        facts: dict[str, Any] = {"blend": asdict(self.blend), "repeats": None, "share": None}
        scorers = dict(self.scorers)
        if self.repeats is not None:
            facts["repeats"] = asdict(self.repeats)
        if self.new_items is not None:
            scorers[NEW_ITEMS] = self.new_items.scorer
            values["ages"] = self.new_items.ages
            facts["share"] = self.new_items.share
        for name, scorer in scorers.items():
            for field in fields(scorer):
                values[f"{name}/{field.name}"] = getattr(scorer, field.name)
        store.save(folder, values, facts)

    @classmethod
    def load(cls, folder: Path) -> BlendModel:
        """Return the saved model. Raises ModelFileError if it is missing or damaged."""
        values, facts = store.load(folder)
        scorers: dict[str, Any] = {}
        for name, scorer_type in SCORERS.items():
            parts = {
                field.name: values.get(f"{name}/{field.name}") for field in fields(scorer_type)
            }
            if all(part is not None for part in parts.values()):
                scorers[name] = scorer_type(**parts)
        new_items = None
        if facts["share"] is not None:
            new_items = NewItems(scorers.pop(NEW_ITEMS), values["ages"], facts["share"])
        repeats = Repeats(**facts["repeats"]) if facts["repeats"] else None
        blend = Blend(**facts["blend"])
        return cls(values["item_ids"], values["popularity"], scorers, blend, repeats, new_items)


# The types of the components and of the scorer of new items, by name.
SCORERS: Mapping[str, Any] = {
    SEQUENCE: PairScorer,
    COOCCURRENCE: PairScorer,
    FACTORS: FactorScorer,
    FIRM_FACTORS: FactorScorer,
    POPULARITY: PopularityScorer,
    CONTENT: ContentScorer,
    NEW_ITEMS: ContentScorer,
}
