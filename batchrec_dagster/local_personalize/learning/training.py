"""From a recipe and interactions to a model and its measured quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import cooccurrence, ease, factorization
from batchrec_dagster.local_personalize.learning.choosing import (
    EASE,
    FACTORS,
    POWERS,
    SEQUENCE,
    Choice,
    choose,
    temperature,
    trial,
)
from batchrec_dagster.local_personalize.learning.errors import TrainingError
from batchrec_dagster.local_personalize.learning.evaluation import evaluate
from batchrec_dagster.local_personalize.learning.histories import Histories
from batchrec_dagster.local_personalize.learning.hyperparameters import (
    Value,
    parse_hyperparameters,
)
from batchrec_dagster.local_personalize.learning.interactions import Ids, Interactions
from batchrec_dagster.local_personalize.learning.model import AnyModel
from batchrec_dagster.local_personalize.learning.parts import ItemWeights, Part
from batchrec_dagster.local_personalize.learning.personalization import PersonalizationModel
from batchrec_dagster.local_personalize.learning.popularity import (
    PopularityModel,
    log_popularity,
    popular_first,
)
from batchrec_dagster.local_personalize.learning.searching import Search
from batchrec_dagster.local_personalize.learning.split import split

__all__ = ["Search", "Trained", "TrainingError", "check_hyperparameters", "check_search", "train"]

DENSE_LIMIT = 12_000  # EASE takes n^2 memory and n^3 time of items or users, the fewer
REGULARIZATION = 300.0
DEFAULT_SHARE = 10.0  # of EASE alone: spreads the softmax about as choosing would
KEPT_WEIGHTS = 200  # of EASE, for each item scored
KEPT_FOLLOWERS = 500  # of the co-occurrence, for each item met

# With fewer users held out, a second tenth is too: choosing on few is choosing by chance.
ENOUGH_USERS = 200


@dataclass(frozen=True)
class Trained:
    """A model trained on all data, and what the same training did for users it had not seen."""

    model: AnyModel
    metrics: dict[str, float]  # keys of GetSolutionMetrics; empty when nobody could be held out
    tuned: dict[str, str] = field(default_factory=dict)  # what the search chose, if there was one


def check_hyperparameters(recipe: str, hyperparameters: Mapping[str, str]) -> None:
    """Raise TrainingError naming the key that is unknown or out of range, and what is allowed."""
    parse_hyperparameters(recipe, hyperparameters)


def check_search(recipe: str, hyperparameters: Mapping[str, str], search: Search) -> None:
    """Raise TrainingError naming the range that is impossible, or when nothing can be tuned."""
    raise TrainingError("searches are not to be had yet")


def train(
    recipe: str,
    interactions: Interactions,
    hyperparameters: Mapping[str, str],
    *,
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    previous: Path | None = None,
    search: Search | None = None,
) -> Trained:
    """Train the recipe (its name, without the ARN) and measure it on a tenth of the users.

    `previous` is the folder of the model that an update starts from; `search` asks for the best
    hyperparameters within its ranges. Same data, hyperparameters and seed: same model, byte for
    byte, on any number of cores. Raises TrainingError.
    """
    values = parse_hyperparameters(recipe, hyperparameters)
    if previous is not None or search is not None:
        raise TrainingError("neither updates nor searches are to be had yet")
    if not len(interactions):
        raise TrainingError("there are no interactions to train on")
    log(
        f"{recipe}: {len(interactions):,} interactions of {len(interactions.user_ids):,} users "
        f"with {len(interactions.item_ids):,} items"
    )
    if recipe == "aws-popularity-count":
        return _popularity(interactions, seed, log)
    return _personalization(interactions, values, seed, log)


def _popularity(interactions: Interactions, seed: int, log: Callable[[str], None]) -> Trained:
    def fit(data: Interactions) -> PopularityModel:
        order = popular_first(data)
        return PopularityModel(data.item_ids[order], log_popularity(data, order))

    held_out = split(interactions, seed)
    metrics = evaluate(fit(held_out.train), held_out).summary() if held_out else {}
    return Trained(fit(interactions), metrics)


def _personalization(
    interactions: Interactions,
    values: Mapping[str, Value],
    seed: int,
    log: Callable[[str], None],
) -> Trained:
    """Train on nine tenths to choose and to measure, then what was chosen on everything."""
    recency = bool(values.get("recency_mask", values.get("apply_recency_bias", True)))
    names = [EASE, SEQUENCE, FACTORS]
    held_out = split(interactions, seed)
    if held_out is None:
        log("nobody can be held out: no metrics, and the defaults serve")
        fitted = _fit(interactions, [EASE], values, seed, log)
        power = POWERS[EASE][0] if recency else 0.0
        return Trained(_blend(fitted, Choice({EASE: power}, {EASE: DEFAULT_SHARE}, 0.0), 1.0), {})
    splits = [held_out]
    if len(held_out.users) < ENOUGH_USERS:
        again = split(interactions, seed, without=held_out.users)
        splits += [again] if again else []
    fits = [_fit(one.train, names, values, seed, log) for one in splits]
    trials = [
        trial(fitted.parts, one, fitted.item_ids) for fitted, one in zip(fits, splits, strict=True)
    ]
    choice = choose(trials, recency=recency)
    raw = [_blend(fitted, choice, 1.0) for fitted in fits]
    heat = temperature(raw[0].score, trials[:1])
    log(
        "chosen: "
        + ", ".join(f"{name} (recency {choice.powers[name]})" for name in choice.shares)
        + f"; NDCG at 25 of {choice.ndcg:.4f}"
    )
    metrics = evaluate(_blend(fits[0], choice, heat), held_out).summary()
    log("metrics: " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
    del fits, trials, raw
    fitted = _fit(interactions, list(choice.shares), values, seed, log)
    return Trained(_blend(fitted, choice, heat), metrics)


@dataclass(frozen=True)
class _Fitted:
    item_ids: Ids
    popularity: npt.NDArray[np.float32]
    parts: Mapping[str, Part]


def _blend(fitted: _Fitted, choice: Choice, heat: float) -> PersonalizationModel:
    return PersonalizationModel(
        fitted.item_ids,
        fitted.popularity,
        {name: fitted.parts[name] for name in choice.shares},
        choice.powers,
        {name: share / heat for name, share in choice.shares.items()},
    )


def _fit(
    interactions: Interactions,
    names: Sequence[str],
    values: Mapping[str, Value],
    seed: int,
    log: Callable[[str], None],
) -> _Fitted:
    order = popular_first(interactions)
    item_ids = interactions.item_ids[order]
    learned_from = _without_extreme_users(interactions, values)
    history = Histories(learned_from, item_ids).of(np.unique(learned_from.users))
    matrix: csr_matrix = history.weights(0.0)
    parts: dict[str, Part] = {}
    for name in names:
        began = time.monotonic()
        if name == EASE:
            parts[name] = ItemWeights(
                ease.fit(
                    matrix,
                    core=_core(matrix),
                    regularization=REGULARIZATION,
                    kept=KEPT_WEIGHTS,
                    log=log,
                )
            )
        elif name == SEQUENCE:
            window = int(values.get("bptt", cooccurrence.WINDOW))
            parts[name] = ItemWeights(cooccurrence.fit(history, window=window, kept=KEPT_FOLLOWERS))
        else:
            dimension = int(values.get("hidden_dimension", factorization.DIMENSION))
            parts[name] = factorization.fit(matrix, dimension=dimension, seed=seed)
        log(f"{name}: {len(learned_from):,} interactions in {time.monotonic() - began:.1f} s")
    return _Fitted(item_ids, log_popularity(interactions, order), parts)


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
