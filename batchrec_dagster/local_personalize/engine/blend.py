"""The recipe of items for users: a weighted sum of co-occurrence, factors, popularity and content.

train: hold out users -> fit components -> select a blend -> measure it -> fit it on all users
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.recipes import Values

from . import content, factors, pairs, store
from .content import ContentScorer, ItemFeatures
from .data import (
    Bool,
    Float32,
    Float64,
    History,
    Ids,
    Int32,
    Interactions,
    Log,
    find_positions,
    order_by_popularity,
    read_histories,
)
from .evaluate import HeldOut, Measurements, hold_out, measure
from .factors import FactorScorer
from .pairs import PairScorer
from .select import (
    COMPONENTS,
    CONTENT,
    COOCCURRENCE,
    FACTORS,
    FIRM_FACTORS,
    POPULARITY,
    SEQUENCE,
    Blend,
    Repeats,
    Scorer,
    fit_repeats,
    scale_blend,
    select_blend,
)
from .serve import LEAST_SCORE, top_k

# The regularization of factors, and the confidence of an interaction.
FACTOR_OPTIONS = {FACTORS: (1.5, 3.0), FIRM_FACTORS: (10.0, 10.0)}
FEW_ROWS = 250_000  # more interactions are worth less regularization
# Where users have more items on average, and fewer of these have the time of the one before, the
# order in which they came is known so well that co-occurrence in either order adds nothing.
LONG_HISTORIES = 100
MANY_TIES = 0.2
NEIGHBORS = 500  # weights that co-occurrence keeps of each item
MANY_ROWS = 2_500_000  # with as many interactions, NEIGHBORS_OF_MANY weights are as accurate
NEIGHBORS_OF_MANY = 200
FACTOR_ROWS = 10_000_000  # with more interactions, factors are fitted on some users, then on all
# A model without the tested users is as good as one with them where these are a smaller share.
FEW_TESTED = 0.02

# For data without users to select on; the weight makes the softmax about as wide as a selection.
DEFAULT_BLEND = Blend({COOCCURRENCE: 10.0}, {COOCCURRENCE: 0.9})

# Defaults of Personalize's itemExplorationConfig; recipes of version 2 decide by themselves.
EXPLORATION_WEIGHT = 0.3
MAX_AGE = 30.0  # days, if there is a creation time
DAY = 86_400
MAX_NEW_ITEMS = 10_000  # the newest: each takes as long to score as another item
NEW_ITEMS = "new-items"
NEW_ITEMS_RECENCY = 0.3
COMPARED = 10  # the first items of a list, which a new one has to suit the user as well as


@dataclass(frozen=True)
class PopularityScorer:
    """The number of interactions of each item, for every history."""

    counts: Float32
    """(n_items,)"""

    def score(self, history: History, exponent: float) -> Float32:
        return np.tile(self.counts, (len(history.lengths), 1))


@dataclass(frozen=True)
class NewItems:
    """Items that nobody has had, after the others in all arrays."""

    scorer: ContentScorer
    """Scores all items by their features."""

    ages: Float64
    """(new,) days from the creation to the newest interaction; NaN if unknown."""

    share: float = EXPLORATION_WEIGHT
    """The largest share of them in a list, and in its beginnings."""

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """(users, k): the best items, and at places for new ones those that suit the user.

        A new item suits if its features have at least the score that those of the list's first ten
        items have in the middle. Of the first n items of a list, for every n, at most the share is
        new.
        """
        n_own = scores.shape[1] - len(self.ages)
        own = top_k(scores[:, :n_own], k)
        suits = self.scorer.score(history, NEW_ITEMS_RECENCY)
        first = np.maximum(own[:, :COMPARED], 0)
        least = np.median(np.take_along_axis(suits, first, axis=1), axis=1, keepdims=True)
        is_suitable = (suits >= least) & (suits > 0) & (scores > -np.inf)
        is_suitable[:, :n_own] = False
        new = top_k(np.where(is_suitable, suits, np.float32(-np.inf)), k)
        lists = np.full(own.shape, -1, np.int32)
        rows = np.arange(len(lists))
        new_taken = np.zeros(len(lists), np.int64)
        for place in range(k):
            next_own, next_new = own[rows, place - new_taken], new[rows, new_taken]
            has_room = new_taken + 1 <= self.share * (place + 1) + 1e-9
            is_new = (next_new >= 0) & (has_room | (next_own < 0))
            lists[:, place] = np.where(is_new, next_new, next_own)
            new_taken += is_new
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

    def score(self, history: History) -> Float32:
        """(users, n_items) logits. Those of new items are the least: they have places of their
        own."""
        own = history.keep_items(len(self.popularity))
        all_logits = np.full((len(own.lengths), len(self.item_ids)), LEAST_SCORE, np.float32)
        logits = all_logits[:, : own.n_items]
        logits[:] = 0
        for scorer, exponent, weight in self._weighted_scorers:
            scores = scorer.score(own, exponent)
            scores *= np.float32(weight)
            logits += scores
        if self.repeats is not None:
            self.repeats.add(logits, own)
        logits[own.lengths == 0] = self.popularity
        return all_logits

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
        new_items = NewItems(scorer, ages[is_young], weight)
        return replace(self, item_ids=self.item_ids[is_kept], new_items=new_items)

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


def train(
    interactions: Interactions,
    features: ItemFeatures | None,
    values: Values,
    log: Log,
    measure_model: Callable[[BlendModel, HeldOut], Measurements] = measure,
) -> tuple[BlendModel, Measurements]:
    """The model and what was measured, which is nothing when no users can be held out.

    features: the Items dataset, if there is one with features.
    values: the hyperparameters.
    measure_model: measures a model that has not seen the held-out users.
    """
    held_out = hold_out(interactions)
    if held_out is None:
        log("too little data to hold out users: no metrics, default blend")
        fitter = Fitter(interactions, features, values, log)
        return fitter.with_new_items(fitter.fit(DEFAULT_BLEND)), Measurements()
    test_model, fitter = _fit_and_select(held_out, features, values, log)
    measurements = measure_model(test_model, held_out)
    log(", ".join(f"{key} {value:.4f}" for key, value in measurements.metrics.items()))
    are_many_tested = len(held_out.users) > FEW_TESTED * len(interactions.user_ids)
    del held_out  # frees a copy of the data before the largest fit
    if not are_many_tested:
        return fitter.with_new_items(test_model), measurements
    fitter = Fitter(interactions, features, values, log, start=test_model)
    model = replace(fitter.fit(test_model.blend), repeats=test_model.repeats)
    return fitter.with_new_items(model), measurements


def _fit_and_select(
    held_out: HeldOut, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[BlendModel, Fitter]:
    """The model without the held-out users, and what fitted it."""
    sample = held_out.sample()
    fitter = Fitter(sample.train, features, values, log)
    scorers = fitter.fit_all(fitter.list_components())
    tested = sample.of_model(fitter.item_ids)
    blend = DEFAULT_BLEND
    if tested.truth.nnz:
        blend = select_blend(scorers, tested, recency=fitter.uses_recency)
    log(f"selected: {blend}")
    if sample is not held_out:
        fitter = Fitter(held_out.train, features, values, log)
        scorers = fitter.fit_all(list(blend.weights))
        tested = held_out.of_model(fitter.item_ids)
    if tested.truth.nnz:
        blend = scale_blend(blend, scorers, tested)
    model = fitter.assemble(scorers, blend)
    return replace(model, repeats=fit_repeats(model.score, tested)), fitter


class Fitter:
    """Fits components on interactions."""

    def __init__(
        self,
        interactions: Interactions,
        features: ItemFeatures | None,
        values: Values,
        log: Log,
        start: BlendModel | None = None,
    ) -> None:
        """Prepare the interactions for all components.

        start: a model of most of these users. Factors go on from those in it.
        """
        order = order_by_popularity(interactions)
        self.item_ids = interactions.item_ids[order]
        self._counts = interactions.item_counts[order].astype(np.float32)
        selected = drop_extreme_users(interactions, values)
        self._history = read_histories(selected, self.item_ids, np.unique(selected.users))
        self._features = features
        self._newest = int(interactions.timestamps.max(initial=0))
        has_times = len(interactions) > 0 and bool(np.ptp(interactions.timestamps))
        wants_recency = values.get("recency_mask", values.get("apply_recency_bias", True))
        self.uses_recency = has_times and bool(wants_recency)
        self._values = values
        self._log = log
        self._start = start

    def list_components(self) -> list[str]:
        """The names of the components that a blend is selected of."""
        names = [SEQUENCE, FACTORS, POPULARITY]
        ranks = self._history.ranks
        has_many_ties = np.count_nonzero(ranks[1:] == ranks[:-1]) > MANY_TIES * len(ranks)
        if has_many_ties or len(ranks) < LONG_HISTORIES * len(self._history.lengths):
            names.append(COOCCURRENCE)
        if len(self._history.items) <= FEW_ROWS:
            names.append(FIRM_FACTORS)
        return [*names, CONTENT] if self._features is not None else names

    def fit(self, blend: Blend) -> BlendModel:
        """The model of a blend."""
        return self.assemble(self.fit_all(list(blend.weights)), blend)

    def fit_all(self, names: list[str]) -> dict[str, Scorer]:
        """The components of these names."""
        scorers: dict[str, Scorer] = {}
        for name in sorted(names, key=COMPONENTS.index):
            began = time.monotonic()
            scorers[name] = self._fit(name, scorers)
            seconds = time.monotonic() - began
            self._log(f"{name}: {len(self._history.items):,} interactions in {seconds:.1f} s")
        return scorers

    def _fit(self, name: str, fitted: Mapping[str, Scorer]) -> Scorer:
        """A component. fitted: those that it may be made of."""
        if name == POPULARITY:
            return PopularityScorer(self._counts)
        if name == CONTENT:
            assert self._features is not None
            return content.fit_content(self._history, self._features.of_items(self.item_ids))
        if name in FACTOR_OPTIONS:
            return self._fit_factors(name)
        neighbors = NEIGHBORS if len(self._history.items) < MANY_ROWS else NEIGHBORS_OF_MANY
        following = fitted.get(SEQUENCE)
        if not isinstance(following, PairScorer):
            window = int(self._values.get("bptt", pairs.WINDOW))
            following = pairs.fit_following(self._history, neighbors=neighbors, window=window)
        if name == SEQUENCE:
            return following
        return pairs.join_both_orders(following, neighbors)

    def _fit_factors(self, name: str) -> FactorScorer:
        """Factors that go on from those of `start`, or else from those of some users."""
        start = self._start.scorers.get(name) if self._start else None
        if self._start is not None and isinstance(start, FactorScorer):
            old_index = find_positions(self._start.item_ids, self.item_ids)
            return start.with_items(old_index).fit(self._history, 1)
        regularization, confidence = FACTOR_OPTIONS[name]
        size = int(self._values.get("hidden_dimension", factors.FACTORS))
        some = self._history
        if len(some.items) > FACTOR_ROWS:
            users = int(len(some.lengths) * FACTOR_ROWS / len(some.items))
            some = some.of_users(slice(0, users))
        fitted = factors.fit_factors(
            some, regularization=regularization, confidence=confidence, factors=size
        )
        return fitted if some is self._history else fitted.fit(self._history, 1)

    def assemble(self, scorers: Mapping[str, Scorer], blend: Blend) -> BlendModel:
        """The model of components that were fitted here."""
        scorers = {name: scorers[name] for name in blend.weights}
        return BlendModel(self.item_ids, np.log(self._counts), scorers, blend)

    def with_new_items(self, model: BlendModel) -> BlendModel:
        """The model, fitted here, with the items that have features and no interactions."""
        if self._features is None:
            return model
        ages = (self._newest - self._features.created) / DAY
        is_new = find_positions(self.item_ids, self._features.item_ids) < 0
        new = np.flatnonzero(is_new & (np.diff(self._features.matrix.indptr) > 0))
        # The youngest first; without a creation time, later rows.
        new_ages = np.where(np.isnan(ages[new]), np.inf, ages[new])
        new = new[np.lexsort((-new, new_ages))[:MAX_NEW_ITEMS]]
        if not len(new):
            return model
        self._log(f"new items, scored by their features: {len(new):,}")
        item_ids = np.concatenate([self.item_ids, self._features.item_ids[new]])
        scorer = content.fit_content(self._history, self._features.of_items(self.item_ids))
        scorer = replace(scorer, features=self._features.of_items(item_ids))
        return replace(model, item_ids=item_ids, new_items=NewItems(scorer, ages[new]))


def drop_extreme_users(interactions: Interactions, values: Values) -> Interactions:
    """The interactions without users whose history length is outside of the percentiles.

    values: perhaps with min_user_history_length_percentile and max_user_history_length_percentile.
    """
    is_within = mark_within_percentiles(np.diff(interactions.starts), "user_history_length", values)
    is_kept = is_within[interactions.users]
    return interactions if is_kept.all() else interactions.take(is_kept)


def mark_within_percentiles(counts: np.ndarray, name: str, values: Values) -> Bool:
    """(n,): which counts are between two percentiles of the counts above 0.

    counts: (n,) with one above 0 at least.
    name: the hyperparameters `min_<name>_percentile` and `max_<name>_percentile` of the values have
        the percentiles, from 0 to 1.
    """
    lowest = values.get(f"min_{name}_percentile", 0.0)
    highest = values.get(f"max_{name}_percentile", 1.0)
    low, high = np.quantile(counts[counts > 0], [lowest, highest])
    return np.asarray((counts >= low) & (counts <= high))
