"""Fits the components of a blend on interactions, and builds the blend from them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.recipes import Values

from . import content, cooccurrence, ease
from .components import (
    ALS_FACTORS,
    CONTENT,
    EASE,
    EASE_HIGH_REG,
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    USER_NEIGHBORS,
    FactorScorer,
    ItemItemScorer,
    PopularityScorer,
    Scorer,
    UserNeighborScorer,
    fit_factors,
)
from .hpo import Log
from .interactions import (
    Histories,
    Ids,
    Int32,
    Interactions,
    find_positions,
    log_popularity,
    order_by_popularity,
)
from .inverse import Inverse, invert_gram
from .model_selection import Blend
from .models import BlendModel
from .new_items import find_new_items
from .ranking import reindex

DENSE_LIMIT = 12_000  # EASE takes n^2 memory and n^3 time, n the smaller of items and users
WIDE_LIMIT = 30_000  # so many items in all, if users are DENSE_LIMIT at most: items^2 time
REGULARIZATION = 300.0
HIGH_REGULARIZATION = 1_000.0
EASE_NEIGHBORS = 200  # weights kept for each item to score
COOC_NEIGHBORS = 500  # weights kept for each item of a history
MANY_ROWS = 2_500_000  # interactions, from which COOC_NEIGHBORS_OF_MANY are as accurate
COOC_NEIGHBORS_OF_MANY = 200
FACTOR_ROWS = 10_000_000  # of more interactions, factors are fitted on a sample; then once on all
REPEAT_PRIOR = 30  # users who have an item again as often as the users of all items do


@dataclass(frozen=True)
class FittedComponents:
    """Components that were fitted on the same interactions."""

    item_ids: Ids
    popularity: npt.NDArray[np.float32]
    scorers: Mapping[str, Scorer]
    repeat_rates: npt.NDArray[np.float32] | None
    users: Int32  # whose histories they were fitted on, of Interactions.user_ids
    inverses: Mapping[str, Inverse] = field(default_factory=dict)  # of EASE, where kept

    def select(self, names: Iterable[str]) -> FittedComponents:
        """Without the components of other names."""
        return replace(
            self,
            scorers={name: self.scorers[name] for name in names},
            inverses={name: self.inverses[name] for name in names if name in self.inverses},
        )

    def blend(self, blend: Blend, temperature: float) -> BlendModel:
        """The model of a blend; `temperature` divides its logits."""
        return BlendModel(
            self.item_ids,
            self.popularity,
            {name: self.scorers[name] for name in blend.weights},
            blend.recency_exponents,
            {name: weight / temperature for name, weight in blend.weights.items()},
            repeat_rates=self.repeat_rates,
            count_exponent=blend.count_exponent,
        )


class ComponentFitter:
    """Fits components on interactions; keeps those that other hyperparameters would not change."""

    def __init__(
        self,
        interactions: Interactions,
        values: Values,
        seed: int,
        log: Log,
        *,
        start: FittedComponents | None = None,
        keeps_inverses: bool = False,
    ) -> None:
        """`start` was fitted on most of the users: factors are resumed from its own, and a kept
        inverse of EASE gets the users that are new."""
        order = order_by_popularity(interactions)
        self.item_ids = interactions.item_ids[order]
        self.popularity = log_popularity(interactions, order)
        selected = drop_extreme_users(interactions, values)
        self.users = np.unique(selected.users)
        self.history = Histories(selected, self.item_ids).of_users(self.users)
        self.matrix: csr_matrix = self.history.recency_weights(0.0)
        self._features = interactions.features
        self._newest = int(interactions.timestamps.max(initial=0))
        self._counts = interactions.item_counts[order].astype(np.float32)
        self._rows = len(selected)
        self._seed = seed
        self._log = log
        self._start = start
        self._inverses: dict[str, Inverse] | None = {} if keeps_inverses else None
        self._fitted: dict[tuple[str, int], Scorer] = {}

    def fit(self, names: Sequence[str], values: Values) -> FittedComponents:
        scorers = {name: self._scorer(name, values) for name in names}
        return FittedComponents(
            self.item_ids,
            self.popularity,
            scorers,
            self.repeat_rates,
            self.users,
            self._inverses or {},
        )

    @cached_property
    def repeat_rates(self) -> npt.NDArray[np.float32] | None:
        """(n_items,): the share of an item's users who had it again, over that of all items; None
        if nobody had any again."""
        items, counts, n_items = self.history.items, self.history.counts, len(self.item_ids)
        if counts is None:
            return None
        users = np.bincount(items, minlength=n_items)
        again = np.bincount(items, weights=counts > 1, minlength=n_items)
        prior = REPEAT_PRIOR * again.sum() / users.sum()
        rates = (again + prior) / (users + REPEAT_PRIOR) * (REPEAT_PRIOR / prior)
        return np.asarray(rates, dtype=np.float32)

    def _scorer(self, name: str, values: Values) -> Scorer:
        window = int(values.get("bptt", cooccurrence.WINDOW))
        factors = int(values.get("hidden_dimension", ALS_FACTORS))
        sizes = dict.fromkeys((SEQUENCE, SYMMETRIC_COOC), window)
        sizes |= dict.fromkeys((FACTORS, FACTORS_HIGH_REG), factors)
        key = name, sizes.get(name, 0)
        if key not in self._fitted:
            began = time.monotonic()
            self._fitted[key] = self._fit(name, window, factors)
            self._log(f"{name}: {self._rows:,} interactions in {time.monotonic() - began:.1f} s")
        return self._fitted[key]

    def _fit(self, name: str, window: int, factors: int) -> Scorer:
        if name == POPULARITY:
            return PopularityScorer(self._counts)
        if name == USER_NEIGHBORS:
            return UserNeighborScorer(self.matrix.sorted_indices())
        if name in (EASE, EASE_HIGH_REG):
            return ItemItemScorer(self._fit_ease(name))
        if name in (SEQUENCE, SYMMETRIC_COOC):
            weights = cooccurrence.fit(
                self.history,
                window=window,
                neighbors=COOC_NEIGHBORS if self._rows < MANY_ROWS else COOC_NEIGHBORS_OF_MANY,
                symmetric=name == SYMMETRIC_COOC,
            )
            return ItemItemScorer(weights)
        if name == CONTENT:
            assert self._features is not None
            at = find_positions(self._features.item_ids, self.item_ids)
            return content.fit(self.matrix, self._features.rows(at))
        start = self._start.scorers.get(name) if self._start else None
        if self._start and isinstance(start, FactorScorer):
            return self.resume_factors(start, self.old_index(self._start))
        share = FACTOR_ROWS / max(1, self._rows)
        if share >= 1:
            return fit_factors(self.matrix, name=name, factors=factors, seed=self._seed)
        some = np.random.default_rng(self._seed).random(self.matrix.shape[0]) < share
        start = fit_factors(self.matrix[some], name=name, factors=factors, seed=self._seed)
        return fit_factors(self.matrix, seed=self._seed, start=start, iterations=1)

    def _fit_ease(self, name: str) -> csr_matrix:
        """The weights, from the inverse that was kept and the users that are new, if possible."""
        strength, matrix = regularization(name), self.matrix
        if self._start is not None and name in self._start.inverses:
            start, inverse = self._start, self._start.inverses[name]
            is_new = ~np.isin(self.users, start.users)
            added = int(is_new.sum())
            if len(self.users) == len(start.users) + added and inverse.can_add(added):
                order = find_positions(start.item_ids, self.item_ids)
                entries = matrix.data, order[matrix.indices], matrix.indptr
                matrix = csr_matrix(entries, shape=matrix.shape)
                inverse.add(matrix[is_new, : inverse.n])
                fitted = ease.fit(
                    matrix, inverse, regularization=strength, neighbors=EASE_NEIGHBORS
                )
                return reindex(fitted, order)
        inverse = invert_gram(matrix[:, : core_size(*matrix.shape)], strength, self._log)
        if self._inverses is not None:
            self._inverses[name] = inverse
        return ease.fit(matrix, inverse, regularization=strength, neighbors=EASE_NEIGHBORS)

    def with_new_items(self, model: BlendModel) -> BlendModel:
        """The model, fitted here, with the items that have features and no interactions."""
        found = find_new_items(self._features, self._newest, self.item_ids, self.matrix)
        if found is None:
            return model
        ids, new_items = found
        self._log(f"new items, scored by their features: {len(ids):,}")
        return replace(model, item_ids=np.concatenate([model.item_ids, ids]), new_items=new_items)

    def old_index(self, earlier: BlendModel | FittedComponents) -> Int32:
        """(n_items,): the index of each item in what was fitted earlier, -1 if it is new.

        Items without interactions, which have log(0.5), count as new.
        """
        index = find_positions(earlier.item_ids[: len(earlier.popularity)], self.item_ids).copy()
        index[(index >= 0) & (earlier.popularity[index] < 0)] = -1
        return index

    def resume_factors(self, earlier: FactorScorer, old_index: Int32) -> FactorScorer:
        return fit_factors(self.matrix, seed=self._seed, start=earlier.with_items(old_index))


def regularization(name: str) -> float:
    """The L2 regularization of the EASE component of this name."""
    return HIGH_REGULARIZATION if name == EASE_HIGH_REG else REGULARIZATION


def core_size(users: int, items: int) -> int:
    """How many of the most popular items EASE regresses jointly: all, or as good as more."""
    return WIDE_LIMIT if users <= DENSE_LIMIT and items <= WIDE_LIMIT else DENSE_LIMIT


def drop_extreme_users(interactions: Interactions, values: Values) -> Interactions:
    """Leave out users whose history length is outside of the percentiles."""
    fits = mark_within_percentiles(np.diff(interactions.starts), "user_history_length", values)
    rows = fits[interactions.users]
    return interactions if rows.all() else interactions.filter(rows)


def mark_within_percentiles(
    counts: npt.NDArray[np.int64], what: str, values: Values
) -> npt.NDArray[np.bool_]:
    """Which counts are between `min_<what>_percentile` and `max_<what>_percentile` of those > 0."""
    low, high = np.quantile(
        counts[counts > 0],
        [values.get(f"min_{what}_percentile", 0.0), values.get(f"max_{what}_percentile", 1.0)],
    )
    return np.asarray((counts >= low) & (counts <= high))
