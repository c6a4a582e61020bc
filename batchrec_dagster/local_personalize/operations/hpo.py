"""Hyperparameter optimization: what a `solutionConfig` asks of it, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchrec_dagster.local_personalize.errors import InvalidInputError
from batchrec_dagster.local_personalize.learning.searching import DEFAULT_JOBS, MOST_JOBS, Search
from batchrec_dagster.local_personalize.learning.training import TrainingError, check_search
from batchrec_dagster.local_personalize.recipes import Recipe, training_parameters

MOST_AT_ONCE = 10  # HPOResourceConfig.maxParallelTrainingJobs


def check_hpo(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Raises InvalidInputError for an `hpoConfig` that performHPO cannot work with."""
    resources = _hpo(config).get("hpoResourceConfig", {})
    _count(resources, "maxParallelTrainingJobs", MOST_AT_ONCE, MOST_AT_ONCE)
    try:
        check_search(recipe.name, training_parameters(config), search_of(config))
    except TrainingError as error:
        raise InvalidInputError(f"performHPO: {error}") from None


def search_of(config: Mapping[str, Any]) -> Search:
    """What performHPO is to try. Raises InvalidInputError for what cannot be a range."""
    hpo = _hpo(config)
    ranges = hpo.get("algorithmHyperParameterRanges", {})
    return Search(
        _count(
            hpo.get("hpoResourceConfig", {}), "maxNumberOfTrainingJobs", DEFAULT_JOBS, MOST_JOBS
        ),
        integers=_bounds(ranges.get("integerHyperParameterRanges", [])),
        continuous=_bounds(ranges.get("continuousHyperParameterRanges", [])),
        categories={
            _name(entry): entry.get("values", [])
            for entry in ranges.get("categoricalHyperParameterRanges", [])
        },
    )


def _hpo(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("hpoConfig", {})
    return found


def _count(resources: Mapping[str, str], name: str, default: int, most: int) -> int:
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
