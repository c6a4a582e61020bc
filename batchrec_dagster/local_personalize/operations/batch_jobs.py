"""What batch inference jobs and batch segment jobs have in common."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from batchrec_dagster.local_personalize.catalog.catalog import Records, Resource
from batchrec_dagster.local_personalize.catalog.kinds import Call, Draft, Finished
from batchrec_dagster.local_personalize.catalog.locations import (
    check_location,
    folder_of,
    objects_at,
)
from batchrec_dagster.local_personalize.data.batch_lines import Step, count_requests
from batchrec_dagster.local_personalize.errors import InvalidInputError, JobFailedError
from batchrec_dagster.local_personalize.filters import Traits, traits
from batchrec_dagster.local_personalize.jobs.job import Job
from batchrec_dagster.local_personalize.jobs.progress import Progress
from batchrec_dagster.local_personalize.learning.interactions import ModelFileError
from batchrec_dagster.local_personalize.learning.model import AnyModel, load_model
from batchrec_dagster.local_personalize.recipes import Recipe
from batchrec_dagster.personalize.batch_inference import (
    MAX_INPUT_BYTES,
    MAX_INPUT_RECORDS,
    OUTPUT_SUFFIX,
)
from batchrec_dagster.storage.object_store import ObjectInfo

DEFAULT_RESULTS = 25
MAX_FILES = 1000
CHECK_MARKER = "_CHECK"  # written last: the job's output is whole


class Answerer(Protocol):
    """Writes an output line for each line of `source` to `target`."""

    @property
    def recipe(self) -> Recipe: ...

    def answer(self, source: Path, target: Path, step: Step) -> None: ...


def draft(call: Call, folder: str, version: Resource, members: Mapping[str, Any]) -> Draft:
    """The job that a request asks for, its locations checked; absent (None) members left out."""
    params = call.params
    source = check_location(params["jobInput"]["s3DataSource"]["path"])
    target = check_location(params["jobOutput"]["s3DataDestination"]["path"])
    if folder_of(source) == folder_of(target):
        raise InvalidInputError("The output location must differ from the input's.")
    body = {
        "jobName": params["jobName"],
        "solutionVersionArn": version.arn,
        "numResults": _results(params),
        "jobInput": params["jobInput"],
        "jobOutput": params["jobOutput"],
        "roleArn": params["roleArn"],
        "filterArn": params.get("filterArn"),
        **members,
    }
    given = {member: value for member, value in body.items() if value is not None}
    return Draft(f"{folder}/{params['jobName']}", version.arn, given)


def check_filter(call: Call, version: Resource, *, of_users: bool) -> Traits | None:
    """What the filter is for that a request names, if it names one; it must be of items or users.

    Raises ServiceErrors.
    """
    if "filterArn" not in call.params:
        return None
    used = call.active("Filter", call.params["filterArn"])
    if used.parent != version.body["datasetGroupArn"]:
        raise InvalidInputError(f"{used.arn} belongs to another dataset group.")
    found = traits(used.body["filterExpression"])
    if found.users != of_users:
        wanted = "UserID" if of_users else "ItemID"
        raise InvalidInputError(f"This job needs a filter on {wanted}, which {used.arn} is not.")
    return found


def used_filter(records: Records, job: Resource) -> str | None:
    """The same, for a job that runs."""
    if "filterArn" not in job.body:
        return None
    found = records.find(job.body["filterArn"])
    assert found is not None  # a filter that an unfinished job uses cannot be deleted
    return str(found.body["filterExpression"])


def used_model(job: Job, version: Resource) -> AnyModel:
    """The version's model. Raises JobFailedError when its files are damaged."""
    try:
        return load_model(job.home.root / version.state["model"])
    except ModelFileError as error:
        raise JobFailedError(f"The model of {version.arn} cannot be used: {error}") from error


def perform(job: Job, prepare: Callable[[Job], Answerer]) -> Finished:
    """Answers all input files, then puts the outputs, whole, and the marker last."""
    home, arn = job.home, job.resource.arn
    source = job.resource.body["jobInput"]["s3DataSource"]["path"]
    target = folder_of(job.resource.body["jobOutput"]["s3DataDestination"]["path"])
    found = _input_files(job, source, target)
    answerer = prepare(job)
    home.discard_attempts(home.batches, arn)
    work = home.new_path(home.batches, arn)
    work.mkdir(mode=0o700)
    try:
        outputs = [
            _answer(job, answerer, info.uri, work / str(number))
            for number, info in enumerate(found)
        ]
        folder = source.rpartition("/")[0] + "/"
        for info, output in zip(found, outputs, strict=True):
            job.store.put(target + info.uri.removeprefix(folder) + OUTPUT_SUFFIX, output)
        job.store.put(target + CHECK_MARKER, b"")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Finished()


def _results(params: Mapping[str, Any]) -> int:
    results = int(params.get("numResults", DEFAULT_RESULTS))
    if results < 1:
        raise InvalidInputError("numResults must be at least 1.")
    return results


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
    if total > MAX_INPUT_BYTES:
        raise JobFailedError(f"The input has {total} bytes; {MAX_INPUT_BYTES} at most are allowed.")
    return found


def _answer(job: Job, answerer: Answerer, uri: str, output: Path) -> Path:
    source = output.with_suffix(".input")
    job.store.download(uri, source)
    lines = count_requests(source)
    most = answerer.recipe.most_queries or MAX_INPUT_RECORDS
    if lines > most:
        raise JobFailedError(
            f"{uri} has {lines} lines; with {answerer.recipe.name}, a file may have {most} at most."
        )
    progress = Progress(f"lines of {uri}", lines, job.progress)

    def step(count: int) -> None:
        progress.add(count)
        job.checkpoint()

    answerer.answer(source, output, step)
    source.unlink()
    progress.end()
    return output
