"""The checks and the work that batch inference jobs and batch segment jobs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from batchrec_dagster.personalize.conditions import FilterTraits, find_traits
from batchrec_dagster.personalize.expired_models import EXPIRED, MODEL_TAG
from batchrec_dagster.personalize.formats import OUTPUT_SUFFIX
from batchrec_dagster.storage.objects import ObjectInfo

from ..batch_lines import AnswerLines, answer_file, count_lines
from ..catalogue import CatalogueTransaction, Resource
from ..engine.store import ModelFileError
from ..errors import InvalidInputError, JobFailedError
from ..home import remove_path
from ..jobs import INVALID_LOCATION, Job, check_location
from ..resources import ApiRequest, JobResult
from ..trained_recipes import RECIPES, AnyModel, Recipe

DEFAULT_RESULTS = 25
"""The number of items or users in an answer if the request has no numResults."""

CHECK_MARKER = "_CHECK"
"""The name of an empty object. It is written last and shows that the output is complete."""


def check_batch_request(
    request: ApiRequest, *, segments: bool
) -> tuple[Recipe, FilterTraits | None]:
    """Return the recipe of the job's solution version, and the traits of the job's filter, if any.

    segments: whether the job makes user segments. If not, it makes recommendations.

    Raises ServiceError if the request breaks a rule for all batch jobs.
    """
    params = request.params
    version = request.get_active("SolutionVersion", params["solutionVersionArn"])
    if "model" not in version.state:
        raise InvalidInputError(
            f"The model of {version.arn} was deleted, as its tag says: create another solution"
            " version (a pipeline's next run does)."
        )
    recipe = RECIPES[version.body["recipeArn"]]
    if recipe.makes_segments != segments:
        makes, use = ("no ", "Inference") if segments else ("", "Segment")
        raise InvalidInputError(
            f"{recipe.arn} makes {makes}user segments: use CreateBatch{use}Job for {version.arn}."
        )
    source = check_location(params["jobInput"]["s3DataSource"]["path"])
    target = check_location(params["jobOutput"]["s3DataDestination"]["path"])
    if _add_slash(source) == _add_slash(target):
        raise InvalidInputError("The output location must differ from the input's.")
    if params.get("numResults", 1) < 1:
        raise InvalidInputError("numResults must be at least 1.")
    if "filterArn" not in params:
        return recipe, None
    return recipe, _check_filter(request, version, segments=segments)


def _check_filter(request: ApiRequest, version: Resource, *, segments: bool) -> FilterTraits:
    """Return the traits of the job's filter.

    Raises ServiceError if the filter does not fit this kind of job, or belongs to another dataset
    group than the version.
    """
    resource = request.get_active("Filter", request.params["filterArn"])
    if resource.parent != version.body["datasetGroupArn"]:
        raise InvalidInputError(f"{resource.arn} belongs to another dataset group.")
    filter_traits = find_traits(resource.body["filterExpression"])
    if filter_traits.filters_users != segments:
        target_id = "UserID" if segments else "ItemID"
        raise InvalidInputError(
            f"This job needs a filter on {target_id}, which {resource.arn} is not."
        )
    return filter_traits


class TrainedVersion(NamedTuple):
    """The solution version that a batch job uses, with its model and the job's filter."""

    version: Resource
    recipe: Recipe
    model: AnyModel
    group_arn: str
    filter_expression: str | None
    """The expression of the job's filter; None if the job has no filter."""


def run_batch_job(
    job: Job, make_answers: Callable[[Job, TrainedVersion], AnswerLines]
) -> JobResult:
    """Answer all input files, then upload the outputs, and finally write CHECK_MARKER.

    make_answers: loads the data for the answers, and returns the function that answers lines. It
        raises JobFailedError.

    Raises JobFailedError.
    """
    source = job.resource.body["jobInput"]["s3DataSource"]["path"]
    target = _add_slash(job.resource.body["jobOutput"]["s3DataDestination"]["path"])
    files = _list_input_files(job, source, target)
    trained = _load_version(job)
    answer_lines = make_answers(job, trained)
    with job.home.open_workspace(job.home.batches, job.resource.arn) as work:
        outputs = [work / str(number) for number in range(len(files))]
        for file, output in zip(files, outputs, strict=True):
            _answer_object(job, file.uri, output, trained.recipe.input_field, answer_lines)
        source_folder = source.rpartition("/")[0] + "/"
        for file, output in zip(files, outputs, strict=True):
            job.store.put(target + file.uri.removeprefix(source_folder) + OUTPUT_SUFFIX, output)
        job.store.put(target + CHECK_MARKER, b"")
    return JobResult()


def give_up_model(transaction: CatalogueTransaction, version: Resource) -> None:
    """Take the model from the version, and tag the version as expired.

    The caller removes the file of the model.
    """
    state = {name: value for name, value in version.state.items() if name != "model"}
    tags = {**version.tags, MODEL_TAG: EXPIRED}
    transaction.save(replace(version, state=state, tags=tags))


def _list_input_files(job: Job, source: str, target: str) -> list[ObjectInfo]:
    """Return the input files. Raises JobFailedError if there is none."""
    files = job.list_objects(source)
    if target.startswith(source):
        # The output is under the input's prefix. So the list may have the output of an earlier job,
        # which is not input.
        files = [file for file in files if not file.uri.startswith(target)]
        if not files:
            raise JobFailedError(f"{INVALID_LOCATION} There is no input at {source}")
    return files


def _load_version(job: Job) -> TrainedVersion:
    """Return the job's solution version, with its model and the job's filter.

    Raises JobFailedError if the version was deleted or its model is damaged.
    """
    arn = job.resource.body["solutionVersionArn"]
    expression = None
    with job.catalogue.open_for_reading() as transaction:
        version = transaction.require(arn)
        if "filterArn" in job.resource.body:
            body = transaction.require(job.resource.body["filterArn"]).body
            expression = body["filterExpression"]
    recipe = RECIPES[version.body["recipeArn"]]
    try:
        model = recipe.load(job.home.root / version.state["model"])
    except ModelFileError as error:
        with job.catalogue.open_for_writing() as transaction:
            give_up_model(transaction, version)
        remove_path(job.home.root / version.state["model"])
        raise JobFailedError(
            f"The model of {arn} cannot be used: {error}. It was given up: train again (a"
            " pipeline's next run does)."
        ) from error
    return TrainedVersion(version, recipe, model, version.body["datasetGroupArn"], expression)


def _answer_object(
    job: Job, uri: str, output: Path, input_field: str, answer_lines: AnswerLines
) -> None:
    """Write the answers to the lines of an S3 object to the file `output`."""
    source = output.with_suffix(".input")
    job.store.download(uri, source)
    count = job.count_progress(f"lines of {uri}", count_lines(source))
    answer_file(source, output, input_field, answer_lines, count)
    source.unlink()


def _add_slash(path: str) -> str:
    """Return the path with a slash at its end, as the path of a folder."""
    return path if path.endswith("/") else path + "/"
