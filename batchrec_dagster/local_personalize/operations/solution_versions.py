"""Solution versions: trained models and their metrics."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, NoReturn

import polars as pl

from batchrec_dagster.personalize.expired_models import EXPIRED, MODEL_TAG
from batchrec_dagster.personalize.measurements import HEADER
from batchrec_dagster.personalize.recipes import ITEM_ATTRIBUTE_AFFINITY, HyperparameterError
from batchrec_dagster.personalize.schemas import EVENT_TYPE, INTERACTIONS, ITEMS

from ..catalogue import CatalogueTransaction, Resource, Status
from ..engine.data import TrainingError
from ..engine.evaluate import summarize_choices
from ..errors import AlreadyExistsError, InUseError, InvalidInputError, JobFailedError
from ..jobs import Job, logger
from ..resources import HEADERS, ApiRequest, JobResult, Kind, NewResource, find_taggable, tag
from ..trained_recipes import RECIPES, train, training_parameters
from .batch_jobs import give_up_model
from .training_data import add_event_types, read_item_features, read_training_data

CHOICES = "choices.parquet"
"""The name of the file in a model's folder that has `Measurements.choices`, without ids."""

FULL = "FULL"
"""The only trainingMode that is offered."""

# A version inherits these members from its solution.
_INHERITED_MEMBERS = (
    "performHPO",
    "performAutoML",
    "recipeArn",
    "eventType",
    "solutionConfig",
)
_METRIC_DECIMALS = 4
"""The number of decimals of metrics in AWS's samples."""


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    solution = request.get_active("Solution", params["solutionArn"])
    recipe = RECIPES[solution.body["recipeArn"]]
    mode = params.get("trainingMode", FULL)
    versions = request.transaction.list_resources("SolutionVersion", parent=solution.arn)
    if mode != FULL:
        raise InvalidInputError(f"Training mode {mode} is not supported locally, only {FULL} is.")
    name = params.get("name")
    if name is not None and any(version.body.get("name") == name for version in versions):
        raise AlreadyExistsError(f"{solution.arn}/{name}")
    group_arn = solution.body["datasetGroupArn"]
    dataset = _find_active_dataset(request.transaction, group_arn, INTERACTIONS)
    if recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        _find_active_dataset(request.transaction, group_arn, ITEMS)
    body = {
        "solutionConfig": {},
        **{name: solution.body[name] for name in _INHERITED_MEMBERS if name in solution.body},
        "solutionArn": solution.arn,
        "datasetGroupArn": group_arn,
        "trainingMode": mode,
        "trainingType": "MANUAL",
    }
    arn_suffix = f"solution/{solution.body['name']}/{uuid.uuid4().hex[:8]}"
    return NewResource(body, {"dataset": dataset.arn}, arn_suffix)


def _find_active_dataset(
    transaction: CatalogueTransaction, group_arn: str, dataset_type: str
) -> Resource:
    """Return the group's dataset of this type. Raises InvalidInputError if none is ACTIVE."""
    dataset = transaction.find_dataset(group_arn, dataset_type)
    if dataset is None or dataset.status != Status.ACTIVE:
        name = dataset_type.title()
        raise InvalidInputError(f"{group_arn} has no active {name} dataset to train on.")
    return dataset


def _perform(job: Job) -> JobResult:
    """Train the version's recipe, measure the model and save it."""
    start_time = time.monotonic()
    version, home = job.resource, job.home
    interactions = read_training_data(job)
    recipe = RECIPES[version.body["recipeArn"]]
    config = version.body.get("solutionConfig", {})
    try:
        model, measurements = train(
            recipe.name,
            interactions,
            training_parameters(config),
            features=read_item_features(job),
            log=job.report_progress,
        )
    except (HyperparameterError, TrainingError) as error:
        raise JobFailedError(f"Create failed. {error}") from None
    job.checkpoint()
    choices, groups = measurements.choices, measurements.groups
    with home.open_workspace(home.models, version.arn) as work:
        model.save(work)
        if choices is not None:
            add_event_types(job, choices).write_parquet(work / CHOICES)
        model_path = home.publish(work, home.models, version.arn)
    body = {"trainingHours": (time.monotonic() - start_time) / 3600}
    state = {
        "model": model_path,
        "metrics": measurements.metrics,
        "groups": groups.model_dump() if groups is not None else None,
    }
    return JobResult(body, state)


def stop_creation(request: ApiRequest) -> NoReturn:
    """Refuse StopSolutionVersionCreation.

    Raises ResourceNotFoundError if there is no such version, and otherwise InvalidInputError.
    """
    version = request.get("SolutionVersion", request.params["solutionVersionArn"])
    raise InvalidInputError(f"{version.arn} cannot be stopped: that is not supported locally.")


def tag_resource(request: ApiRequest) -> dict[str, Any]:
    """Answer TagResource. A solution version that is tagged as expired loses its model.

    Amazon does not have this feature, because versions cost nothing on AWS. The version itself and
    its metrics stay, but its finished batch jobs are deleted. Nothing brings the model back, not
    even UntagResource.

    Raises ServiceError as `tag` does, and InUseError if the version is not ACTIVE or a job still
    needs the model.
    """
    answer = tag(request)
    version = find_taggable(request)
    if version.kind == "SolutionVersion" and version.tags.get(MODEL_TAG) == EXPIRED:
        _expire(request, version)
    return answer


def _expire(request: ApiRequest, version: Resource) -> None:
    if version.status != Status.ACTIVE:
        raise InUseError(f"{version.arn} cannot expire: its status is {version.status}.")
    if "model" not in version.state:
        return
    for job in request.transaction.list_jobs_of(version.arn):
        raise InUseError(f"{version.arn} cannot expire: {job.arn} needs its model.")
    request.transaction.remove_children(version)
    give_up_model(request.transaction, version)
    request.files_to_remove.append(version.state["model"])


def get_metrics(request: ApiRequest) -> dict[str, Any]:
    """Answer GetSolutionMetrics, with an additional response header that AWS does not have.

    The header is a JSON object. Its member `groups` is the NDCG@25 by groups of tested users, as a
    `GroupSums`, or null for user segments.

    If the request has a header of the same name with event types, metrics and groups count only
    events of these types, and the member `success` repeats the types. If the version has no record
    of event types, metrics and groups count all events, and `success` is empty.

    Raises ResourceNotFoundError, or InUseError until the version is ACTIVE.
    """
    version = request.get_active("SolutionVersion", request.params["solutionVersionArn"])
    metrics, groups = version.state["metrics"], version.state["groups"]
    choices = _load_choices(request, version) if request.success else None
    if choices is not None:
        events = [name.lower() for name in request.success]
        has_event = pl.col(EVENT_TYPE).list.eval(pl.element().is_in(events)).list.any()
        ranks, sums = summarize_choices(choices.filter(has_event))
        # The coverage depends only on the lists, which event types do not change.
        metrics, groups = {"coverage": metrics["coverage"], **ranks}, sums.model_dump()
    success = [] if choices is None else [*request.success]
    header = json.dumps({"success": success, "groups": groups}, separators=(",", ":"))
    return {
        "solutionVersionArn": version.arn,
        "metrics": {name: round(value, _METRIC_DECIMALS) for name, value in metrics.items()},
        HEADERS: {HEADER: header},
    }


def _load_choices(request: ApiRequest, version: Resource) -> pl.DataFrame | None:
    """Return the choices of the tested users, or None if the types of their events are unknown.

    None is returned for a damaged file, too, because the catalogue has the metrics of all events.
    """
    if "model" not in version.state:
        return None
    try:
        choices = pl.read_parquet(request.home / version.state["model"] / CHOICES)
    except (OSError, pl.exceptions.PolarsError) as error:
        logger.warning("the metrics of %s count all events: %s", version.arn, error)
        return None
    return choices if EVENT_TYPE in choices.columns else None


SOLUTION_VERSION = Kind(
    "SolutionVersion",
    _create,
    parent_member="solutionArn",
    perform=_perform,
    turn="training",
)
