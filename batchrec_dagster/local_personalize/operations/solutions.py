"""Solutions: recipes with a configuration, from which solution versions are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchrec_dagster.personalize.recipes import HyperparameterError, parse_hyperparameters

from ..catalogue import CatalogueTransaction, Resource
from ..errors import InvalidInputError
from ..jobs import logger
from ..resources import ApiRequest, Kind, NewResource, describe_resource
from ..trained_recipes import Recipe, get_recipe, training_parameters
from .dataset_groups import check_group_is_idle
from .solution_versions import SOLUTION_VERSION

# These members of a solutionConfig are stored and described, but have no effect locally.
_WITHOUT_EFFECT = (
    "optimizationObjective",
    "trainingDataConfig",
    "autoMLConfig",
    "hpoConfig",
    "autoTrainingConfig",
)
# The local Personalize does not offer these ways of training.
_NOT_OFFERED = ("performAutoML", "performHPO", "performIncrementalUpdate")


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    for name in _NOT_OFFERED:
        if params.get(name):
            raise InvalidInputError(f"{name} is not supported locally.")
    if "recipeArn" not in params:
        raise InvalidInputError("recipeArn is required when performAutoML is false.")
    recipe = get_recipe(params["recipeArn"])
    request.get_active("DatasetGroup", params["datasetGroupArn"])
    _check_config(recipe, params.get("solutionConfig", {}))
    body = {
        "performHPO": False,
        "performAutoML": False,
        "performAutoTraining": params.get("performAutoTraining", True),
        "recipeArn": recipe.arn,
    }
    _warn({**params, **body})
    return NewResource(body)


def _check_config(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Raise InvalidInputError if the recipe cannot be trained with this solutionConfig."""
    try:
        parse_hyperparameters(recipe.name, training_parameters(config))
    except HyperparameterError as error:
        raise InvalidInputError(str(error)) from None
    threshold = config.get("eventValueThreshold")
    if threshold is not None and not _is_number(threshold):
        raise InvalidInputError("eventValueThreshold must be a number.")
    if "eventsConfig" not in config:
        return
    if not recipe.events_config:
        raise InvalidInputError(f"{recipe.name} has no eventsConfig.")
    events = config["eventsConfig"].get("eventParametersList", [])
    if events and all(event.get("weight") == 0 for event in events):
        raise InvalidInputError("At least one entry of eventParametersList needs a weight above 0.")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _warn(body: Mapping[str, Any]) -> None:
    """Log a warning for settings that cost money on AWS, or have no effect here.

    body: the solution's members of Describe.
    """
    if body["performAutoTraining"]:
        logger.warning(
            "solution %s: performAutoTraining is true. Here nothing is trained without a request;"
            " on AWS the solution is, every 7 days, and this costs.",
            body["name"],
        )
    config = body.get("solutionConfig", {})
    ignored = [name for name in _WITHOUT_EFFECT if config.get(name)]
    if ignored:
        logger.warning("solution %s: no effect locally: %s", body["name"], ", ".join(ignored))


def _check_delete(request: ApiRequest, solution: Resource) -> None:
    group = solution.body["datasetGroupArn"]
    check_group_is_idle(request.transaction, group, ["DataDeletionJob"])


def _describe_latest_version(
    transaction: CatalogueTransaction, solution: Resource
) -> dict[str, Any]:
    latest = transaction.list_resources(
        "SolutionVersion", parent=solution.arn, newest_first=True, limit=1
    )
    if not latest:
        return {}
    return {"latestSolutionVersion": describe_resource(SOLUTION_VERSION, latest[0])}


SOLUTION = Kind(
    "Solution",
    _create,
    parent_member="datasetGroupArn",
    check_delete=_check_delete,
    describe_extra=_describe_latest_version,
)
