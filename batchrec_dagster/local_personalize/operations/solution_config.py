"""Checks a solution's configuration when it is created."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from batchrec_dagster.local_personalize.errors import InvalidInputError
from batchrec_dagster.local_personalize.learning.hpo import (
    DEFAULT_JOBS,
    MAX_JOBS,
    Search,
    search_ranges,
)
from batchrec_dagster.local_personalize.recipes import (
    PERSONALIZED_RANKING,
    RECIPES,
    USER_PERSONALIZATION,
    Recipe,
    training_parameters,
)
from batchrec_dagster.personalize.recipes import HyperparameterError, parse_hyperparameters
from batchrec_dagster.personalize.schemas import Schema

MIN_DAYS, MAX_DAYS = 1, 30  # of AutoTrainingConfig.schedulingExpression
MAX_PARALLEL_JOBS = 10  # HPOResourceConfig.maxParallelTrainingJobs


def check_hpo(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for an `hpoConfig` that performHPO cannot use."""
    resources = _hpo_config(config).get("hpoResourceConfig", {})
    _parse_count(resources, "maxParallelTrainingJobs", MAX_PARALLEL_JOBS, MAX_PARALLEL_JOBS)
    try:
        search_ranges(recipe.name, training_parameters(config), hpo_search(config))
    except HyperparameterError as error:
        raise InvalidInputError(f"performHPO: {error}") from None


def hpo_search(config: Mapping[str, Any]) -> Search:
    """The search that performHPO runs. Raises InvalidInputError for a bad range."""
    hpo = _hpo_config(config)
    ranges = hpo.get("algorithmHyperParameterRanges", {})
    return Search(
        _parse_count(
            hpo.get("hpoResourceConfig", {}), "maxNumberOfTrainingJobs", DEFAULT_JOBS, MAX_JOBS
        ),
        integers=_bounds(ranges.get("integerHyperParameterRanges", [])),
        continuous=_bounds(ranges.get("continuousHyperParameterRanges", [])),
        categories={
            _name(entry): entry.get("values", [])
            for entry in ranges.get("categoricalHyperParameterRanges", [])
        },
    )


def _hpo_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    hpo: Mapping[str, Any] = config.get("hpoConfig", {})
    return hpo


def _parse_count(resources: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = resources.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise InvalidInputError(f"{name} must be a whole number from 1 to {most}, not {text!r}.")
    return int(text)


def _bounds(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, Any]]:
    for entry in entries:
        if "minValue" not in entry or "maxValue" not in entry:
            raise InvalidInputError(
                f"The range of {_name(entry)} needs both a minValue and a maxValue."
            )
    return {_name(entry): (entry["minValue"], entry["maxValue"]) for entry in entries}


def _name(entry: Mapping[str, Any]) -> str:
    if not entry.get("name"):
        raise InvalidInputError("Each range of algorithmHyperParameterRanges needs a name.")
    return str(entry["name"])


# Members that are stored and described, but have no effect locally.
_WITHOUT_EFFECT = ("optimizationObjective", "trainingDataConfig", "autoMLConfig")


def check_solution(recipe: Recipe, params: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for options that the recipe does not have, or bad values."""
    config = params.get("solutionConfig", {})
    try:
        parse_hyperparameters(recipe.name, training_parameters(config))
    except HyperparameterError as error:
        raise InvalidInputError(str(error)) from None
    if params.get("performHPO"):
        check_hpo(recipe, config)
    _check_incremental(params)
    _check_schedule(config)
    threshold = config.get("eventValueThreshold")
    if threshold is not None and not _is_number(threshold):
        raise InvalidInputError("eventValueThreshold must be a number.")
    if "eventsConfig" in config:
        _check_events(recipe, params)


def _check_schedule(config: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for a schedulingExpression that is not of 1 to 30 days."""
    text = training_schedule(config)
    if text is not None and not MIN_DAYS <= schedule_days(text) <= MAX_DAYS:
        raise InvalidInputError(
            f"schedulingExpression must be rate(N days), N from {MIN_DAYS} to {MAX_DAYS}, not"
            f" {text}."
        )


def training_schedule(config: Mapping[str, Any]) -> str | None:
    """The schedulingExpression of a solution's configuration, if it has one."""
    text: str | None = config.get("autoTrainingConfig", {}).get("schedulingExpression")
    return text


def schedule_days(expression: str) -> int:
    """The days of a schedulingExpression, which matches the service model's pattern."""
    return int("".join(filter(str.isdigit, expression)))


def check_objective(recipe: Recipe, config: Mapping[str, Any], items: Schema | None) -> None:
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


def _check_incremental(params: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for incremental updates, which no recipe here supports."""
    if params.get("performIncrementalUpdate"):
        raise InvalidInputError(
            "performIncrementalUpdate is supported with the semantic-similarity recipe only."
        )


def ignored_options(body: Mapping[str, Any]) -> list[str]:
    """The options of a solution that have no effect locally."""
    config = body.get("solutionConfig", {})
    return [name for name in _WITHOUT_EFFECT if config.get(name)]


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
