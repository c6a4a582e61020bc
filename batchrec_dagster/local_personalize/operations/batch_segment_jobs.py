"""Batch segment jobs: the users for every line of the input files."""

from __future__ import annotations

from batchrec_dagster.local_personalize.catalog.catalog import Records, Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, Finished, Kind, Lane
from batchrec_dagster.local_personalize.data.datasets import (
    dataset_in,
    group_reader,
    take_interactions,
)
from batchrec_dagster.local_personalize.data.item_attributes import ItemAttributes
from batchrec_dagster.local_personalize.data.segmentation import Segmenter
from batchrec_dagster.local_personalize.errors import InvalidInputError, JobFailedError
from batchrec_dagster.local_personalize.filters import JobFilter
from batchrec_dagster.local_personalize.jobs.job import Job
from batchrec_dagster.local_personalize.learning.model import SegmentModel
from batchrec_dagster.local_personalize.operations import batch_jobs
from batchrec_dagster.local_personalize.operations.datasets import dataset_of, schema_of
from batchrec_dagster.local_personalize.operations.solution_versions import active_version
from batchrec_dagster.local_personalize.recipes import RECIPES
from batchrec_dagster.personalize.batch_segment import MAX_RESULTS
from batchrec_dagster.personalize.recipes import ITEM_ATTRIBUTE_AFFINITY
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, Schema


def _create(call: Call) -> Draft:
    params = call.params
    version = call.active("SolutionVersion", params["solutionVersionArn"])
    recipe = RECIPES[version.body["recipeArn"]]
    if not recipe.makes_segments:
        raise InvalidInputError(
            f"{recipe.arn} makes no user segments: use CreateBatchInferenceJob for {version.arn}."
        )
    if params.get("numResults", 1) > MAX_RESULTS:
        raise InvalidInputError(f"numResults must be at most {MAX_RESULTS}: users in a segment.")
    used = batch_jobs.check_filter(call, version, of_users=True)
    if used and used.interactions and recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        raise InvalidInputError(
            f"A filter on interactions cannot be used with {ITEM_ATTRIBUTE_AFFINITY}."
        )
    return batch_jobs.draft(call, "batch-segment-job", version, {})


def _segmenter(job: Job) -> Segmenter:
    body = job.resource.body
    with job.catalog.reading() as records:
        version = active_version(records, body["solutionVersionArn"])
        expression = batch_jobs.used_filter(records, job.resource)
        items = _items_schema(records, version)
    recipe = RECIPES[version.body["recipeArn"]]
    read = group_reader(
        job.catalog, job.home, version.body["datasetGroupArn"], full_imports_only=True
    )
    model = batch_jobs.used_model(job, version)
    assert isinstance(model, SegmentModel)
    dataset = dataset_in(job.catalog, version.body["datasetGroupArn"], INTERACTIONS)
    interactions = take_interactions(job.catalog, job.home, dataset, full_imports_only=True)
    job.progress(f"{len(interactions.user_ids):,} users, {len(model.item_ids):,} items")
    attributes = None
    if recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        if items is None:
            raise JobFailedError(
                f"{version.body['datasetGroupArn']} has no Items dataset, which"
                f" {ITEM_ATTRIBUTE_AFFINITY} needs."
            )
        attributes = ItemAttributes(items, read, model.item_ids)
    return Segmenter(
        recipe=recipe,
        model=model,
        interactions=interactions,
        num_results=body["numResults"],
        attributes=attributes,
        filter=JobFilter(expression, read, model.item_ids.tolist()) if expression else None,
        log=job.progress,
        checkpoint=job.checkpoint,
    )


def _items_schema(records: Records, version: Resource) -> Schema | None:
    dataset = dataset_of(records, version.body["datasetGroupArn"], ITEMS)
    return schema_of(records, dataset) if dataset else None


def _perform(job: Job) -> Finished:
    return batch_jobs.perform(job, _segmenter)


BATCH_SEGMENT_JOB = Kind(
    "BatchSegmentJob",
    _create,
    parent="solutionVersionArn",
    perform=_perform,
    lane=Lane.INFERENCE,
    running="running_batch_segment_jobs",
)
