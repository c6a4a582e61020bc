"""The settings of training in Personalize."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from batchrec_dagster.config.problems import Keys, raise_problems
from batchrec_dagster.config.settings import Settings
from batchrec_dagster.personalize.recipes import (
    EVENT_VALUE_THRESHOLD,
    EVENT_WEIGHTS,
    USER_PERSONALIZATION_V2,
    HyperparameterError,
    parse_hyperparameters,
)
from batchrec_dagster.personalize.schemas import MAX_EVENT_TYPES


class Retrain(Settings):
    """The condition for training a new model."""

    every_days: int | None = Field(
        default=None,
        ge=1,
        description="Train at most once in this many days. Between trainings new data are imported"
        " and recommendations come from the last model. Default: train whenever the data changed.",
        examples=[7],
    )


class Training(NamedTuple):
    """The recipe and the parameters for training a model."""

    recipe: str
    parameters: Mapping[str, str]
    """Hyperparameters, and EVENT_WEIGHTS and EVENT_VALUE_THRESHOLD."""


class Solution(Settings):
    """The settings of training in Personalize."""

    recipe: Literal["aws-user-personalization-v2", "aws-user-personalization"] = Field(
        default="aws-user-personalization-v2", description="The Personalize recipe."
    )
    hyperparameters: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="The recipe's own settings, by Personalize's names (algorithmHyperParameters).",
        examples=[{"hidden_dimension": 64}],
    )
    event_weights: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        max_length=MAX_EVENT_TYPES,
        description="How much events of each type count, 0 to 1 (Personalize's eventsConfig): only"
        " the ratios matter, and events of other types are not trained on. With"
        f" {USER_PERSONALIZATION_V2}, and with ratings.columns.event_type.",
        examples=[{"purchase": 1.0, "view": 0.3}],
    )
    event_value_threshold: float | None = Field(
        default=None,
        description="Train only on events whose value is at least this (Personalize's"
        " eventValueThreshold), not on those without one. With ratings.columns.event_value.",
        examples=[0.5],
    )
    success: list[str] = Field(
        default_factory=list,
        max_length=MAX_EVENT_TYPES,
        description="The types of events that count as success, such as a purchase: outcomes,"
        " experiments, popular items and the embedded engine's metrics count only these. They do"
        " not change what is trained, as event_weights do. Amazon Personalize's own metrics count"
        " all events. With ratings.columns.event_type. Default: all events count.",
        examples=[["purchase"]],
    )
    retrain: Retrain = Field(
        default_factory=Retrain, description="When a new model is trained, for segments too."
    )

    @field_validator("event_weights")
    @classmethod
    def _a_weight_is_above_zero(cls, weights: dict[str, float]) -> dict[str, float]:
        if weights and not any(weights.values()):
            raise ValueError("give one event type, at least, a weight above 0")
        return weights

    @field_validator("success")
    @classmethod
    def _events_of_success_are_possible(cls, events: list[str]) -> list[str]:
        if not all(name.strip() for name in events):
            raise ValueError("an event type is empty: write its name, such as purchase")
        if len({name.lower() for name in events}) < len(events):
            raise ValueError("an event type is named twice: upper and lower case are the same")
        return events

    @model_validator(mode="after")
    def _events_of_success_are_trained_on(self) -> Self:
        trained = {name.lower() for name, weight in self.event_weights.items() if weight}
        missing = [name for name in self.success if name.lower() not in trained]
        if trained and missing:
            problem = (
                f"{', '.join(missing)} is not trained on, so nothing is held out to measure it:"
                " give it a small weight in event_weights"
            )
            raise_problems([(("success",), problem)])
        return self

    @model_validator(mode="after")
    def _settings_are_the_recipes(self) -> Self:
        if self.event_weights and self.recipe != USER_PERSONALIZATION_V2:
            raise ValueError(
                f"event_weights are for {USER_PERSONALIZATION_V2} only: omit them, or set recipe:"
                f" {USER_PERSONALIZATION_V2}"
            )
        texts = self.algorithm_hyperparameters
        problems: dict[Keys, str] = {}
        for key, text in texts.items():
            problem = _find_problem(self.recipe, {key: text})
            if problem:
                problems["hyperparameters", key] = problem
        if not problems:
            problem = _find_problem(self.recipe, texts)
            if problem:
                problems["hyperparameters",] = problem
        raise_problems(problems.items())
        return self

    @property
    def training(self) -> Training:
        """The recipe with its hyperparameters, event weights and event value threshold."""
        parameters = self.algorithm_hyperparameters
        if self.event_value_threshold is not None:
            parameters[EVENT_VALUE_THRESHOLD] = str(self.event_value_threshold)
        if self.event_weights:
            parameters[EVENT_WEIGHTS] = json.dumps(self.event_weights, sort_keys=True)
        return Training(self.recipe, parameters)

    @property
    def algorithm_hyperparameters(self) -> dict[str, str]:
        """The hyperparameters as Personalize takes them: strings, booleans in lower case."""
        return {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in sorted(self.hyperparameters.items())
        }


def _find_problem(recipe: str, hyperparameters: dict[str, str]) -> str | None:
    try:
        parse_hyperparameters(recipe, hyperparameters)
    except HyperparameterError as error:
        return str(error)
    return None
