"""Solutions: a recipe and its configuration, checked; and their automatic training."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batchrec_dagster.personalize.recipes import HyperparameterError, parse_hyperparameters
from batchrec_dagster.personalize.schemas import EVENT_TYPE, INTERACTIONS, ITEMS, Schema

from ..catalog.catalog import CatalogTransaction
from ..catalog.kinds import CatalogKind, JobResult, NewResource
from ..catalog.requests import ApiRequest
from ..catalog.resource import BUSY, Resource, Status
from ..errors import InUseError, InvalidInputError
from ..jobs.job import Job, logger
from ..jobs.transitions import AFTER_UPDATE, start_update
from ..learning.hpo import search_ranges
from ..recipes import (
    PERSONALIZED_RANKING,
    RECIPES,
    USER_PERSONALIZATION,
    Recipe,
    get_recipe,
    hpo_search,
    parse_count,
    training_parameters,
)
from .datasets import check_no_running_jobs, find_dataset, read_schema
from .resources import describe_resource
from .solution_versions import FULL, SOLUTION_VERSION, make_version


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    if params.get("performAutoML"):
        raise InvalidInputError("AutoML is not supported locally: give a recipeArn.")
    if "recipeArn" not in params:
        raise InvalidInputError("recipeArn is required when performAutoML is false.")
    recipe = get_recipe(params["recipeArn"])
    group = request.get_active("DatasetGroup", params["datasetGroupArn"])
    _check_solution(recipe, params)
    items = find_dataset(request.transaction, group.arn, ITEMS)
    schema = read_schema(request.transaction, items) if items else None
    _check_objective(recipe, params.get("solutionConfig", {}), schema)
    body = {
        "performHPO": params.get("performHPO", False),
        "performAutoML": False,
        "performAutoTraining": params.get("performAutoTraining", True),
        "recipeArn": recipe.arn,
    }
    state = _first_training() if body["performAutoTraining"] else {}
    return NewResource(body, state)


def _perform(job: Job) -> JobResult:
    body = job.resource.body
    if body["performAutoTraining"]:
        logger.warning(
            "%s: performAutoTraining is true. It is trained soon and then every 7 days, or by its"
            " schedulingExpression; on AWS this costs.",
            job.resource.arn,
        )
    config = body.get("solutionConfig", {})
    if ignored := [name for name in _WITHOUT_EFFECT if config.get(name)]:
        logger.warning("%s: no effect locally: %s", job.resource.arn, ", ".join(ignored))
    return JobResult()


def _check_delete(request: ApiRequest, solution: Resource) -> None:
    for version in request.transaction.list_resources("SolutionVersion", parent=solution.arn):
        if version.status in BUSY:
            raise InUseError(f"{version.arn} is {version.status}.")
        check_no_running_jobs(request.transaction, version)


def _latest_version(transaction: CatalogTransaction, solution: Resource) -> dict[str, Any]:
    versions = transaction.list_resources("SolutionVersion", parent=solution.arn)
    return (
        {"latestSolutionVersion": describe_resource(SOLUTION_VERSION, versions[-1])}
        if versions
        else {}
    )


def update_solution(request: ApiRequest) -> dict[str, Any]:
    """UpdateSolution: whether to train automatically, how often, and on which events.

    The solution keeps its configuration until the update is done. A training that is turned on,
    or has a new schedule, starts soon. Source: developer guide, "Updating a solution to change its
    automatic training configuration".
    """
    solution = request.get_active("Solution", request.params["solutionArn"])
    if solution.unfinished:
        raise InUseError(f"{solution.arn} is being updated.")
    members = ("performAutoTraining", "performIncrementalUpdate", "solutionUpdateConfig")
    change = {member: request.params[member] for member in members if member in request.params}
    if not change:
        raise InvalidInputError("There is nothing to update.")
    new = {name: change[name] for name in members[:2] if name in change}
    if "solutionUpdateConfig" in change:
        config = solution.body.get("solutionConfig", {})
        new["solutionConfig"] = config | change["solutionUpdateConfig"]
    body = solution.body | new
    _check_solution(get_recipe(body["recipeArn"]), body)
    changed = start_update(solution, "latestSolutionUpdate", change)
    changed.state[AFTER_UPDATE] = new
    if _training(body) != _training(solution.body):
        changed.state.update(_first_training())
    request.transaction.save(changed)
    return {"solutionArn": solution.arn}


def _training(body: dict[str, Any]) -> tuple[bool, int | None]:
    return body["performAutoTraining"], _schedule_days(body.get("solutionConfig", {}))


MIN_DAYS, MAX_DAYS = 1, 30  # of AutoTrainingConfig.schedulingExpression
MAX_PARALLEL_JOBS = 10  # HPOResourceConfig.maxParallelTrainingJobs

# Members that are stored and described, but have no effect locally.
_WITHOUT_EFFECT = ("optimizationObjective", "trainingDataConfig", "autoMLConfig")


def _check_solution(recipe: Recipe, params: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for options that the recipe does not have, or bad values."""
    config = params.get("solutionConfig", {})
    try:
        parse_hyperparameters(recipe.name, training_parameters(config))
    except HyperparameterError as error:
        raise InvalidInputError(str(error)) from None
    if params.get("performHPO"):
        _check_hpo(recipe, config)
    if params.get("performIncrementalUpdate"):
        raise InvalidInputError(
            "performIncrementalUpdate is supported with the semantic-similarity recipe only."
        )
    days = _schedule_days(config)
    if days is not None and not MIN_DAYS <= days <= MAX_DAYS:
        raise InvalidInputError(
            f"schedulingExpression must be rate(N days), N from {MIN_DAYS} to {MAX_DAYS}, not"
            f" {days}."
        )
    threshold = config.get("eventValueThreshold")
    if threshold is not None and not _is_number(threshold):
        raise InvalidInputError("eventValueThreshold must be a number.")
    if "eventsConfig" in config:
        _check_events(recipe, params)
    excluded = config.get("trainingDataConfig", {}).get("excludedDatasetColumns", {})
    for kind, columns in excluded.items():
        # Developer guide, "Configuring columns used when training".
        if kind.casefold() == INTERACTIONS.casefold() and EVENT_TYPE in columns:
            raise InvalidInputError(f"excludedDatasetColumns: {EVENT_TYPE} cannot be excluded.")


def _schedule_days(config: Mapping[str, Any]) -> int | None:
    """The days of a configuration's schedulingExpression: `rate(N days)`, by the service model."""
    text: str | None = config.get("autoTrainingConfig", {}).get("schedulingExpression")
    return int("".join(filter(str.isdigit, text))) if text else None


def _check_objective(recipe: Recipe, config: Mapping[str, Any], items: Schema | None) -> None:
    """Raise InvalidInputError for an objective on no numeric column of the Items dataset.

    Source: developer guide, "Optimizing a solution for an additional objective".
    """
    name = config.get("optimizationObjective", {}).get("itemAttribute")
    if name is None:
        return
    if recipe.type not in (USER_PERSONALIZATION, PERSONALIZED_RANKING):
        raise InvalidInputError(f"{recipe.name} has no optimizationObjective.")
    field = items.field(name) if items else None
    if field is None:
        raise InvalidInputError(
            f"optimizationObjective: there is no Items dataset with a column {name}."
        )
    if field.type in ("string", "boolean") or field.nullable:
        raise InvalidInputError(
            f"optimizationObjective: the column {name} must be a number that is never null."
        )


def _check_events(recipe: Recipe, params: Mapping[str, Any]) -> None:
    if not recipe.events_config:
        names = [other.name for other in RECIPES.values() if other.events_config]
        raise InvalidInputError(f"eventsConfig is supported with {' and '.join(names)} only.")
    if "eventType" in params or "eventValueThreshold" in params["solutionConfig"]:
        raise InvalidInputError(
            "Give either eventsConfig or eventType with its eventValueThreshold, not both."
        )
    events = params["solutionConfig"]["eventsConfig"].get("eventParametersList", [])
    if any("eventType" not in event for event in events):
        raise InvalidInputError("Each entry of eventParametersList needs an eventType.")
    if events and all(event.get("weight") == 0 for event in events):
        raise InvalidInputError("At least one entry of eventParametersList needs a weight above 0.")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_hpo(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for an `hpoConfig` that performHPO cannot use."""
    resources = config.get("hpoConfig", {}).get("hpoResourceConfig", {})
    parse_count(resources, "maxParallelTrainingJobs", MAX_PARALLEL_JOBS, MAX_PARALLEL_JOBS)
    try:
        search_ranges(recipe.name, training_parameters(config), hpo_search(config))
    except HyperparameterError as error:
        raise InvalidInputError(f"performHPO: {error}") from None


# How soon a solution is trained automatically, when it is new or changed; within an hour on AWS.
SOON_SECONDS = 5.0
_DAY_SECONDS = 86_400.0
_DEFAULT_DAYS = 7
# In a solution's state, in epoch seconds: when it is next trained, and, if that is the first time
# by its schedule, since when it has that.
NEXT_TRAINING, NEW_SCHEDULE = "next_training", "first_training"


def _first_training() -> dict[str, Any]:
    """The state of a solution whose automatic training is new, or has another schedule."""
    now = time.time()
    return {NEXT_TRAINING: now + SOON_SECONDS, NEW_SCHEDULE: now}


def find_due_solutions(transaction: CatalogTransaction) -> list[tuple[Resource, Resource]]:
    """The solutions whose automatic training is due and can start, each with its interactions."""
    now, due = time.time(), []
    for solution in transaction.list_resources("Solution"):
        at = solution.state.get(NEXT_TRAINING, now + 1)
        if solution.body["performAutoTraining"] and solution.status == Status.ACTIVE and at <= now:
            group = solution.body["datasetGroupArn"]
            dataset = find_dataset(transaction, group, INTERACTIONS)
            if dataset and dataset.status == Status.ACTIVE and dataset.state["files"]:
                due.append((solution, dataset))
    return due


def train_due_solutions(transaction: CatalogTransaction) -> None:
    """Add a version for each due solution with new data; not a first one if a client added one.

    Source: developer guide, "Configuring automatic training".
    """
    for solution, dataset in find_due_solutions(transaction):
        if _needs_training(transaction, solution, dataset):
            new_resource = make_version(solution, dataset, FULL, "AUTOMATIC")
            arn = f"{solution.arn}/{new_resource.arn_suffix.rpartition('/')[2]}"
            new = SOLUTION_VERSION.make_pending(
                arn, solution.region, new_resource.body, new_resource.state
            )
            transaction.add(new)
        config = solution.body.get("solutionConfig", {})
        days = _schedule_days(config) or _DEFAULT_DAYS
        later = {NEXT_TRAINING: time.time() + days * _DAY_SECONDS, NEW_SCHEDULE: None}
        transaction.save(replace(solution, state=solution.state | later))


def _needs_training(transaction: CatalogTransaction, solution: Resource, dataset: Resource) -> bool:
    versions = transaction.list_resources("SolutionVersion", parent=solution.arn)
    if not versions:
        return True
    last, since = versions[-1].created, solution.state.get(NEW_SCHEDULE)
    imports = transaction.list_resources("DatasetImportJob", parent=dataset.arn)
    return not (since and last >= since) and any(
        job.status == Status.ACTIVE and job.updated > last for job in imports
    )


SOLUTION = CatalogKind(
    "Solution",
    _create,
    parent_member="datasetGroupArn",
    perform=_perform,
    total_quota="solutions_per_group",
    check_delete=_check_delete,
    owned_kind="SolutionVersion",
    describe_extra=_latest_version,
)
