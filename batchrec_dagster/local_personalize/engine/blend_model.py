"""The model of items for users: it scores all items with a blend, and places new ones.

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

# Defaults of Personalize's itemExplorationConfig; recipes of version 2 decide by themselves.
EXPLORATION_WEIGHT = 0.3
MAX_AGE = 30.0  # days, if there is a creation time
NEW_ITEMS = "new-items"
NEW_ITEMS_RECENCY = 0.3
COMPARED = 10  # the first items of a list, which a new one has to suit the user as well


@dataclass(frozen=True)
class PopularityScorer:
    """The number of interactions of each item, for every history."""

    counts: Float32
    """(n_items,)"""

    def add(self, scores: Float32, history: History, exponent: float, weight: float) -> None:
        """See `select.Scorer`."""
        scores += self.counts * np.float32(weight)


@dataclass(frozen=True)
class NewItems:
    """Items that nobody has had, after the others in all arrays."""

    scorer: ContentScorer
    """Scores all items by their features."""

    ages: Float64
    """(new,) days from the creation to the newest interaction; NaN if unknown."""

    share: float = EXPLORATION_WEIGHT
    """The largest share of them in a list, and in its beginnings."""

    drops_history: bool = False
    """Whether a list loses all that its user had, also what the filter does not know of: it knows
    the latest interactions only. Then that is not counted, as if the filter knew it."""

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """(users, k): the best items, and at places for new ones those that suit the user.

        A new item suits if its features have at least the score that those of the list's first ten
        items have in the middle. Of the first n items of a list, for every n, at most the share is
        new.
        """
        n_own = scores.shape[1] - len(self.ages)
        own = top_k(scores[:, :n_own], k)
        is_had = np.zeros(scores.shape, bool)
        if self.drops_history:
            is_had[history.owners, history.items] = True
        suits = np.zeros(scores.shape, np.float32)
        self.scorer.add(suits, history, NEW_ITEMS_RECENCY, 1.0)
        counted = np.where(is_had[:, :n_own], np.float32(-np.inf), scores[:, :n_own])
        first = np.maximum(top_k(counted, COMPARED), 0)
        least = np.median(np.take_along_axis(suits, first, axis=1), axis=1, keepdims=True)
        is_suitable = (suits >= least) & (suits > 0) & (scores > -np.inf) & ~is_had
        is_suitable[:, :n_own] = False
        new = top_k(np.where(is_suitable, suits, np.float32(-np.inf)), k)
        lists = np.full(own.shape, -1, np.int32)
        rows = np.arange(len(lists))
        new_taken, places_counted = np.zeros((2, len(lists)), np.int64)
        for place in range(k):
            next_own, next_new = own[rows, place - new_taken], new[rows, new_taken]
            has_room = new_taken + 1 <= self.share * (places_counted + 1) + 1e-9
            is_new = (next_new >= 0) & (has_room | (next_own < 0))
            lists[:, place] = np.where(is_new, next_new, next_own)
            new_taken += is_new
            places_counted += is_new | ~is_had[rows, np.maximum(next_own, 0)]
        return lists


@dataclass(frozen=True)
class BlendModel:
    """Scores all items for users. Users without a history get popular items."""

    item_ids: Ids
    """(n_items,) distinct str, the most popular first, then the new ones."""

    popularity: Float32
    """(n_items without new ones,) log of the counts."""

    scorers: Mapping[str, Scorer]
    """The components by name."""

    blend: Blend
    """Their weights and recency exponents."""

    repeats: Repeats | None = None
    """How likely items come again; None if users seldom have an item again."""

    new_items: NewItems | None = None
    """The last of `item_ids`, which nobody had in the training."""

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """(users, n_items) logits. Those of new items are the least: they have places of their
        own."""
        own = history.keep_items(len(self.popularity))
        if out is None:
            out = np.empty((len(own.lengths), len(self.item_ids)), np.float32)
        out[:, own.n_items :] = LEAST_SCORE
        logits = out[:, : own.n_items]
        logits[:] = 0
        for scorer, exponent, weight in self._weighted_scorers:
            scorer.add(logits, own, exponent, weight)
        if self.repeats is not None:
            self.repeats.add(logits, own)
        logits[own.lengths == 0] = self.popularity
        return out

    @cached_property
    def _weighted_scorers(self) -> list[tuple[Scorer, float, float]]:
        """The components with their exponents and weights; one for all pairs of one exponent.

        A history is multiplied once with the sum of their weights, not once with each.
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
        """See `serve.UserModel`."""
        if self.new_items is None:
            return top_k(scores, k)
        return self.new_items.choose(scores, history, k)

    def with_exploration(self, weight: float, max_age: float) -> BlendModel:
        """The model with only some of its new items.

        weight: the largest share of new items.
        max_age: the largest age of an item in days; items of unknown age stay.
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
        """The model for lists that lose all that their users had, see `NewItems`."""
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
        """The model that was saved. Raises ModelFileError."""
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


# The types of the components by name.
SCORERS: Mapping[str, Any] = {
    SEQUENCE: PairScorer,
    COOCCURRENCE: PairScorer,
    FACTORS: FactorScorer,
    FIRM_FACTORS: FactorScorer,
    POPULARITY: PopularityScorer,
    CONTENT: ContentScorer,
    NEW_ITEMS: ContentScorer,
}
