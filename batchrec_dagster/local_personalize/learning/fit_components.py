"""Fits the components of a blend on interactions, and builds the blend from them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.personalize.recipes import Values

from . import content, cooccurrence
from .blend import BlendModel
from .components import (
    ALS_FACTORS,
    CONTENT,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    FactorScorer,
    ItemItemScorer,
    PopularityScorer,
    Scorer,
    fit_factors,
)
from .interactions import (
    Histories,
    Ids,
    Int32,
    Interactions,
    Log,
    find_positions,
    log_popularity,
    order_by_popularity,
)
from .model_selection import Blend
from .new_items import find_new_items

COOC_NEIGHBORS = 500  # weights kept for each item of a history
MANY_ROWS = 2_500_000  # with as many interactions, COOC_NEIGHBORS_OF_MANY weights are as accurate
COOC_NEIGHBORS_OF_MANY = 200
FACTOR_ROWS = 10_000_000  # with more interactions, factors are fitted on a sample, then once on all
REPEAT_PRIOR = 30  # users added to those of an item, who have it again as often as the average


@dataclass(frozen=True)
class FittedComponents:
    """Components that were fitted on the same interactions."""

    item_ids: Ids
    """(n_items,) distinct str, the most popular first."""

    popularity: npt.NDArray[np.float32]
    """(n_items,) log of the counts."""

    scorers: Mapping[str, Scorer]
    """The components by name."""

    repeat_rates: npt.NDArray[np.float32] | None
    """(n_items,) see `ComponentFitter.repeat_rates`."""

    def select(self, names: Iterable[str]) -> FittedComponents:
        """The components of these names."""
        return replace(self, scorers={name: self.scorers[name] for name in names})

    def blend(self, blend: Blend, temperature: float) -> BlendModel:
        """The model of a blend.

        temperature: a divisor of the logits, see `model_selection.fit_temperature`.
        """
        return BlendModel(
            self.item_ids,
            self.popularity,
            {name: self.scorers[name] for name in blend.weights},
            blend.recency_exponents,
            {name: weight / temperature for name, weight in blend.weights.items()},
            repeat_rates=self.repeat_rates,
        )


class ComponentFitter:
    """Fits components on interactions."""

    def __init__(
        self,
        interactions: Interactions,
        values: Values,
        seed: int,
        log: Log,
        *,
        start: FittedComponents | None = None,
    ) -> None:
        """Prepare the interactions for all components.

        values: the hyperparameters that select users.
        start: components fitted on most of these users. Factors go on from those in it.
        """
        order = order_by_popularity(interactions)
        self.item_ids = interactions.item_ids[order]
        self.popularity = log_popularity(interactions, order)
        selected = drop_extreme_users(interactions, values)
        self.history = Histories(selected, self.item_ids).of_users(np.unique(selected.users))
        self.matrix: csr_matrix = self.history.recency_weights(0.0)
        self._features = interactions.features
        self._newest = int(interactions.timestamps.max(initial=0))
        self._counts = interactions.item_counts[order].astype(np.float32)
        self._rows = len(selected)
        self._seed = seed
        self._log = log
        self._start = start

    def fit(self, names: Sequence[str], values: Values) -> FittedComponents:
        """The components of these names, with these hyperparameters."""
        scorers = {name: self._scorer(name, values) for name in names}
        return FittedComponents(self.item_ids, self.popularity, scorers, self.repeat_rates)

    @cached_property
    def repeat_rates(self) -> npt.NDArray[np.float32] | None:
        """(n_items,): the share of an item's users who had it again, over that of all items.

        None if nobody had any item again.
        """
        counts = self.history.counts
        if counts is None:
            return None
        items, n_items = self.history.items, len(self.item_ids)
        users = np.bincount(items, minlength=n_items)
        repeat_users = np.bincount(items, weights=counts > 1, minlength=n_items)
        prior = REPEAT_PRIOR * repeat_users.sum() / users.sum()
        rates = (repeat_users + prior) / (users + REPEAT_PRIOR) * (REPEAT_PRIOR / prior)
        return np.asarray(rates, dtype=np.float32)

    def _scorer(self, name: str, values: Values) -> Scorer:
        window = int(values.get("bptt", cooccurrence.WINDOW))
        factors = int(values.get("hidden_dimension", ALS_FACTORS))
        start_time = time.monotonic()
        scorer = self._fit(name, window, factors)
        seconds = time.monotonic() - start_time
        self._log(f"{name}: {self._rows:,} interactions in {seconds:.1f} s")
        return scorer

    def _fit(self, name: str, window: int, factors: int) -> Scorer:
        if name == POPULARITY:
            return PopularityScorer(self._counts)
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
            rows = find_positions(self._features.item_ids, self.item_ids)
            return content.fit(self.matrix, self._features.select_rows(rows))
        return self._fit_factors(name, factors)

    def _fit_factors(self, name: str, factors: int) -> FactorScorer:
        """Factors that go on from those of `start`, or else from a sample of very many rows."""
        start = self._start.scorers.get(name) if self._start else None
        if self._start and isinstance(start, FactorScorer):
            return self.resume_factors(start, self.old_index(self._start))
        share = FACTOR_ROWS / max(1, self._rows)
        if share >= 1:
            return fit_factors(self.matrix, name=name, factors=factors, seed=self._seed)
        is_sampled = np.random.default_rng(self._seed).random(self.matrix.shape[0]) < share
        sample = self.matrix[is_sampled]
        start = fit_factors(sample, name=name, factors=factors, seed=self._seed)
        return fit_factors(self.matrix, seed=self._seed, start=start, iterations=1)

    def with_new_items(self, model: BlendModel) -> BlendModel:
        """The model, fitted here, with the items that have features and no interactions."""
        ids_and_items = find_new_items(self._features, self._newest, self.item_ids, self.matrix)
        if ids_and_items is None:
            return model
        ids, new_items = ids_and_items
        self._log(f"new items, scored by their features: {len(ids):,}")
        return replace(model, item_ids=np.concatenate([model.item_ids, ids]), new_items=new_items)

    def old_index(self, start: BlendModel | FittedComponents) -> Int32:
        """(n_items,): the index of each item in what was fitted before, -1 if it is new.

        Items without interactions count as new; their popularity there is log(0.5).
        """
        index = find_positions(start.item_ids[: len(start.popularity)], self.item_ids).copy()
        index[(index >= 0) & (start.popularity[index] < 0)] = -1
        return index

    def resume_factors(self, start: FactorScorer, old_index: Int32) -> FactorScorer:
        """Factors of these interactions that go on from others.

        old_index: (n_items,) see the method `old_index`.
        """
        return fit_factors(self.matrix, seed=self._seed, start=start.with_items(old_index))


def drop_extreme_users(interactions: Interactions, values: Values) -> Interactions:
    """The interactions without users whose history length is outside of the percentiles.

    values: perhaps with min_user_history_length_percentile and max_user_history_length_percentile.
    """
    lengths = np.diff(interactions.starts)
    is_within = mark_within_percentiles(lengths, "user_history_length", values)
    is_kept = is_within[interactions.users]
    return interactions if is_kept.all() else interactions.filter(is_kept)


def mark_within_percentiles(
    counts: npt.NDArray[np.int64], name: str, values: Values
) -> npt.NDArray[np.bool_]:
    """(n,): which counts are between two percentiles of the counts above 0.

    counts: (n,) with one above 0 at least.
    name: the hyperparameters `min_<name>_percentile` and `max_<name>_percentile` of the values have
        the percentiles, from 0 to 1.
    """
    lowest = values.get(f"min_{name}_percentile", 0.0)
    highest = values.get(f"max_{name}_percentile", 1.0)
    low, high = np.quantile(counts[counts > 0], [lowest, highest])
    return np.asarray((counts >= low) & (counts <= high))
