"""The recipe of items for users: a weighted sum of co-occurrence, factors, popularity and content.

train: hold out users -> fit components -> select a blend -> measure it -> fit it on all users
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from batchrec_dagster.personalize.recipes import Values
from batchrec_dagster.personalize.schemas import SECONDS_A_DAY

from . import content, factors, pairs
from .blend_model import BlendModel, NewItems, PopularityScorer
from .content import ContentScorer, ItemFeatures
from .data import (
    Bool,
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
    Scorer,
    fit_repeats,
    scale_blend,
    select_blend,
)

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
# Of more interactions there are no factors. Of 20 million generated ones, they raise NDCG by less
# than 1 % and double the time of lists.
FACTOR_ROWS = 10_000_000
# A model without the tested users is as good as one with them where these are a smaller share.
FEW_TESTED = 0.02

# For data without users to select on; the weight makes the softmax about as wide as a selection.
DEFAULT_BLEND = Blend({COOCCURRENCE: 10.0}, {COOCCURRENCE: 0.9})

MAX_NEW_ITEMS = 10_000  # the newest: each takes as long to score as another item


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
    factor_scorers = {
        name: scorer for name, scorer in test_model.scorers.items() if name in FACTOR_OPTIONS
    }
    test_model = replace(test_model, scorers=factor_scorers)  # frees the weights of pairs
    fitter = Fitter(interactions, features, values, log, start=test_model)
    model = replace(fitter.fit(test_model.blend), repeats=test_model.repeats)
    return fitter.with_new_items(model), measurements


def _fit_and_select(
    held_out: HeldOut, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[BlendModel, Fitter]:
    """The model without the held-out users, and what fitted it."""
    fitter = Fitter(held_out.train, features, values, log)
    tested = held_out.of_model(fitter.item_ids)
    if tested.truth.nnz:
        scorers = fitter.fit_all(fitter.list_components())
        blend = select_blend(scorers, tested, recency=fitter.uses_recency)
        log(f"selected: {blend}")
        model = fitter.assemble(scorers, scale_blend(blend, scorers, tested))
    else:
        log("tested users had nothing new: default blend")
        model = fitter.fit(DEFAULT_BLEND)
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
        names = [SEQUENCE, POPULARITY]
        if len(self._history.items) <= FACTOR_ROWS:
            names.append(FACTORS)
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
            return self._content
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

    @cached_property
    def _content(self) -> ContentScorer:
        """The scorer of items by their features, which there must be."""
        assert self._features is not None
        return content.fit_content(self._history, self._features.of_items(self.item_ids))

    def _fit_factors(self, name: str) -> FactorScorer:
        """Factors that go on from those of `start`, if it has any."""
        start = self._start.scorers.get(name) if self._start else None
        if self._start is not None and isinstance(start, FactorScorer):
            old_index = find_positions(self._start.item_ids, self.item_ids)
            return start.with_items(old_index).fit(self._history, 1)
        regularization, confidence = FACTOR_OPTIONS[name]
        return factors.fit_factors(
            self._history,
            regularization=regularization,
            confidence=confidence,
            factors=int(self._values.get("hidden_dimension", factors.FACTORS)),
        )

    def assemble(self, scorers: Mapping[str, Scorer], blend: Blend) -> BlendModel:
        """The model of components that were fitted here."""
        scorers = {name: scorers[name] for name in blend.weights}
        return BlendModel(self.item_ids, np.log(self._counts), scorers, blend)

    def with_new_items(self, model: BlendModel) -> BlendModel:
        """The model, fitted here, with the items that have features and no interactions."""
        if self._features is None:
            return model
        ages = (self._newest - self._features.created) / SECONDS_A_DAY
        is_new = find_positions(self.item_ids, self._features.item_ids) < 0
        new = np.flatnonzero(is_new & (np.diff(self._features.matrix.indptr) > 0))
        # The youngest first; without a creation time, later rows.
        new_ages = np.where(np.isnan(ages[new]), np.inf, ages[new])
        new = new[np.lexsort((-new, new_ages))[:MAX_NEW_ITEMS]]
        if not len(new):
            return model
        self._log(f"new items, scored by their features: {len(new):,}")
        item_ids = np.concatenate([self.item_ids, self._features.item_ids[new]])
        scorer = replace(self._content, features=self._features.of_items(item_ids))
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
