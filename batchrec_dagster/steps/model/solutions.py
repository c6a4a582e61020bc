"""The names and configurations of the solutions and solution versions that steps create."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batchrec_dagster.config import fingerprint
from batchrec_dagster.personalize.recipes import (
    EVENT_VALUE_THRESHOLD,
    EVENT_WEIGHTS,
    FEATURES,
    SHORT_NAMES,
)

# The number of digits of the data's version in the name of a solution version.
DATA_DIGITS = 8


def build_version_stem(
    pipeline: str, data_version: str, recipe: str, force_run: str | None = None
) -> str:
    """Return the prefix of the names of solution versions: the pipeline, its data and the recipe.

    force_run: the id of a run that trains in any case; None for other runs. The id is part of the
        names, so that only this run and its retries find its solution versions.
    """
    # A number follows this prefix. With a pipeline name of 32 characters and a number of four
    # digits, the whole name stays within Personalize's limit of 63 characters.
    stem = f"{pipeline}-{data_version[:DATA_DIGITS]}-{SHORT_NAMES[recipe]}"
    return f"{stem}-{force_run[:6]}" if force_run else stem


def build_solution_name(dataset_group: str, recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """Return the name of the solution for these settings.

    Other settings need another solution, because Personalize cannot change a solution.
    """
    return f"{dataset_group}-{fingerprint_solution(recipe, hyperparameters)}"


def fingerprint_solution(recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """Return the suffix of the solution's name: a fingerprint of the recipe and hyperparameters."""
    return fingerprint(recipe, hyperparameters)[:8]


def build_solution_config(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the `solutionConfig` of CreateSolution, with each hyperparameter in its place."""
    not_of_algorithm = {*FEATURES, EVENT_WEIGHTS, EVENT_VALUE_THRESHOLD}
    algorithm = {key: text for key, text in hyperparameters.items() if key not in not_of_algorithm}
    config: dict[str, Any] = {"algorithmHyperParameters": algorithm}
    features = {key: text for key, text in hyperparameters.items() if key in FEATURES}
    if features:
        config["featureTransformationParameters"] = features
    threshold = hyperparameters.get(EVENT_VALUE_THRESHOLD)
    if EVENT_WEIGHTS in hyperparameters:
        minimum = {} if threshold is None else {"eventValueThreshold": float(threshold)}
        weights = json.loads(hyperparameters[EVENT_WEIGHTS]).items()
        events = [{"eventType": kind, "weight": weight, **minimum} for kind, weight in weights]
        config["eventsConfig"] = {"eventParametersList": events}
    elif threshold is not None:
        config["eventValueThreshold"] = threshold
    return config
