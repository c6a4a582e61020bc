"""Batch inference jobs: recommended or similar items for every input line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2

from ..data.recommender import Recommender
from ..engine.blend import EXPLORATION_WEIGHT, MAX_AGE, BlendModel
from ..errors import InvalidInputError
from ..jobs import Job
from ..recipes import RECIPES, RELATED_ITEMS, AnyModel
from ..resources import ApiRequest, Kind, NewResource
from .batch_jobs import (
    DEFAULT_RESULTS,
    check_batch_request,
    load_filter,
    load_version,
    run_batch_job,
)
from .training_data import read_histories

# The options of itemExplorationConfig: the largest value of each, and what it may be in words.
_EXPLORATION_OPTIONS = {
    "explorationWeight": (1.0, "from 0 to 1"),
    "explorationItemAgeCutOff": (1e9, "of days"),
}


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    recipe, filter_traits = check_batch_request(request, segments=False)
    if params.get("batchInferenceJobMode") == "THEME_GENERATION":
        raise InvalidInputError("Themes (THEME_GENERATION) are not supported locally.")
    if "themeGenerationConfig" in params:
        raise InvalidInputError("themeGenerationConfig is valid only in mode THEME_GENERATION.")
    config = params.get("batchInferenceJobConfig", {})
    _check_exploration(config.get("itemExplorationConfig", {}))
    body = {
        "batchInferenceJobMode": "BATCH_INFERENCE",
        "batchInferenceJobConfig": config or None,
        "numResults": params.get("numResults", DEFAULT_RESULTS),
    }
    state: dict[str, Any] = {}
    if request.v2_lines and recipe.name == USER_PERSONALIZATION_V2:
        state["v2_lines"] = True
    if filter_traits:
        # Stored, as a process with another number may perform the job.
        state["filter_interactions"] = request.filter_interactions
    return NewResource(body, state)


def _check_exploration(config: Mapping[str, str]) -> None:
    """Raise InvalidInputError for an `itemExplorationConfig` with unknown options or bad values.

    The service model checks `rankingInfluence`, the other part of the job's configuration.
    """
    for name, text in config.items():
        if name not in _EXPLORATION_OPTIONS:
            raise InvalidInputError(
                f"itemExplorationConfig has no {name}; it has: {', '.join(_EXPLORATION_OPTIONS)}."
            )
        largest, range_text = _EXPLORATION_OPTIONS[name]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= largest:
            raise InvalidInputError(f"{name} must be a number {range_text}, but it is {text!r}.")


def _make_recommender(job: Job) -> Recommender:
    """Load the model, the interactions to recommend from and the filter.

    Raises JobFailedError.
    """
    version, model = load_version(job)
    recipe = RECIPES[version.body["recipeArn"]]
    read = job.make_reader().make_group_reader(version.body["datasetGroupArn"])
    job.report_progress(f"{recipe.name}: {len(model.item_ids):,} items")
    interactions = None
    if recipe.type != RELATED_ITEMS:
        interactions = read_histories(job, version)
        job.report_progress(f"{len(interactions):,} interactions")
    model = _apply_config(job, model)
    return Recommender(
        recipe=recipe,
        model=model,
        interactions=interactions,
        num_results=job.resource.body["numResults"],
        filter=load_filter(job, read, model),
        v2_lines=job.resource.state.get("v2_lines", False),
    )


def _apply_config(job: Job, model: AnyModel) -> AnyModel:
    """Return the model with the job's exploration, and log the options that have no effect."""
    stored_config = job.resource.body.get("batchInferenceJobConfig", {})
    config = {name: options for name, options in stored_config.items() if options}
    if isinstance(model, BlendModel) and model.new_items is not None:
        exploration = config.pop("itemExplorationConfig", {})
        weight = float(exploration.get("explorationWeight", EXPLORATION_WEIGHT))
        max_age = float(exploration.get("explorationItemAgeCutOff", MAX_AGE))
        model = model.with_exploration(weight, max_age)
    if config:
        job.report_progress(f"{' and '.join(config)}: stored, without effect locally")
    return model


BATCH_INFERENCE_JOB = Kind(
    "BatchInferenceJob",
    _create,
    parent_member="solutionVersionArn",
    perform=partial(run_batch_job, make_answerer=_make_recommender),
    turn="inference",
)
