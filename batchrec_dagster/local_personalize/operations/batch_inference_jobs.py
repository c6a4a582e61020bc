"""Batch inference jobs: items for every line of the input files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, Finished, Kind, Lane
from batchrec_dagster.local_personalize.data.datasets import (
    dataset_in,
    group_reader,
    take_interactions,
)
from batchrec_dagster.local_personalize.data.inference import Recommender
from batchrec_dagster.local_personalize.errors import InvalidInputError
from batchrec_dagster.local_personalize.filters import JobFilter
from batchrec_dagster.local_personalize.jobs.job import Job
from batchrec_dagster.local_personalize.operations import batch_jobs
from batchrec_dagster.local_personalize.operations.solution_versions import active_version
from batchrec_dagster.local_personalize.recipes import RECIPES, RELATED_ITEMS
from batchrec_dagster.personalize.recipes import SIMILAR_ITEMS
from batchrec_dagster.personalize.schemas import INTERACTIONS

_EXPLORATION = {
    "explorationWeight": (1.0, "from 0 to 1"),
    "explorationItemAgeCutOff": (1e9, "of days"),
}


def _create(call: Call) -> Draft:
    params = call.params
    version = call.active("SolutionVersion", params["solutionVersionArn"])
    recipe = RECIPES[version.body["recipeArn"]]
    if recipe.makes_segments:
        raise InvalidInputError(
            f"{recipe.arn} makes user segments: use CreateBatchSegmentJob for {version.arn}."
        )
    _check_mode(params)
    config = params.get("batchInferenceJobConfig", {})
    _check_exploration(config.get("itemExplorationConfig", {}))
    used = batch_jobs.check_filter(call, version, of_users=False)
    if used and used.current_item and recipe.name != SIMILAR_ITEMS:
        raise InvalidInputError(
            f"A filter with CurrentItem can be used with {SIMILAR_ITEMS} only, not with"
            f" {recipe.name}."
        )
    members = {
        "batchInferenceJobMode": "BATCH_INFERENCE",
        "batchInferenceJobConfig": config or None,
    }
    return batch_jobs.draft(call, "batch-inference-job", version, members)


def _check_mode(params: Mapping[str, Any]) -> None:
    if params.get("batchInferenceJobMode") == "THEME_GENERATION":
        raise InvalidInputError("Themes (THEME_GENERATION) are not to be had locally.")
    if "themeGenerationConfig" in params:
        raise InvalidInputError("themeGenerationConfig is valid only in mode THEME_GENERATION.")


def _check_exploration(config: Mapping[str, str]) -> None:
    """An `itemExplorationConfig`; the service model has checked `rankingInfluence`."""
    for name, text in config.items():
        if name not in _EXPLORATION:
            raise InvalidInputError(
                f"itemExplorationConfig has no {name}; it has: {', '.join(_EXPLORATION)}."
            )
        most, allowed = _EXPLORATION[name]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= most:
            raise InvalidInputError(f"{name} must be a number {allowed}, but it is {text!r}.")


def _recommender(job: Job) -> Recommender:
    body = job.resource.body
    with job.catalog.reading() as records:
        version = active_version(records, body["solutionVersionArn"])
        expression = batch_jobs.used_filter(records, job.resource)
    recipe = RECIPES[version.body["recipeArn"]]
    read = group_reader(job.catalog, job.home, version.body["datasetGroupArn"])
    model = batch_jobs.used_model(job, version)
    job.progress(f"{recipe.name}: {len(model.item_ids):,} items")
    interactions = None
    if recipe.type != RELATED_ITEMS:
        dataset = dataset_in(job.catalog, version.body["datasetGroupArn"], INTERACTIONS)
        interactions = take_interactions(job.catalog, job.home, dataset)
        job.progress(f"{len(interactions):,} interactions")
    if given := [name for name, value in body.get("batchInferenceJobConfig", {}).items() if value]:
        job.progress(f"{' and '.join(given)}: kept, and without effect locally")
    return Recommender(
        recipe=recipe,
        model=model,
        interactions=interactions,
        num_results=body["numResults"],
        filter=JobFilter(expression, read, model.item_ids.tolist()) if expression else None,
    )


def _perform(job: Job) -> Finished:
    return batch_jobs.perform(job, _recommender)


BATCH_INFERENCE_JOB = Kind(
    "BatchInferenceJob",
    _create,
    parent="solutionVersionArn",
    perform=_perform,
    lane=Lane.INFERENCE,
    running="running_batch_inference_jobs",
)
