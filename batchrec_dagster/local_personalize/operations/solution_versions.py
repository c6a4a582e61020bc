"""Solution versions: trained models and their metrics."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from batchrec_dagster.personalize import evidence, schemas
from batchrec_dagster.personalize.breakdown import format_header
from batchrec_dagster.personalize.recipes import ITEM_ATTRIBUTE_AFFINITY, HyperparameterError

from ..catalog.catalog import CatalogTransaction
from ..catalog.kinds import CatalogKind, JobQueue, JobResult, NewResource
from ..catalog.requests import HEADERS, ApiRequest
from ..catalog.resource import Resource, Status
from ..errors import AlreadyExistsError, InUseError, InvalidInputError, JobFailedError
from ..jobs.job import Job, logger
from ..learning.breakdown import measure_breakdown
from ..learning.choices import EventChoices
from ..learning.interactions import ModelFileError, TrainingError
from ..recipes import RECIPES, Recipe, hpo_search, train, training_parameters
from .choice_attributes import read_choice_attributes
from .datasets import find_dataset
from .expired_versions import has_model
from .training_data import (
    add_attributes,
    add_event_types,
    add_features,
    add_rewards,
    read_training_data,
)

# Values of trainingMode.
FULL, UPDATE, AUTOTRAIN = "FULL", "UPDATE", "AUTOTRAIN"

# The members of a solution that its versions have too.
_INHERITED_MEMBERS = (
    "performHPO",
    "performAutoML",
    "performIncrementalUpdate",
    "recipeArn",
    "eventType",
    "solutionConfig",
)
_METRIC_DECIMALS = 4
"""As in AWS's samples."""


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    solution = request.get_active("Solution", params["solutionArn"])
    recipe = RECIPES[solution.body["recipeArn"]]
    mode = params.get("trainingMode", FULL)
    versions = request.transaction.list_resources("SolutionVersion", parent=solution.arn)
    previous = _find_latest_active(recipe, versions) if mode == UPDATE else None
    if mode == AUTOTRAIN:
        raise InvalidInputError("Training mode AUTOTRAIN is set by automatic training only.")
    name = params.get("name")
    if name is not None and any(version.body.get("name") == name for version in versions):
        raise AlreadyExistsError(f"{solution.arn}/{name}")
    group_arn = solution.body["datasetGroupArn"]
    dataset = _find_active_dataset(request.transaction, group_arn, schemas.INTERACTIONS)
    if recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        _find_active_dataset(request.transaction, group_arn, schemas.ITEMS)
    version = make_version(solution, dataset, mode, "MANUAL")
    version.state["previous"] = previous and previous.state["model"]
    return version


def make_version(
    solution: Resource, dataset: Resource, mode: str, training_type: str
) -> NewResource:
    """Return a version of the solution that is not in the catalog yet.

    dataset: the Interactions dataset to train on.
    mode: the trainingMode, FULL or UPDATE.
    training_type: the member trainingType, MANUAL or AUTOMATIC.
    """
    body = {
        "solutionConfig": {},
        **{name: solution.body[name] for name in _INHERITED_MEMBERS if name in solution.body},
        "solutionArn": solution.arn,
        "datasetGroupArn": solution.body["datasetGroupArn"],
        "trainingMode": mode,
        "trainingType": training_type,
    }
    arn_suffix = f"solution/{solution.body['name']}/{uuid.uuid4().hex[:8]}"
    return NewResource(body, {"dataset": dataset.arn, "previous": None}, arn_suffix)


def _find_latest_active(recipe: Recipe, versions: Sequence[Resource]) -> Resource:
    """Return the version that trainingMode UPDATE starts from: the latest ACTIVE one.

    versions: those of one solution, oldest first.

    Raises InvalidInputError if there is none, or the recipe has no such mode.
    """
    if not recipe.updates:
        raise InvalidInputError(f"Training mode UPDATE is not supported by {recipe.arn}.")
    active = [
        version for version in versions if version.status == Status.ACTIVE and has_model(version)
    ]
    if not active:
        raise InvalidInputError(
            "Training mode UPDATE starts from an ACTIVE version of the solution: create one in"
            " mode FULL first."
        )
    return active[-1]


def _find_active_dataset(
    transaction: CatalogTransaction, group_arn: str, dataset_type: str
) -> Resource:
    """Return the group's dataset of this type. Raises InvalidInputError if none is ACTIVE."""
    dataset = find_dataset(transaction, group_arn, dataset_type)
    if dataset is None or dataset.status != Status.ACTIVE:
        name = dataset_type.title()
        raise InvalidInputError(f"{group_arn} has no active {name} dataset to train on.")
    return dataset


def _perform(job: Job) -> JobResult:
    """Train the version's recipe, measure the model and save it."""
    start_time = time.monotonic()
    version, home = job.resource, job.home
    interactions = add_features(job, add_rewards(job, read_training_data(job)))
    interactions = add_attributes(job, interactions)
    recipe = RECIPES[version.body["recipeArn"]]
    config = version.body.get("solutionConfig", {})
    previous_model = version.state.get("previous")
    try:
        trained = train(
            recipe.name,
            interactions,
            training_parameters(config),
            log=job.report_progress,
            previous=home.root / previous_model if previous_model else None,
            search=hpo_search(config) if version.body["performHPO"] else None,
        )
    except (HyperparameterError, TrainingError, ModelFileError) as error:
        raise JobFailedError(f"Create failed. {error}") from None
    job.checkpoint()
    choices = trained.measurements.choices
    event_choices = None if choices is None else add_event_types(job, choices)
    if choices is not None and event_choices is not None:
        attributes = read_choice_attributes(job, choices)
        event_choices = replace(event_choices, attributes=attributes)
    with home.open_workspace(home.models, version.arn) as work:
        trained.model.save(work)
        if event_choices is not None:
            event_choices.save(work)
        model_path = home.publish(work, home.models, version.arn)
    body: dict[str, Any] = {"trainingHours": (time.monotonic() - start_time) / 3600}
    if trained.tuned:
        body["tunedHPOParams"] = {"algorithmHyperParameters": trained.tuned}
    state = {"model": model_path, "metrics": trained.metrics, "evidence": trained.evidence}
    return JobResult(body, state)


def stop_creation(request: ApiRequest) -> dict[str, Any]:
    """Answer StopSolutionVersionCreation.

    A pending version stops at once, and one in training at the training's next checkpoint.

    Raises ResourceNotFoundError, and InUseError if the version is neither.
    """
    version = request.get("SolutionVersion", request.params["solutionVersionArn"])
    if version.status == Status.CREATE_PENDING:
        request.transaction.save(version.copy_with_status(Status.CREATE_STOPPED))
    elif version.status == Status.CREATE_IN_PROGRESS:
        request.transaction.save(version.copy_with_status(Status.CREATE_STOPPING))
    else:
        raise InUseError(f"{version.arn} cannot be stopped: its status is {version.status}.")
    return {}


def get_metrics(request: ApiRequest) -> dict[str, Any]:
    """Answer GetSolutionMetrics.

    A header has what AWS does not give: the evidence for the metrics, as JSON with the keys of
    learning/evidence.py. If the request names target events, and the version was measured so that
    they are known, metrics and evidence count these alone, and another header repeats their names.
    If it names another version that was tested on the same choices, a header compares both. If it
    asks for the breakdown, a header has the quality in parts.

    Raises ResourceNotFoundError, and InUseError until the version is ACTIVE.
    """
    version = request.get_active("SolutionVersion", request.params["solutionVersionArn"])
    metrics, numbers = version.state["metrics"], version.state.get("evidence", {})
    headers = {}
    is_loaded = request.target_events or request.compare_with or request.wants_breakdown
    choices = _load_choices(request, version) if is_loaded else None
    if choices is not None and request.compare_with:
        other = request.get_active("SolutionVersion", request.compare_with)
        other_choices = _load_choices(request, other)
        if other_choices is not None:
            compared = choices.compare(other_choices, request.target_events)
            headers[evidence.COMPARED_HEADER] = json.dumps(_round(compared))
    if choices is not None and request.target_events:
        ranks, numbers = choices.measure(request.target_events)
        # The lists are the same, and so is what is in them.
        metrics = {"coverage": metrics["coverage"], **ranks}
        headers[evidence.TARGET_EVENTS_HEADER] = json.dumps(list(request.target_events))
    if choices is not None and request.wants_breakdown:
        is_counted = choices.find_counted(request.target_events)
        headers[evidence.BREAKDOWN_HEADER] = format_header(measure_breakdown(choices, is_counted))
    headers[evidence.HEADER] = json.dumps(_round(numbers), separators=(",", ":"))
    return {"solutionVersionArn": version.arn, "metrics": _round(metrics), HEADERS: headers}


def _load_choices(request: ApiRequest, version: Resource) -> EventChoices | None:
    """Return what the tested users chose; None if the version was trained by an older batchrec.

    Damaged files count as none: the metrics of all events are in the catalog.
    """
    if not has_model(version):
        return None
    try:
        return EventChoices.load(request.home / version.state["model"])
    except ModelFileError as error:
        logger.warning("the metrics of %s count all events: %s", version.arn, error)
        return None


def _round(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, _METRIC_DECIMALS) for name, value in metrics.items()}


SOLUTION_VERSION = CatalogKind(
    "SolutionVersion",
    _create,
    parent_member="solutionArn",
    perform=_perform,
    queue=JobQueue.TRAINING,
    running_quota="running_solution_versions",
)
