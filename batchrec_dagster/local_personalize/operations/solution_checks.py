"""The rules that the configuration of a solution must keep, beyond those of the service model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchrec_dagster.personalize.recipes import HyperparameterError, parse_hyperparameters
from batchrec_dagster.personalize.schemas import EVENT_TYPE, INTERACTIONS, Schema

from ..errors import InvalidInputError
from ..learning.hpo import search_ranges
from ..recipes import (
    PERSONALIZED_RANKING,
    RECIPES,
    USER_PERSONALIZATION,
    Recipe,
    hpo_search,
    parse_count,
    training_parameters,
)
from .automatic_training import read_schedule_days

# The days in AutoTrainingConfig.schedulingExpression.
MIN_DAYS, MAX_DAYS = 1, 30

MAX_PARALLEL_JOBS = 10
"""The largest HPOResourceConfig.maxParallelTrainingJobs."""


def check_solution(recipe: Recipe, solution: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for options that the recipe does not have, and for bad values.

    solution: the members of a request, or of Describe.
    """
    config = solution.get("solutionConfig", {})
    try:
        parse_hyperparameters(recipe.name, training_parameters(config))
    except HyperparameterError as error:
        raise InvalidInputError(str(error)) from None
    if solution.get("performHPO"):
        _check_hpo(recipe, config)
    if solution.get("performIncrementalUpdate"):
        raise InvalidInputError(
            "performIncrementalUpdate is supported with the semantic-similarity recipe only."
        )
    days = read_schedule_days(config)
    if days is not None and not MIN_DAYS <= days <= MAX_DAYS:
        raise InvalidInputError(
            f"schedulingExpression must be rate(N days), N from {MIN_DAYS} to {MAX_DAYS}, not"
            f" {days}."
        )
    threshold = config.get("eventValueThreshold")
    if threshold is not None and not _is_number(threshold):
        raise InvalidInputError("eventValueThreshold must be a number.")
    if "eventsConfig" in config:
        _check_events(recipe, solution)
    _check_excluded_columns(config)


def check_objective(recipe: Recipe, config: Mapping[str, Any], items: Schema | None) -> None:
    """Raise InvalidInputError for an objective on no numeric column of the Items dataset.

    Source: developer guide, "Optimizing a solution for an additional objective".

    config: a solutionConfig.
    items: the schema of the Items dataset, or None if there is no such dataset.
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


def _check_hpo(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for an `hpoConfig` that performHPO cannot use."""
    resources = config.get("hpoConfig", {}).get("hpoResourceConfig", {})
    parse_count(resources, "maxParallelTrainingJobs", MAX_PARALLEL_JOBS, MAX_PARALLEL_JOBS)
    try:
        search_ranges(recipe.name, training_parameters(config), hpo_search(config))
    except HyperparameterError as error:
        raise InvalidInputError(f"performHPO: {error}") from None


def _check_events(recipe: Recipe, solution: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for an `eventsConfig` that the recipe cannot use."""
    if not recipe.events_config:
        names = [other.name for other in RECIPES.values() if other.events_config]
        raise InvalidInputError(f"eventsConfig is supported with {' and '.join(names)} only.")
    config = solution["solutionConfig"]
    if "eventType" in solution or "eventValueThreshold" in config:
        raise InvalidInputError(
            "Give either eventsConfig or eventType with its eventValueThreshold, not both."
        )
    events = config["eventsConfig"].get("eventParametersList", [])
    if any("eventType" not in event for event in events):
        raise InvalidInputError("Each entry of eventParametersList needs an eventType.")
    if events and all(event.get("weight") == 0 for event in events):
        raise InvalidInputError("At least one entry of eventParametersList needs a weight above 0.")


def _check_excluded_columns(config: Mapping[str, Any]) -> None:
    """Raise InvalidInputError if the training is to leave out the event types.

    Source: developer guide, "Configuring columns used when training".
    """
    excluded = config.get("trainingDataConfig", {}).get("excludedDatasetColumns", {})
    for dataset_type, columns in excluded.items():
        if dataset_type.casefold() == INTERACTIONS.casefold() and EVENT_TYPE in columns:
            raise InvalidInputError(f"excludedDatasetColumns: {EVENT_TYPE} cannot be excluded.")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
