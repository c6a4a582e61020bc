"""Batch inference jobs and batch segment jobs: items, or users, for every input line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from batchrec_dagster.personalize.batch_files import (
    MAX_INPUT_BYTES,
    MAX_INPUT_RECORDS,
    MAX_SEGMENT_USERS,
    OUTPUT_SUFFIX,
)
from batchrec_dagster.personalize.filter_check import Traits, traits
from batchrec_dagster.personalize.recipes import (
    ITEM_ATTRIBUTE_AFFINITY,
    SIMILAR_ITEMS,
    USER_PERSONALIZATION_V2,
)
from batchrec_dagster.personalize.schemas import FILTER_HISTORY, INTERACTIONS, ITEMS
from batchrec_dagster.storage.object_store import ObjectInfo
from batchrec_dagster.storage.progress import Progress

from ..catalog.kinds import CatalogKind, JobQueue, JobResult, NewResource
from ..catalog.requests import ApiRequest
from ..catalog.resource import Resource
from ..data.batch_lines import Answerer, count_requests
from ..data.inference import ItemAttributes, Recommender, Segmenter
from ..errors import InvalidInputError, JobFailedError
from ..filters.job import JobFilter
from ..filters.tables import Read
from ..jobs.job import Job
from ..jobs.s3_locations import add_slash, check_location, list_objects
from ..learning.interactions import ModelFileError
from ..learning.models import AnyModel, BlendModel, SegmentationModel, load_model
from ..learning.new_items import EXPLORATION_WEIGHT, MAX_AGE
from ..recipes import RECIPES, RELATED_ITEMS, USER_PERSONALIZATION, Recipe
from .datasets import find_dataset, read_schema
from .solution_versions import read_histories

DEFAULT_RESULTS = 25
MAX_FILES = 1000
CHECK_MARKER = "_CHECK"  # written last, when the output is complete


def _check_request(request: ApiRequest, *, segments: bool) -> tuple[Recipe, Traits | None]:
    """Check what every batch job has; the recipe, and the traits of the filter, if any."""
    params = request.params
    version = request.get_active("SolutionVersion", params["solutionVersionArn"])
    recipe = RECIPES[version.body["recipeArn"]]
    if recipe.makes_segments != segments:
        makes, use = ("no ", "Inference") if segments else ("", "Segment")
        raise InvalidInputError(
            f"{recipe.arn} makes {makes}user segments: use CreateBatch{use}Job for {version.arn}."
        )
    source = check_location(params["jobInput"]["s3DataSource"]["path"])
    target = check_location(params["jobOutput"]["s3DataDestination"]["path"])
    if add_slash(source) == add_slash(target):
        raise InvalidInputError("The output location must differ from the input's.")
    if params.get("numResults", 1) < 1:
        raise InvalidInputError("numResults must be at least 1.")
    if "filterArn" not in params:
        return recipe, None
    resource = request.get_active("Filter", params["filterArn"])
    if resource.parent != version.body["datasetGroupArn"]:
        raise InvalidInputError(f"{resource.arn} belongs to another dataset group.")
    filter_traits = traits(resource.body["filterExpression"])
    if filter_traits.users != segments:
        target_id = "UserID" if segments else "ItemID"
        raise InvalidInputError(
            f"This job needs a filter on {target_id}, which {resource.arn} is not."
        )
    return recipe, filter_traits


def _version_with_model(job: Job) -> tuple[Resource, AnyModel]:
    """The job's solution version and its model. Raises JobFailedError if gone or damaged."""
    arn = job.resource.body["solutionVersionArn"]
    with job.catalog.open_for_reading() as transaction:
        version = transaction.require(arn)
    try:
        return version, load_model(job.home.root / version.state["model"])
    except ModelFileError as error:
        raise JobFailedError(
            f"The model of {arn} cannot be used: {error}. Train again (force_train)."
        ) from error


def _filter(job: Job, read: Read, model: AnyModel) -> JobFilter | None:
    if "filterArn" not in job.resource.body:
        return None
    with job.catalog.open_for_reading() as transaction:
        expression = transaction.require(job.resource.body["filterArn"]).body["filterExpression"]
    latest = job.resource.state.get("filter_interactions", FILTER_HISTORY)
    return JobFilter(expression, read, model.item_ids.tolist(), latest)


def _run(job: Job, prepare: Callable[[Job], Answerer]) -> JobResult:
    """Answer all input files, then upload the outputs, the marker last."""
    source = job.resource.body["jobInput"]["s3DataSource"]["path"]
    target = add_slash(job.resource.body["jobOutput"]["s3DataDestination"]["path"])
    files = _input_files(job, source, target)
    answerer = prepare(job)
    with job.home.open_workspace(job.home.batches, job.resource.arn) as work:
        outputs = [
            _answer(job, answerer, info.uri, work / str(number))
            for number, info in enumerate(files)
        ]
        folder = source.rpartition("/")[0] + "/"
        for info, output in zip(files, outputs, strict=True):
            job.store.put(target + info.uri.removeprefix(folder) + OUTPUT_SUFFIX, output)
        job.store.put(target + CHECK_MARKER, b"")
    return JobResult()


def _input_files(job: Job, source: str, target: str) -> list[ObjectInfo]:
    files = list_objects(job.store, source)
    if target.startswith(source):
        # The output is under the input's prefix: do not read what an earlier attempt wrote.
        files = [info for info in files if not info.uri.startswith(target)]
        if not files:
            raise JobFailedError(f"Invalid Data location. There is no input at {source}")
    if len(files) > MAX_FILES:
        raise JobFailedError(f"The input has {len(files)} files; {MAX_FILES} at most are allowed.")
    total = sum(info.size for info in files)
    if total > MAX_INPUT_BYTES:
        raise JobFailedError(f"The input has {total} bytes; {MAX_INPUT_BYTES} at most are allowed.")
    return files


def _answer(job: Job, answerer: Answerer, uri: str, output: Path) -> Path:
    source = output.with_suffix(".input")
    job.store.download(uri, source)
    lines = count_requests(source)
    most = answerer.recipe.max_lines or MAX_INPUT_RECORDS
    if lines > most:
        raise JobFailedError(
            f"{uri} has {lines} lines; with {answerer.recipe.name}, a file may have {most} at most."
        )
    progress = Progress(f"lines of {uri}", lines, job.report_progress)

    def step(count: int) -> None:
        progress.add(count)
        job.checkpoint()

    answerer.answer(source, output, step)
    source.unlink()
    progress.end()
    return output


_EXPLORATION = {
    "explorationWeight": (1.0, "from 0 to 1"),
    "explorationItemAgeCutOff": (1e9, "of days"),
}


def _create_inference(request: ApiRequest) -> NewResource:
    params = request.params
    recipe, used = _check_request(request, segments=False)
    if params.get("batchInferenceJobMode") == "THEME_GENERATION":
        raise InvalidInputError("Themes (THEME_GENERATION) are not supported locally.")
    if "themeGenerationConfig" in params:
        raise InvalidInputError("themeGenerationConfig is valid only in mode THEME_GENERATION.")
    config = params.get("batchInferenceJobConfig", {})
    _check_exploration(config.get("itemExplorationConfig", {}))
    if used and used.current_item and recipe.name != SIMILAR_ITEMS:
        raise InvalidInputError(
            f"A filter with CurrentItem can be used with {SIMILAR_ITEMS} only, not with"
            f" {recipe.name}."
        )
    body = {
        "batchInferenceJobMode": "BATCH_INFERENCE",
        "batchInferenceJobConfig": config or None,
        "numResults": params.get("numResults", DEFAULT_RESULTS),
    }
    state: dict[str, Any] = {}
    if request.v2_lines and recipe.name == USER_PERSONALIZATION_V2:
        state["v2_lines"] = True
    if used:  # A process with other quotas may perform the job.
        state["filter_interactions"] = request.quotas.filter_interactions
    return NewResource(body, state)


def _check_exploration(config: Mapping[str, str]) -> None:
    """Check an `itemExplorationConfig`; the service model checks `rankingInfluence`."""
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
    version, model = _version_with_model(job)
    recipe = RECIPES[version.body["recipeArn"]]
    read = job.make_reader().of_group(version.body["datasetGroupArn"])
    job.report_progress(f"{recipe.name}: {len(model.item_ids):,} items")
    interactions = None
    if recipe.type != RELATED_ITEMS:
        interactions = read_histories(job, version)
        job.report_progress(f"{len(interactions):,} interactions")
    config = {key: of for key, of in body.get("batchInferenceJobConfig", {}).items() if of}
    if isinstance(model, BlendModel) and model.new_items is not None:
        exploration = config.pop("itemExplorationConfig", {})
        weight = float(exploration.get("explorationWeight", EXPLORATION_WEIGHT))
        max_age = float(exploration.get("explorationItemAgeCutOff", MAX_AGE))
        # A ranking has the items that were asked for.
        model = model.with_exploration(
            weight, max_age if recipe.type == USER_PERSONALIZATION else math.inf
        )
    if config:
        job.report_progress(f"{' and '.join(config)}: stored, without effect locally")
    return Recommender(
        recipe=recipe,
        model=model,
        interactions=interactions,
        num_results=body["numResults"],
        filter=_filter(job, read, model),
        v2_lines=job.resource.state.get("v2_lines", False),
    )


BATCH_INFERENCE_JOB = CatalogKind(
    "BatchInferenceJob",
    _create_inference,
    parent_member="solutionVersionArn",
    perform=partial(_run, prepare=_recommender),
    queue=JobQueue.INFERENCE,
    running_quota="running_batch_inference_jobs",
)


def _create_segments(request: ApiRequest) -> NewResource:
    params = request.params
    recipe, used = _check_request(request, segments=True)
    if params.get("numResults", 1) > MAX_SEGMENT_USERS:
        raise InvalidInputError(
            f"numResults must be at most {MAX_SEGMENT_USERS}: users in a segment."
        )
    if used and used.interactions and recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        raise InvalidInputError(
            f"A filter on interactions cannot be used with {ITEM_ATTRIBUTE_AFFINITY}."
        )
    return NewResource({"numResults": params.get("numResults", DEFAULT_RESULTS)})


def _segmenter(job: Job) -> Segmenter:
    version, model = _version_with_model(job)
    recipe = RECIPES[version.body["recipeArn"]]
    group, reader = version.body["datasetGroupArn"], job.make_reader(full_imports_only=True)
    read = reader.of_group(group)
    assert isinstance(model, SegmentationModel)
    interactions = reader.interactions(reader.find(group, INTERACTIONS))
    job.report_progress(f"{len(interactions.user_ids):,} users, {len(model.item_ids):,} items")
    attributes = None
    if recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        with job.catalog.open_for_reading() as transaction:
            items = find_dataset(transaction, group, ITEMS)
            if items is None:
                raise JobFailedError(
                    f"{group} has no Items dataset, which {ITEM_ATTRIBUTE_AFFINITY} needs."
                )
            schema = read_schema(transaction, items)
        attributes = ItemAttributes(schema, read, model.item_ids)
    return Segmenter(
        recipe=recipe,
        model=model,
        interactions=interactions,
        num_results=job.resource.body["numResults"],
        attributes=attributes,
        filter=_filter(job, read, model),
        log=job.report_progress,
        checkpoint=job.checkpoint,
    )


BATCH_SEGMENT_JOB = CatalogKind(
    "BatchSegmentJob",
    _create_segments,
    parent_member="solutionVersionArn",
    perform=partial(_run, prepare=_segmenter),
    queue=JobQueue.INFERENCE,
    running_quota="running_batch_segment_jobs",
)
