"""The trainers: functions from interactions to a model and its metrics on held-out users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from batchrec_dagster.personalize.recipes import Values

from . import related
from .blend import BlendModel
from .evaluation import evaluate_segments, split
from .fit_components import drop_extreme_users, mark_within_percentiles
from .interactions import Histories, Interactions, Log, order_by_popularity
from .measurements import Measurements, measure
from .models import AnyModel
from .ranking import keep_columns
from .related import LastItemRecommender, RelatedItemsModel
from .segmentation import SegmentationModel, probabilities
from .train_blend import train_blend_on_histories
from .validation import ValidationSet, make_validation_set

# Takes interactions, hyperparameters, a seed and a log. The result is the model of all
# interactions, and what was measured of a model that has not seen the users it is measured on.
Train = Callable[[Interactions, Values, int, Log], tuple[AnyModel, Measurements]]


@dataclass(frozen=True)
class TrainedModel:
    """A model trained on all interactions, and what was measured of it."""

    model: AnyModel
    measurements: Measurements

    @property
    def metrics(self) -> dict[str, float]:
        return self.measurements.metrics

    @property
    def evidence(self) -> dict[str, float]:
        return self.measurements.evidence


def train_segmentation(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[SegmentationModel, Measurements]:
    """User segmentation: a blend, and a factor for items that users already have."""
    model, test_model, held_out = train_blend_on_histories(interactions, values, seed, log)
    if test_model is None or held_out is None:
        return SegmentationModel(model), Measurements()
    users = make_validation_set({}, held_out, test_model.item_ids, include_seen=True)
    factor = measure_repeat_factor(test_model, users)
    log(f"for the same score, a known item is {factor:.3g} times as likely as a new one")
    metrics = evaluate_segments(SegmentationModel(test_model, factor), held_out)
    return SegmentationModel(model, factor), Measurements(metrics)


def measure_repeat_factor(model: BlendModel, held_out: ValidationSet) -> float:
    """How many times likelier the items of a history are than the model says, compared with others.

    It is 1 when it cannot be measured.

    held_out: users whose relevant items include seen ones.
    """
    seen_hits = new_hits = seen_expected = new_expected = 0.0
    for history, truth in held_out.chunks():
        seen = history.seen
        predicted = probabilities(model, history)
        expected = float(predicted[seen.nonzero()].sum(dtype=np.float64))
        seen_expected += expected
        new_expected += len(predicted) - expected
        hits = float(truth.multiply(seen).count_nonzero())
        seen_hits += hits
        new_hits += truth.count_nonzero() - hits
    if not (seen_expected and new_expected):
        return 1.0
    # Smoothed by half a hit, so that the factor is neither 0 nor infinite.
    return ((seen_hits + 0.5) / seen_expected) / ((new_hits + 0.5) / new_expected)


def train_sims(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[RelatedItemsModel, Measurements]:
    """aws-sims: items with few users in common are not related."""
    return _train_related(interactions, _add_sims_defaults(values), seed)


def train_similar_items(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[RelatedItemsModel, Measurements]:
    """aws-similar-items: also items with few users in common are related."""
    return _train_related(interactions, values, seed)


def _add_sims_defaults(values: Values) -> Values:
    return {"min_cointeraction_count": related.MIN_COINTERACTIONS, **values}


def _train_related(
    interactions: Interactions, values: Values, seed: int
) -> tuple[RelatedItemsModel, Measurements]:
    held_out = split(interactions)
    measurements = Measurements()
    if held_out is not None:
        test_model = LastItemRecommender(_fit_related(held_out.train, values))
        measurements = measure(test_model, held_out)
    return _fit_related(interactions, values), measurements


def _fit_related(interactions: Interactions, values: Values) -> RelatedItemsModel:
    order = order_by_popularity(interactions)
    item_ids = interactions.item_ids[order]
    selected = drop_extreme_users(interactions, values)
    history = Histories(selected, item_ids).of_users(np.unique(selected.users))
    is_kept = mark_within_percentiles(
        interactions.item_counts[order], "item_interaction_count", values
    )
    weights = related.fit(
        keep_columns(history.recency_weights(0.0), is_kept),
        discount=float(values.get("popularity_discount_factor", related.POPULARITY_DISCOUNT)),
        min_cointeractions=int(values.get("min_cointeraction_count", 1)),
    )
    return RelatedItemsModel(item_ids, weights)
