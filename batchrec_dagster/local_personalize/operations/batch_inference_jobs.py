"""Batch inference jobs: recommendations for every line of the input files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from batchrec_dagster.formats.batch_inference import OUTPUT_SUFFIX
from batchrec_dagster.formats.interactions import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.formats.schemas import INTERACTIONS
from batchrec_dagster.local_personalize.catalog import Records
from batchrec_dagster.local_personalize.datasets import group_reader
from batchrec_dagster.local_personalize.errors import InvalidInputError, JobFailedError
from batchrec_dagster.local_personalize.filters import JobFilter
from batchrec_dagster.local_personalize.inference import Recommender
from batchrec_dagster.local_personalize.job import Job
from batchrec_dagster.local_personalize.kinds import Call, Draft, Finished, Kind, Lane
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.model import UserModel, load_model
from batchrec_dagster.local_personalize.locations import check_location, folder_of, objects_at
from batchrec_dagster.local_personalize.operations.solution_versions import active_version
from batchrec_dagster.local_personalize.recipes import RECIPES
from batchrec_dagster.object_store import ObjectInfo

DEFAULT_RESULTS = 25
MAX_FILES = 1000
MAX_BYTES = 1 << 30
CHECK_MARKER = "_CHECK"  # written last: the job's output is whole
_OPTIONS = ("filterArn", "batchInferenceJobConfig")


def _create(call: Call) -> Draft:
    params = call.params
    version = call.active("SolutionVersion", params["solutionVersionArn"])
    _check_mode(params)
    results = params.get("numResults", DEFAULT_RESULTS)
    if results < 1:
        raise InvalidInputError("numResults must be at least 1.")
    _check_locations(params)
    if "filterArn" in params:
        used = call.active("Filter", params["filterArn"])
        if used.parent != version.body["datasetGroupArn"]:
            raise InvalidInputError(f"{used.arn} belongs to another dataset group.")
    body = {
        "jobName": params["jobName"],
        "solutionVersionArn": version.arn,
        "numResults": results,
        "jobInput": params["jobInput"],
        "jobOutput": params["jobOutput"],
        "roleArn": params["roleArn"],
        "batchInferenceJobMode": "BATCH_INFERENCE",
        **{option: params[option] for option in _OPTIONS if option in params},
    }
    return Draft(f"batch-inference-job/{params['jobName']}", version.arn, body)


def _check_mode(params: Any) -> None:
    if params.get("batchInferenceJobMode") == "THEME_GENERATION":
        raise InvalidInputError("Themes (THEME_GENERATION) are not to be had locally.")
    if "themeGenerationConfig" in params:
        raise InvalidInputError("themeGenerationConfig is valid only in mode THEME_GENERATION.")


def _check_locations(params: Any) -> None:
    source = check_location(params["jobInput"]["s3DataSource"]["path"])
    target = check_location(params["jobOutput"]["s3DataDestination"]["path"])
    if folder_of(source) == folder_of(target):
        raise InvalidInputError("The output location must differ from the input's.")


def _perform(job: Job) -> Finished:
    home, arn = job.home, job.resource.arn
    source = job.resource.body["jobInput"]["s3DataSource"]["path"]
    target = folder_of(job.resource.body["jobOutput"]["s3DataDestination"]["path"])
    found = _input_files(job, source, target)
    recommender = _recommender(job)
    home.discard_attempts(home.batches, arn)
    work = home.new_path(home.batches, arn)
    work.mkdir(mode=0o700)
    try:
        outputs = [
            _answer(job, recommender, info.uri, work / str(number))
            for number, info in enumerate(found)
        ]
        folder = source.rpartition("/")[0] + "/"
        for info, output in zip(found, outputs, strict=True):
            job.store.put(target + info.uri.removeprefix(folder) + OUTPUT_SUFFIX, output)
        job.store.put(target + CHECK_MARKER, b"")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Finished()


def _input_files(job: Job, source: str, target: str) -> list[ObjectInfo]:
    found = objects_at(job.store, source)
    if target.startswith(source):
        # Under the input's prefix: what an attempt that died has written is no input.
        found = [info for info in found if not info.uri.startswith(target)]
        if not found:
            raise JobFailedError(f"Invalid Data location. There is no input at {source}")
    if len(found) > MAX_FILES:
        raise JobFailedError(f"The input has {len(found)} files; {MAX_FILES} at most are allowed.")
    total = sum(info.size for info in found)
    if total > MAX_BYTES:
        raise JobFailedError(f"The input has {total} bytes; {MAX_BYTES} at most are allowed.")
    return found


def _recommender(job: Job) -> Recommender:
    body = job.resource.body
    with job.catalog.reading() as records:
        version = active_version(records, body["solutionVersionArn"])
        used = _filter_expression(records, body.get("filterArn"))
    read = group_reader(job.catalog, job.home, version.body["datasetGroupArn"])
    model = load_model(job.home.root / version.state["model"])
    assert isinstance(model, UserModel)
    interactions = Interactions.from_frame(read(INTERACTIONS, [USER_ID, ITEM_ID, TIMESTAMP]))
    job.progress(f"{len(interactions)} interactions, {len(model.item_ids)} items")
    return Recommender(
        recipe=RECIPES[version.body["recipeArn"]],
        model=model,
        interactions=interactions,
        num_results=body["numResults"],
        filter=JobFilter(used, read, model.item_ids.tolist()) if used else None,
    )


def _filter_expression(records: Records, arn: str | None) -> str | None:
    if arn is None:
        return None
    found = records.find(arn)  # a filter that an unfinished job uses cannot be deleted
    assert found is not None
    return str(found.body["filterExpression"])


def _answer(job: Job, recommender: Recommender, uri: str, output: Path) -> Path:
    source = output.with_suffix(".input")
    job.store.download(uri, source)
    count = recommender.answer(source, output, job.checkpoint)
    source.unlink()
    job.progress(f"{count} lines of {uri}")
    return output


BATCH_INFERENCE_JOB = Kind(
    "BatchInferenceJob",
    _create,
    parent="solutionVersionArn",
    perform=_perform,
    lane=Lane.INFERENCE,
    running="running_batch_inference_jobs",
)
