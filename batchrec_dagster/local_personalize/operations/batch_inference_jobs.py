"""Batch inference jobs: items for every line of the input files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchrec_dagster.formats.interactions import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.formats.schemas import INTERACTIONS
from batchrec_dagster.local_personalize.datasets import group_reader
from batchrec_dagster.local_personalize.errors import InvalidInputError
from batchrec_dagster.local_personalize.filters import JobFilter
from batchrec_dagster.local_personalize.inference import Recommender
from batchrec_dagster.local_personalize.job import Job
from batchrec_dagster.local_personalize.kinds import Call, Draft, Finished, Kind, Lane
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.operations import batch_jobs
from batchrec_dagster.local_personalize.operations.solution_versions import active_version
from batchrec_dagster.local_personalize.recipes import RECIPES

_EXPLORATION = ("explorationWeight", "explorationItemAgeCutOff")


def _create(call: Call) -> Draft:
    params = call.params
    version = call.active("SolutionVersion", params["solutionVersionArn"])
    recipe = RECIPES[version.body["recipeArn"]]
    if recipe.makes_segments:
        raise InvalidInputError(
            f"{recipe.arn} makes user segments: use CreateBatchSegmentJob for {version.arn}."
        )
    _check_mode(params)
    config = params.get("batchInferenceJobConfig")
    _check_config(config or {})
    if "filterArn" in params:
        batch_jobs.check_filter(call, version, "ItemID")
    members = {"batchInferenceJobMode": "BATCH_INFERENCE", "batchInferenceJobConfig": config}
    return batch_jobs.draft(call, "batch-inference-job", version, members)


def _check_mode(params: Mapping[str, Any]) -> None:
    if params.get("batchInferenceJobMode") == "THEME_GENERATION":
        raise InvalidInputError("Themes (THEME_GENERATION) are not to be had locally.")
    if "themeGenerationConfig" in params:
        raise InvalidInputError("themeGenerationConfig is valid only in mode THEME_GENERATION.")


def _check_config(config: Mapping[str, Any]) -> None:
    for name, influence in config.get("rankingInfluence", {}).items():
        if not 0 <= influence <= 1:
            raise InvalidInputError(f"rankingInfluence {name} must be a number from 0 to 1.")
    for name, text in config.get("itemExplorationConfig", {}).items():
        if name not in _EXPLORATION:
            raise InvalidInputError(
                f"itemExplorationConfig has no {name}; it has: {', '.join(_EXPLORATION)}."
            )
        most = 1.0 if name == "explorationWeight" else math.inf
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= most or math.isinf(value):
            allowed = "from 0 to 1" if most == 1 else "of days, 0 or more"
            raise InvalidInputError(f"{name} must be a number {allowed}, but it is {text!r}.")


def _recommender(job: Job) -> Recommender:
    body = job.resource.body
    with job.catalog.reading() as records:
        version = active_version(records, body["solutionVersionArn"])
        expression = batch_jobs.used_filter(records, job.resource)
    read = group_reader(job.catalog, job.home, version.body["datasetGroupArn"])
    model = batch_jobs.used_model(job, version)
    interactions = Interactions.from_frame(read(INTERACTIONS, [USER_ID, ITEM_ID, TIMESTAMP]))
    job.progress(f"{len(interactions):,} interactions, {len(model.item_ids):,} items")
    if given := [name for name, value in body.get("batchInferenceJobConfig", {}).items() if value]:
        job.progress(f"{' and '.join(given)}: kept, and without effect locally")
    return Recommender(
        recipe=RECIPES[version.body["recipeArn"]],
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
