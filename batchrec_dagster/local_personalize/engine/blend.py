"""The recipe that recommends items to users by a weighted sum of the scores of components.

The components are co-occurrence, factors, popularity and content.

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

# The regularization and the confidence of an interaction, by kind of factors.
FACTOR_OPTIONS = {FACTORS: (1.5, 3.0), FIRM_FACTORS: (10.0, 10.0)}
# Firm factors have more regularization than the other factors. They are fitted only if there are
# at most this many interactions, because more data needs less regularization.
FEW_ROWS = 250_000
# Co-occurrence in either order is left out if users have at least LONG_HISTORIES items on average
# and few items in the histories are ties. A tie is an item with the same time as the item before
# it, and the share of ties may be at most MANY_TIES. The order of the items is then known so well
# that co-occurrence in either order adds nothing.
LONG_HISTORIES = 100
MANY_TIES = 0.2
# The number of weights that co-occurrence keeps per item. From MANY_ROWS interactions on, it keeps
# only NEIGHBORS_OF_MANY weights, which are then as accurate as NEIGHBORS weights.
NEIGHBORS = 500
MANY_ROWS = 2_500_000
NEIGHBORS_OF_MANY = 200
# Factors are fitted up to this number of interactions. With 20 million generated interactions,
# factors raise NDCG by less than 1 % and double the time to make lists.
FACTOR_ROWS = 10_000_000
# If the tested users are at most this share of all users, the model is not fitted again with the
# tested users, because the model without them is as good.
FEW_TESTED = 0.02

# The blend if there are no users to select a blend on, because no users can be held out, or they
# had nothing new. With the weight 10, the softmax of the scores spreads the probability over about
# as many items as with a selected blend.
DEFAULT_BLEND = Blend({COOCCURRENCE: 10.0}, {COOCCURRENCE: 0.9})

# Only this many new items are kept, the newest first. More new items would slow down all lists,
# because scoring a new item takes as long as scoring any other item.
MAX_NEW_ITEMS = 10_000


def train(
    interactions: Interactions,
    features: ItemFeatures | None,
    values: Values,
    log: Log,
    measure_model: Callable[[BlendModel, HeldOut], Measurements] = measure,
) -> tuple[BlendModel, Measurements]:
    """Return the trained model and its measurements.

    The measurements are empty if no users can be held out.

    features: the features of the Items dataset, or None if there are none.
    values: the hyperparameters.
    measure_model: measures a model that was fitted without the held-out users.
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
    del held_out  # Frees a copy of the data before the largest fit.
    if not are_many_tested:
        return fitter.with_new_items(test_model), measurements
    factor_scorers = {
        name: scorer for name, scorer in test_model.scorers.items() if name in FACTOR_OPTIONS
    }
    test_model = replace(test_model, scorers=factor_scorers)  # Frees the weights of pairs.
    fitter = Fitter(interactions, features, values, log, start=test_model)
    model = replace(fitter.fit(test_model.blend), repeats=test_model.repeats)
    return fitter.with_new_items(model), measurements


def _fit_and_select(
    held_out: HeldOut, features: ItemFeatures | None, values: Values, log: Log
) -> tuple[BlendModel, Fitter]:
    """Return the model that is fitted without the held-out users, and its fitter."""
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
    """A fitter of components and models on one set of interactions."""

    def __init__(
        self,
        interactions: Interactions,
        features: ItemFeatures | None,
        values: Values,
        log: Log,
        start: BlendModel | None = None,
    ) -> None:
        """Prepare the interactions for all components.

        start: a model that was fitted on most of the users. Its factors are the starting point of
            the new factors.
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
        """Return the names of the components to select a blend from."""
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
        """Fit the components of a blend and return the model."""
        return self.assemble(self.fit_all(list(blend.weights)), blend)

    def fit_all(self, names: list[str]) -> dict[str, Scorer]:
        """Fit the named components and return them by name."""
        scorers: dict[str, Scorer] = {}
        for name in sorted(names, key=COMPONENTS.index):
            began = time.monotonic()
            scorers[name] = self._fit(name, scorers)
            seconds = time.monotonic() - began
            self._log(f"{name}: {len(self._history.items):,} interactions in {seconds:.1f} s")
        return scorers

    def _fit(self, name: str, fitted: Mapping[str, Scorer]) -> Scorer:
        """Return the named component.

        fitted: the components fitted so far, which the new component may build on.
        """
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
        """The scorer of items by their features; requires features."""
        assert self._features is not None
        return content.fit_content(self._history, self._features.of_items(self.item_ids))

    def _fit_factors(self, name: str) -> FactorScorer:
        """Return factors, refined from the factors of the start model if it has any."""
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
        """Return the model of a blend, with the components that this fitter fitted."""
        scorers = {name: scorers[name] for name in blend.weights}
        return BlendModel(self.item_ids, np.log(self._counts), scorers, blend)

    def with_new_items(self, model: BlendModel) -> BlendModel:
        """Return the model extended by the items that have features but no interactions.

        model: a model that this fitter fitted.
        """
        if self._features is None:
            return model
        ages = (self._newest - self._features.created) / SECONDS_A_DAY
        is_new = find_positions(self.item_ids, self._features.item_ids) < 0
        new = np.flatnonzero(is_new & (np.diff(self._features.matrix.indptr) > 0))
        # The youngest items come first. Items without a creation time come last, and among them
        # later rows come first.
        new_ages = np.where(np.isnan(ages[new]), np.inf, ages[new])
        new = new[np.lexsort((-new, new_ages))[:MAX_NEW_ITEMS]]
        if not len(new):
            return model
        self._log(f"new items, scored by their features: {len(new):,}")
        item_ids = np.concatenate([self.item_ids, self._features.item_ids[new]])
        scorer = replace(self._content, features=self._features.of_items(item_ids))
        return replace(model, item_ids=item_ids, new_items=NewItems(scorer, ages[new]))


def drop_extreme_users(interactions: Interactions, values: Values) -> Interactions:
    """Drop the users with a history length outside of the percentiles, and return the rest.

    values: the hyperparameters. The limits are min_user_history_length_percentile (default 0) and
        max_user_history_length_percentile (default 1).
    """
    is_within = mark_within_percentiles(np.diff(interactions.starts), "user_history_length", values)
    is_kept = is_within[interactions.users]
    return interactions if is_kept.all() else interactions.take(is_kept)


def mark_within_percentiles(counts: np.ndarray, name: str, values: Values) -> Bool:
    """Return a mask of the counts that lie between two percentiles, of shape (n,).

    The percentiles are computed from the counts above 0.

    counts: shape (n,). At least one count is above 0.
    name: the middle of the hyperparameters' names `min_<name>_percentile` and
        `max_<name>_percentile`, which hold the percentiles, from 0 to 1.
    values: the hyperparameters.
    """
    lowest = values.get(f"min_{name}_percentile", 0.0)
    highest = values.get(f"max_{name}_percentile", 1.0)
    low, high = np.quantile(counts[counts > 0], [lowest, highest])
    return np.asarray((counts >= low) & (counts <= high))
