"""Batch segment jobs: the users who are most likely to want what an input line names."""

from __future__ import annotations

from functools import partial

from batchrec_dagster.personalize.recipes import ITEM_ATTRIBUTE_AFFINITY
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS

from ..data.segmenter import ItemAttributes, Segmenter
from ..engine.segments import SegmentModel
from ..errors import InvalidInputError, JobFailedError
from ..filters.group_data import ReadColumns
from ..jobs import Job
from ..recipes import RECIPES
from ..resources import ApiRequest, Kind, NewResource
from .batch_jobs import (
    DEFAULT_RESULTS,
    check_batch_request,
    load_filter,
    load_version,
    run_batch_job,
)
from .datasets import find_dataset, read_schema


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    recipe, filter_traits = check_batch_request(request, segments=True)
    if filter_traits and filter_traits.uses_interactions and recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        raise InvalidInputError(
            f"A filter on interactions cannot be used with {ITEM_ATTRIBUTE_AFFINITY}."
        )
    return NewResource({"numResults": params.get("numResults", DEFAULT_RESULTS)})


def _make_segmenter(job: Job) -> Segmenter:
    """Load the model, the interactions of all users, the items' attributes and the filter.

    Raises JobFailedError.
    """
    version, model = load_version(job)
    assert isinstance(model, SegmentModel)
    recipe = RECIPES[version.body["recipeArn"]]
    group_arn = version.body["datasetGroupArn"]
    reader = job.make_reader(full_imports_only=True)
    read = reader.make_group_reader(group_arn)
    interactions = reader.read_interactions(reader.find_dataset(group_arn, INTERACTIONS))
    job.report_progress(f"{len(interactions.user_ids):,} users, {len(model.item_ids):,} items")
    attributes = None
    if recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        attributes = _make_item_attributes(job, group_arn, read, model)
    return Segmenter(
        recipe=recipe,
        model=model,
        interactions=interactions,
        num_results=job.resource.body["numResults"],
        attributes=attributes,
        filter=load_filter(job, read, model),
        log=job.report_progress,
        checkpoint=job.checkpoint,
    )


def _make_item_attributes(
    job: Job, group_arn: str, read: ReadColumns, model: SegmentModel
) -> ItemAttributes:
    """Return the attributes of the model's items.

    Raises JobFailedError if the group has no Items dataset.
    """
    with job.catalogue.open_for_reading() as transaction:
        items = find_dataset(transaction, group_arn, ITEMS)
        if items is None:
            raise JobFailedError(
                f"{group_arn} has no Items dataset, which {ITEM_ATTRIBUTE_AFFINITY} needs."
            )
        schema = read_schema(transaction, items)
    return ItemAttributes(schema, read, model.item_ids)


BATCH_SEGMENT_JOB = Kind(
    "BatchSegmentJob",
    _create,
    parent_member="solutionVersionArn",
    perform=partial(run_batch_job, make_answerer=_make_segmenter),
    turn="inference",
)
