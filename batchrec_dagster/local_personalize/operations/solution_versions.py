"""Solution versions: trained models and their metrics."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from batchrec_dagster.formats import schemas
from batchrec_dagster.formats.recipes import ITEM_ATTRIBUTE_AFFINITY
from batchrec_dagster.local_personalize.catalog import (
    ACTIVE,
    CREATE_IN_PROGRESS,
    CREATE_PENDING,
    CREATE_STOPPED,
    CREATE_STOPPING,
    Records,
    Resource,
)
from batchrec_dagster.local_personalize.errors import (
    AlreadyExistsError,
    InUseError,
    InvalidInputError,
    JobFailedError,
)
from batchrec_dagster.local_personalize.job import Job
from batchrec_dagster.local_personalize.kinds import Call, Draft, Finished, Kind, Lane
from batchrec_dagster.local_personalize.learning.errors import ModelFileError
from batchrec_dagster.local_personalize.learning.training import TrainingError, train
from batchrec_dagster.local_personalize.operations.datasets import dataset_of
from batchrec_dagster.local_personalize.operations.hpo import search_of
from batchrec_dagster.local_personalize.operations.training_data import training_data
from batchrec_dagster.local_personalize.recipes import RECIPES, Recipe, training_parameters

FULL, UPDATE = "FULL", "UPDATE"  # what trainingMode may be
_INHERITED = (
    "performHPO",
    "performAutoML",
    "performIncrementalUpdate",
    "recipeArn",
    "eventType",
    "solutionConfig",
)


def version_files(version: Resource) -> list[str]:
    """The model, when the version has one."""
    return [version.state["model"]] if "model" in version.state else []


def _create(call: Call) -> Draft:
    params = call.params
    solution = call.active("Solution", params["solutionArn"])
    recipe = RECIPES[solution.body["recipeArn"]]
    mode = params.get("trainingMode", FULL)
    earlier = call.records.children("SolutionVersion", solution.arn)
    previous = _updated_version(recipe, earlier) if mode == UPDATE else None
    if mode == "AUTOTRAIN":
        raise InvalidInputError("Training mode AUTOTRAIN is set by automatic training only.")
    if "name" in params and any(v.body.get("name") == params["name"] for v in earlier):
        raise AlreadyExistsError(f"{solution.arn}/{params['name']}")
    group_arn = solution.body["datasetGroupArn"]
    dataset = _active_dataset(call.records, group_arn, schemas.INTERACTIONS)
    if recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        _active_dataset(call.records, group_arn, schemas.ITEMS)
    body = {
        "solutionConfig": {},
        **{member: solution.body[member] for member in _INHERITED if member in solution.body},
        "name": params.get("name"),
        "solutionArn": solution.arn,
        "datasetGroupArn": group_arn,
        "trainingMode": mode,
        "trainingType": "MANUAL",
    }
    state = {"dataset": dataset.arn, "previous": previous and previous.state["model"]}
    version = f"solution/{solution.body['name']}/{uuid.uuid4().hex[:8]}"
    return Draft(version, solution.arn, body, state)


def _updated_version(recipe: Recipe, earlier: Sequence[Resource]) -> Resource:
    """The version that trainingMode UPDATE starts from: the latest ACTIVE one."""
    if not recipe.updates:
        raise InvalidInputError(f"Training mode UPDATE is not supported by {recipe.arn}.")
    active = [version for version in earlier if version.status == ACTIVE]
    if not active:
        raise InvalidInputError(
            "Training mode UPDATE needs an ACTIVE version of the solution, trained in mode FULL,"
            " to start from."
        )
    return active[-1]


def _active_dataset(records: Records, group_arn: str, dataset_type: str) -> Resource:
    dataset = dataset_of(records, group_arn, dataset_type)
    if dataset is None or dataset.status != ACTIVE:
        name = dataset_type.title()
        raise InvalidInputError(f"{group_arn} has no active {name} dataset to train on.")
    return dataset


def _perform(job: Job) -> Finished:
    began = time.monotonic()
    version, home = job.resource, job.home
    interactions = training_data(job)
    home.discard_attempts(home.models, version.arn)
    recipe = RECIPES[version.body["recipeArn"]]
    config = version.body.get("solutionConfig", {})
    previous = version.state.get("previous")
    try:
        trained = train(
            recipe.name,
            interactions,
            training_parameters(config),
            log=job.progress,
            previous=home.root / previous if previous else None,
            search=search_of(config) if version.body["performHPO"] else None,
        )
    except (TrainingError, ModelFileError) as error:
        raise JobFailedError(f"Create failed. {error}") from None
    job.checkpoint()
    published = home.new_path(home.models, version.arn)
    work = published.with_name(published.name + ".part")
    work.mkdir(mode=0o700)
    trained.model.save(work)
    work.rename(published)
    tuned = {"tunedHPOParams": {"algorithmHyperParameters": trained.tuned}} if trained.tuned else {}
    return Finished(
        body={"trainingHours": (time.monotonic() - began) / 3600, **tuned},
        state={"model": home.relative(published), "metrics": trained.metrics},
    )


def stop(call: Call) -> dict[str, Any]:
    """StopSolutionVersionCreation: at once while pending, else as soon as the training looks."""
    version = call.existing("SolutionVersion", call.params["solutionVersionArn"])
    if version.status == CREATE_PENDING:
        call.records.save(version.now(CREATE_STOPPED))
    elif version.status == CREATE_IN_PROGRESS:
        call.records.save(version.now(CREATE_STOPPING))
    else:
        raise InUseError(f"{version.arn} cannot be stopped: its status is {version.status}.")
    return {}


def metrics(call: Call) -> dict[str, Any]:
    """GetSolutionMetrics. Raises NotFoundError, InUseError until the version is ACTIVE."""
    version = call.active("SolutionVersion", call.params["solutionVersionArn"])
    return {"solutionVersionArn": version.arn, "metrics": version.state["metrics"]}


def active_version(records: Records, arn: str) -> Resource:
    """The version that a job uses. Raises JobFailedError when it was deleted meanwhile."""
    version = records.find(arn)
    if version is None:
        raise JobFailedError(f"{arn} does not exist any more.")
    return version


SOLUTION_VERSION = Kind(
    "SolutionVersion",
    _create,
    parent="solutionArn",
    perform=_perform,
    lane=Lane.TRAINING,
    running="running_solution_versions",
)
