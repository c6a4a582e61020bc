"""From a recipe and interactions to a model and its measured quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from batchrec_dagster.local_personalize.learning import related
from batchrec_dagster.local_personalize.learning.evaluation import (
    AfterTheLast,
    evaluate,
    evaluate_segments,
)
from batchrec_dagster.local_personalize.learning.fit_components import (
    Values,
    within_percentiles,
    without_extreme_users,
)
from batchrec_dagster.local_personalize.learning.histories import Histories
from batchrec_dagster.local_personalize.learning.hpo import (
    Range,
    Search,
    as_text,
    candidates,
    check_search,
    ranges_of,
)
from batchrec_dagster.local_personalize.learning.hyperparameters import (
    Value,
    parse_hyperparameters,
)
from batchrec_dagster.local_personalize.learning.interactions import Interactions, TrainingError
from batchrec_dagster.local_personalize.learning.model import AnyModel
from batchrec_dagster.local_personalize.learning.model_selection import trial
from batchrec_dagster.local_personalize.learning.popularity import (
    PopularityModel,
    log_popularity,
    popular_first,
)
from batchrec_dagster.local_personalize.learning.related import RelatedItemsModel
from batchrec_dagster.local_personalize.learning.segmentation import (
    SegmentationModel,
    measured_again,
)
from batchrec_dagster.local_personalize.learning.split import asked_often, split
from batchrec_dagster.local_personalize.learning.train_blend import (
    personalize,
    personalize_histories,
    tune,
)
from batchrec_dagster.local_personalize.learning.updating import update

__all__ = ["Search", "Trained", "TrainingError", "check_hyperparameters", "check_search", "train"]

Log = Callable[[str], None]

PERSONAL = (
    "aws-user-personalization",
    "aws-user-personalization-v2",
    "aws-personalized-ranking",
    "aws-personalized-ranking-v2",
)
RELATED = ("aws-sims", "aws-similar-items")


@dataclass(frozen=True)
class Trained:
    """A model trained on all data, and what the same training did for users it had not seen."""

    model: AnyModel
    metrics: dict[str, float]  # keys of GetSolutionMetrics; empty when nobody could be held out
    tuned: dict[str, str] = field(default_factory=dict)  # what the search chose, if there was one


def check_hyperparameters(recipe: str, hyperparameters: Mapping[str, str]) -> None:
    """Raise TrainingError naming the key that is unknown or out of range, and what is allowed."""
    parse_hyperparameters(recipe, hyperparameters)


def train(
    recipe: str,
    interactions: Interactions,
    hyperparameters: Mapping[str, str],
    *,
    seed: int = 0,
    log: Log = lambda _: None,
    previous: Path | None = None,
    search: Search | None = None,
) -> Trained:
    """Train the recipe (its name, without the ARN) and measure it by Personalize's split.

    `search` asks for the best hyperparameters within its ranges. `previous` is the folder of the
    model that an update starts from, which keeps its hyperparameters: only user personalization
    and personalized ranking can. Same data, hyperparameters and seed: same model, byte for byte,
    on any number of cores. Raises TrainingError; ModelFileError when what is in `previous` is
    damaged.
    """
    values = parse_hyperparameters(recipe, hyperparameters)
    ranges = ranges_of(recipe, hyperparameters, search) if search else {}
    if not len(interactions):
        raise TrainingError("there are no interactions to train on")
    log(
        f"{recipe}: {len(interactions):,} interactions of {len(interactions.user_ids):,} users "
        f"with {len(interactions.item_ids):,} items"
    )
    if previous is not None:
        if recipe not in PERSONAL:
            raise TrainingError(f"{recipe} cannot be updated, only trained in full")
        updated = update(previous, interactions, seed, log)
        if updated is not None:
            renewed, metrics, kept = updated
            tuned = {name: as_text(kept[name]) for name in ranges if name in kept}
            return Trained(renewed, metrics, tuned)
    tuned_values = _tuned(recipe, interactions, values, ranges, search, seed, log)
    model, metrics = _trained(recipe, interactions, {**values, **tuned_values}, seed, log)
    return Trained(model, metrics, {key: as_text(value) for key, value in tuned_values.items()})


def _trained(
    recipe: str, interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[AnyModel, dict[str, float]]:
    if recipe in PERSONAL:
        return personalize(interactions, values, seed, log)
    if recipe in RELATED:
        return _related(recipe, interactions, values, seed)
    if recipe == "aws-popularity-count":
        return _popularity(interactions, seed)
    return _segmentation(interactions, values, seed, log)


def _tuned(
    recipe: str,
    interactions: Interactions,
    values: Values,
    ranges: Mapping[str, Range],
    search: Search | None,
    seed: int,
    log: Log,
) -> dict[str, Value]:
    if search is None:
        return {}
    if recipe in PERSONAL:
        return tune(interactions, values, ranges, search.max_jobs, seed, log)
    outer = split(interactions, seed)
    held_out = split(outer.train, seed) if outer else None
    tries = list(candidates(ranges, values, search.max_jobs, seed))
    if held_out is None:
        return tries[0]
    found = []
    for tried in tries:
        model = AfterTheLast(_fit_related(recipe, held_out.train, {**values, **tried}))
        asked = [evaluate(model, one).ndcg() for one in asked_often(held_out)]
        found.append(float(np.concatenate(asked).mean()))
        log(f"tried {tried}: NDCG at 25 of {found[-1]:.4f}")
    return tries[int(np.argmax(found))]


def _popularity(interactions: Interactions, seed: int) -> tuple[PopularityModel, dict[str, float]]:
    def fit(data: Interactions) -> PopularityModel:
        order = popular_first(data)
        return PopularityModel(data.item_ids[order], log_popularity(data, order))

    held_out = split(interactions, seed)
    metrics = evaluate(fit(held_out.train), held_out).summary() if held_out else {}
    return fit(interactions), metrics


def _segmentation(
    interactions: Interactions, values: Values, seed: int, log: Log
) -> tuple[SegmentationModel, dict[str, float]]:
    scorer, measured, held_out = personalize_histories(interactions, values, seed, log)
    if measured is None or held_out is None:
        return SegmentationModel(scorer), {}
    again = measured_again(measured, trial({}, held_out, measured.item_ids, again=True))
    log(f"what was met is met again {again:.3g} times as often as the new, for the same score")
    metrics = evaluate_segments(SegmentationModel(measured, again), held_out)
    return SegmentationModel(scorer, again), metrics


def _related(
    recipe: str, interactions: Interactions, values: Values, seed: int
) -> tuple[RelatedItemsModel, dict[str, float]]:
    held_out = split(interactions, seed)
    metrics = {}
    if held_out is not None:
        measured = AfterTheLast(_fit_related(recipe, held_out.train, values))
        metrics = evaluate(measured, held_out).summary()
    return _fit_related(recipe, interactions, values), metrics


def _fit_related(recipe: str, interactions: Interactions, values: Values) -> RelatedItemsModel:
    order = popular_first(interactions)
    item_ids = interactions.item_ids[order]
    learned_from = without_extreme_users(interactions, values)
    matrix = Histories(learned_from, item_ids).of(np.unique(learned_from.users)).weights(0.0)
    kept = within_percentiles(interactions.item_counts[order], "item_interaction_count", values)
    # Similar-Items answers for items with few interactions too.
    least = related.LEAST_SHARED if recipe == "aws-sims" else 1
    weights = related.fit(
        related.without_extreme_items(matrix, kept),
        discount=float(values.get("popularity_discount_factor", related.DISCOUNT)),
        least_shared=int(values.get("min_cointeraction_count", least)),
    )
    return RelatedItemsModel(item_ids, weights)
