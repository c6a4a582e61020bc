"""Solution versions: trained models and their metrics."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.personalize import evidence, schemas
from batchrec_dagster.personalize.recipes import ITEM_ATTRIBUTE_AFFINITY, HyperparameterError

from ..catalog.catalog import CatalogTransaction
from ..catalog.kinds import CatalogKind, JobQueue, JobResult, NewResource
from ..catalog.requests import HEADERS, ApiRequest
from ..catalog.resource import Resource, Status
from ..data.datasets import DatasetReader
from ..errors import AlreadyExistsError, InUseError, InvalidInputError, JobFailedError
from ..jobs.job import Job
from ..learning.interactions import (
    WEIGHT,
    Interactions,
    ModelFileError,
    TrainingError,
    find_positions,
)
from ..learning.item_features import read_features
from ..recipes import (
    PERSONALIZED_RANKING,
    RECIPES,
    USER_PERSONALIZATION,
    Recipe,
    hpo_search,
    train,
    training_parameters,
)
from .datasets import find_dataset, read_schema


def read_training_data(job: Job) -> Interactions:
    """The interactions that match the solution's events. Raises JobFailedError if too few."""
    version = job.resource
    reader = job.make_reader(full_imports_only=RECIPES[version.body["recipeArn"]].makes_segments)
    events = _event_conditions(version.body)
    if events == [({}, 1.0)]:
        interactions = reader.interactions(version.state["dataset"])
    else:
        interactions = _select_events(reader, version.state["dataset"], events)
    job.report_progress(f"{len(interactions):,} interactions")
    _check_minimums(interactions)
    return interactions


def add_rewards(job: Job, interactions: Interactions) -> Interactions:
    """The interactions with each item's value of the optimizationObjective, if there is one.

    An item without a value has none to earn.
    """
    version = job.resource.body
    objective = version.get("solutionConfig", {}).get("optimizationObjective", {})
    if (column := objective.get("itemAttribute")) is None:
        return interactions
    read = job.make_reader().of_group(version["datasetGroupArn"])
    frame = read(schemas.ITEMS, [schemas.ITEM_ID, column]).unique(schemas.ITEM_ID, keep="last")
    at = find_positions(frame[schemas.ITEM_ID].to_numpy(), interactions.item_ids)
    values = frame[column].cast(pl.Float64).to_numpy()
    rewards = np.where(at >= 0, np.maximum(values[at], 0.0), 0.0)
    return replace(interactions, rewards=rewards)


def add_features(job: Job, interactions: Interactions) -> Interactions:
    """The interactions with the features of the Items dataset, if there is one with data."""
    version = job.resource.body
    if RECIPES[version["recipeArn"]].type not in (USER_PERSONALIZATION, PERSONALIZED_RANKING):
        return interactions
    with job.catalog.open_for_reading() as transaction:
        dataset = find_dataset(transaction, version["datasetGroupArn"], schemas.ITEMS)
        if dataset is None or not dataset.state["files"]:
            return interactions
        fields = read_schema(transaction, dataset).fields
    read = job.make_reader().of_group(version["datasetGroupArn"])
    features = read_features(fields, lambda name: read(schemas.ITEMS, [schemas.ITEM_ID, name]))
    if features is not None:
        job.report_progress(
            f"{len(features.item_ids):,} items with {features.matrix.shape[1]:,} features"
        )
    return replace(interactions, features=features)


def read_histories(job: Job, version: Resource) -> Interactions:
    """The interactions to recommend from: all, or as in training with weights or least values."""
    events, reader = _event_conditions(version.body), job.make_reader()
    dataset = reader.find(version.body["datasetGroupArn"], schemas.INTERACTIONS)
    values = any(schemas.EVENT_VALUE in event for event, _ in events)
    if not values and len({weight for _, weight in events}) == 1:
        return reader.interactions(dataset)
    return _select_events(reader, dataset, events)


def _select_events(
    reader: DatasetReader, dataset: str, events: list[tuple[EventConditions, float]]
) -> Interactions:
    columns = [schemas.USER_ID, schemas.ITEM_ID, schemas.TIMESTAMP]
    needed = dict.fromkeys([*columns, *(name for event, _ in events for name in event)])
    most = max(weight for _, weight in events)  # only the ratios of weights matter
    weights = [
        pl.when(_make_condition(event)).then(pl.lit(weight / most, pl.Float32))
        for event, weight in events
    ]
    weighted = len({weight for _, weight in events}) > 1

    def take(rows: pl.LazyFrame) -> Interactions:
        of_event = pl.max_horizontal(weights).alias(WEIGHT)
        matching = rows.with_columns(of_event).filter(pl.col(WEIGHT).is_not_null())
        return Interactions.from_frame(matching.select(*columns, *([WEIGHT] if weighted else [])))

    try:
        return reader.rows(dataset, list(needed), take)
    except pl.exceptions.ColumnNotFoundError as error:
        raise JobFailedError(f"Create failed. The interactions lack a column: {error}") from None


EventConditions = dict[str, str | float]


def _event_conditions(version: Mapping[str, Any]) -> list[tuple[EventConditions, float]]:
    """The events to train on: required EVENT_TYPE and least EVENT_VALUE, where given; weights."""
    config = version.get("solutionConfig", {})
    events = config.get("eventsConfig", {}).get("eventParametersList")
    if not events:
        threshold = config.get("eventValueThreshold")
        events = [{"eventType": version.get("eventType"), "eventValueThreshold": threshold}]
    keys = {schemas.EVENT_TYPE: "eventType", schemas.EVENT_VALUE: "eventValueThreshold"}
    return [
        (
            {name: event[key] for name, key in keys.items() if event.get(key) is not None},
            float(event.get("weight", 1.0)),
        )
        for event in events
        if event.get("weight") != 0
    ]


def _make_condition(event: Mapping[str, Any]) -> pl.Expr:
    return pl.all_horizontal(
        pl.col(name) >= float(value) if name == schemas.EVENT_VALUE else pl.col(name) == value
        for name, value in event.items()
    )


def _check_minimums(interactions: Interactions) -> None:
    if len(interactions) < schemas.MIN_INTERACTIONS:
        raise JobFailedError(
            f"Create failed. Dataset has {len(interactions)} interactions to train on, fewer than"
            f" {schemas.MIN_INTERACTIONS}."
        )
    enough = np.count_nonzero(np.diff(interactions.starts) >= 2)
    if enough < schemas.MIN_USERS_WITH_TWO_INTERACTIONS:
        raise JobFailedError(
            "Create failed. Dataset has fewer than"
            f" {schemas.MIN_USERS_WITH_TWO_INTERACTIONS} users with at least 2 interactions each."
        )
    if enough < schemas.MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS * len(interactions.user_ids):
        raise JobFailedError(
            "Create failed. Fewer than 1 % of the users have at least 2 interactions each."
        )


FULL, UPDATE = "FULL", "UPDATE"  # values of trainingMode
_INHERITED = (
    "performHPO",
    "performAutoML",
    "performIncrementalUpdate",
    "recipeArn",
    "eventType",
    "solutionConfig",
)


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    solution = request.get_active("Solution", params["solutionArn"])
    recipe = RECIPES[solution.body["recipeArn"]]
    mode = params.get("trainingMode", FULL)
    earlier = request.transaction.list_resources("SolutionVersion", parent=solution.arn)
    previous = _latest_active(recipe, earlier) if mode == UPDATE else None
    if mode == "AUTOTRAIN":
        raise InvalidInputError("Training mode AUTOTRAIN is set by automatic training only.")
    if "name" in params and any(v.body.get("name") == params["name"] for v in earlier):
        raise AlreadyExistsError(f"{solution.arn}/{params['name']}")
    group_arn = solution.body["datasetGroupArn"]
    dataset = _active_dataset(request.transaction, group_arn, schemas.INTERACTIONS)
    if recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        _active_dataset(request.transaction, group_arn, schemas.ITEMS)
    new_resource = make_version(solution, dataset, mode, "MANUAL")
    new_resource.state["previous"] = previous and previous.state["model"]
    return new_resource


def make_version(
    solution: Resource, dataset: Resource, mode: str, training_type: str
) -> NewResource:
    """A version of the solution, to train on the dataset of interactions."""
    body = {
        "solutionConfig": {},
        **{member: solution.body[member] for member in _INHERITED if member in solution.body},
        "solutionArn": solution.arn,
        "datasetGroupArn": solution.body["datasetGroupArn"],
        "trainingMode": mode,
        "trainingType": training_type,
    }
    arn = f"solution/{solution.body['name']}/{uuid.uuid4().hex[:8]}"
    return NewResource(body, {"dataset": dataset.arn, "previous": None}, arn)


def _latest_active(recipe: Recipe, earlier: Sequence[Resource]) -> Resource:
    """The version that trainingMode UPDATE starts from: the latest ACTIVE one."""
    if not recipe.updates:
        raise InvalidInputError(f"Training mode UPDATE is not supported by {recipe.arn}.")
    active = [version for version in earlier if version.status == Status.ACTIVE]
    if not active:
        raise InvalidInputError(
            "Training mode UPDATE starts from an ACTIVE version of the solution: create one in"
            " mode FULL first."
        )
    return active[-1]


def _active_dataset(transaction: CatalogTransaction, group_arn: str, dataset_type: str) -> Resource:
    dataset = find_dataset(transaction, group_arn, dataset_type)
    if dataset is None or dataset.status != Status.ACTIVE:
        name = dataset_type.title()
        raise InvalidInputError(f"{group_arn} has no active {name} dataset to train on.")
    return dataset


def _perform(job: Job) -> JobResult:
    began = time.monotonic()
    version, home = job.resource, job.home
    interactions = add_features(job, add_rewards(job, read_training_data(job)))
    recipe = RECIPES[version.body["recipeArn"]]
    config = version.body.get("solutionConfig", {})
    previous = version.state.get("previous")
    try:
        trained = train(
            recipe.name,
            interactions,
            training_parameters(config),
            log=job.report_progress,
            previous=home.root / previous if previous else None,
            search=hpo_search(config) if version.body["performHPO"] else None,
        )
    except (HyperparameterError, TrainingError, ModelFileError) as error:
        raise JobFailedError(f"Create failed. {error}") from None
    job.checkpoint()
    with home.open_workspace(home.models, version.arn) as work:
        trained.model.save(work)
        model = home.publish(work, home.models, version.arn)
    tuned = {"tunedHPOParams": {"algorithmHyperParameters": trained.tuned}} if trained.tuned else {}
    return JobResult(
        body={"trainingHours": (time.monotonic() - began) / 3600, **tuned},
        state={"model": model, "metrics": trained.metrics, "evidence": trained.evidence},
    )


def stop_creation(request: ApiRequest) -> dict[str, Any]:
    """StopSolutionVersionCreation: at once if pending, else at the training's next checkpoint."""
    version = request.get("SolutionVersion", request.params["solutionVersionArn"])
    if version.status == Status.CREATE_PENDING:
        request.transaction.save(version.copy_with_status(Status.CREATE_STOPPED))
    elif version.status == Status.CREATE_IN_PROGRESS:
        request.transaction.save(version.copy_with_status(Status.CREATE_STOPPING))
    else:
        raise InUseError(f"{version.arn} cannot be stopped: its status is {version.status}.")
    return {}


def get_metrics(request: ApiRequest) -> dict[str, Any]:
    """GetSolutionMetrics. Raises NotFoundError, InUseError until the version is ACTIVE.

    AWS's samples show four decimals. A header has what AWS does not give: the evidence, as JSON of
    the keys of learning/evidence.py.
    """
    version = request.get_active("SolutionVersion", request.params["solutionVersionArn"])
    metrics = {name: round(value, 4) for name, value in version.state["metrics"].items()}
    known = {name: round(value, 4) for name, value in version.state.get("evidence", {}).items()}
    header = json.dumps(known, separators=(",", ":"))
    return {
        "solutionVersionArn": version.arn,
        "metrics": metrics,
        HEADERS: {evidence.HEADER: header},
    }


SOLUTION_VERSION = CatalogKind(
    "SolutionVersion",
    _create,
    parent_member="solutionArn",
    perform=_perform,
    queue=JobQueue.TRAINING,
    running_quota="running_solution_versions",
)
