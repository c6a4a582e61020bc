"""From a recipe and interactions to a model and its measured quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import ease
from batchrec_dagster.local_personalize.learning.errors import TrainingError
from batchrec_dagster.local_personalize.learning.evaluation import evaluate
from batchrec_dagster.local_personalize.learning.histories import Histories
from batchrec_dagster.local_personalize.learning.hyperparameters import (
    Value,
    parse_hyperparameters,
)
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.model import Model
from batchrec_dagster.local_personalize.learning.personalization import PersonalizationModel
from batchrec_dagster.local_personalize.learning.popularity import (
    PopularityModel,
    log_popularity,
    popular_first,
)
from batchrec_dagster.local_personalize.learning.split import split

__all__ = ["Trained", "TrainingError", "check_hyperparameters", "train"]

DENSE_LIMIT = 12_000  # EASE takes n^2 memory and n^3 time of items or users, the fewer
REGULARIZATION = 200.0
KEPT_WEIGHTS = 400
RECENCY_POWER = 0.5
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Trained:
    """A model trained on all data, and what the same training did for users it had not seen."""

    model: Model
    metrics: dict[str, float]  # keys of GetSolutionMetrics; empty when nobody could be held out


def check_hyperparameters(recipe: str, hyperparameters: Mapping[str, str]) -> None:
    """Raise TrainingError naming the key that is unknown or out of range, and what is allowed."""
    parse_hyperparameters(recipe, hyperparameters)


def train(
    recipe: str,
    interactions: Interactions,
    hyperparameters: Mapping[str, str],
    *,
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Train the recipe (its name, without the ARN) and measure it on a tenth of the users.

    Same data, hyperparameters and seed: same model, byte for byte, on any number of cores.
    Raises TrainingError.
    """
    values = parse_hyperparameters(recipe, hyperparameters)
    if not len(interactions):
        raise TrainingError("there are no interactions to train on")
    log(
        f"{recipe}: {len(interactions):,} interactions of {len(interactions.user_ids):,} users "
        f"with {len(interactions.item_ids):,} items"
    )
    held_out = split(interactions, seed)
    metrics: dict[str, float] = {}
    if held_out is None:
        log("nobody can be held out: no metrics")
    else:
        metrics = evaluate(_fit(recipe, held_out.train, values, log), held_out).summary()
        log("metrics: " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
    return Trained(_fit(recipe, interactions, values, log), metrics)


def _fit(
    recipe: str,
    interactions: Interactions,
    values: Mapping[str, Value],
    log: Callable[[str], None],
) -> Model:
    began = time.monotonic()
    order = popular_first(interactions)
    item_ids = interactions.item_ids[order]
    popularity = log_popularity(interactions, order)
    if recipe == "aws-popularity-count":
        return PopularityModel(item_ids, popularity)
    learned_from = _without_extreme_users(interactions, values)
    histories = Histories(learned_from, item_ids)
    users = np.unique(learned_from.users)
    matrix: csr_matrix = histories.of(users).weights(0.0)
    weights = ease.fit(
        matrix, core=_core(matrix), regularization=REGULARIZATION, kept=KEPT_WEIGHTS, log=log
    )
    recent = values.get("recency_mask", values.get("apply_recency_bias", True))
    log(f"item-item weights: {weights.nnz:,} in {time.monotonic() - began:.1f} s")
    power = RECENCY_POWER if recent else 0.0
    return PersonalizationModel(item_ids, popularity, weights, power, TEMPERATURE)


def _core(matrix: csr_matrix) -> int:
    """How many of the most popular items are regressed on each other together."""
    users, items = matrix.shape
    return int(items if users <= DENSE_LIMIT else min(items, DENSE_LIMIT))


def _without_extreme_users(interactions: Interactions, values: Mapping[str, Value]) -> Interactions:
    """Leave out users with shorter or longer histories than the percentiles asked for."""
    lengths = np.diff(interactions.starts)
    present = lengths[lengths > 0]
    low, high = np.quantile(
        present,
        [
            values.get("min_user_history_length_percentile", 0.0),
            values.get("max_user_history_length_percentile", 1.0),
        ],
    )
    fit = (lengths >= low) & (lengths <= high)
    return interactions.of(fit[interactions.users])
