"""The recipes of Amazon Personalize that support batch jobs, and their hyperparameters.

The sources are the pages "Choosing a recipe" and "Batch recommendations" of the developer guide,
and the section "Properties and hyperparameters" on each recipe's page. Values are text, as in
CreateSolution's `algorithmHyperParameters` and `featureTransformationParameters`. A percentile that
is not set leaves out no user or item in local training, even if the guide has another default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

USER_PERSONALIZATION = "aws-user-personalization"
USER_PERSONALIZATION_V2 = "aws-user-personalization-v2"
SIMS = "aws-sims"
SIMILAR_ITEMS = "aws-similar-items"
ITEM_AFFINITY = "aws-item-affinity"
ITEM_ATTRIBUTE_AFFINITY = "aws-item-attribute-affinity"

# The short names of recipes, for resource names, because their length is limited.
SHORT_NAMES = {
    USER_PERSONALIZATION: "user-v1",
    USER_PERSONALIZATION_V2: "user-v2",
    SIMS: "sims",
    SIMILAR_ITEMS: "similar",
    ITEM_AFFINITY: "affinity",
    ITEM_ATTRIBUTE_AFFINITY: "attribute",
}


def build_recipe_arn(recipe: str, partition: str = "aws") -> str:
    """Return the recipe's ARN, such as `arn:aws:personalize:::recipe/aws-sims` for `aws-sims`."""
    return f"arn:{partition}:personalize:::recipe/{recipe}"


Value = int | float | bool
Values = Mapping[str, Value]


class HyperparameterError(ValueError):
    """An unknown or out-of-range hyperparameter. The message says what is allowed."""


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`."""

    low: float
    high: float
    whole: bool = False
    """Whether the number must be a whole number."""

    def parse(self, text: str) -> Value:
        """Return the text as a number. Raises ValueError."""
        value = int(text) if self.whole else float(text)
        if not self.low <= value <= self.high or not math.isfinite(value):
            raise ValueError(text)
        return value

    def __str__(self) -> str:
        if self.whole:
            return f"a whole number from {self.low:g} to {self.high:g}"
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Boolean:
    """`true` or `false`, in upper or lower case."""

    def parse(self, text: str) -> Value:
        """Return the text as a boolean. Raises ValueError."""
        try:
            return {"true": True, "false": False}[text.strip().lower()]
        except KeyError:
            raise ValueError(text) from None

    def __str__(self) -> str:
        return "true or false"


Hyperparameters = Mapping[str, Number | Boolean]

_HISTORY_LENGTHS: Hyperparameters = {
    "min_user_history_length_percentile": Number(0, 1),
    "max_user_history_length_percentile": Number(0, 1),
}
_ITEM_COUNTS: Hyperparameters = {
    "min_item_interaction_count_percentile": Number(0, 1),
    "max_item_interaction_count_percentile": Number(0, 1),
}
# These parameters belong in featureTransformationParameters, all others in
# algorithmHyperParameters.
FEATURES: Hyperparameters = {**_HISTORY_LENGTHS, **_ITEM_COUNTS}
# This parameter belongs in eventsConfig. It is a JSON object of weights by event type.
EVENT_WEIGHTS = "event_weights"
# This parameter belongs in eventsConfig, as a number for each event type. If there are no weights,
# it belongs in solutionConfig itself, as text.
EVENT_VALUE_THRESHOLD = "event_value_threshold"
_SEGMENTATION: Hyperparameters = {"hidden_dimension": Number(32, 256, whole=True)}

HYPERPARAMETERS: Mapping[str, Hyperparameters] = {
    USER_PERSONALIZATION: {
        "hidden_dimension": Number(32, 256, whole=True),
        "bptt": Number(2, 32, whole=True),
        "recency_mask": Boolean(),
        **_HISTORY_LENGTHS,
    },
    USER_PERSONALIZATION_V2: {"apply_recency_bias": Boolean()},
    SIMS: {
        "popularity_discount_factor": Number(0, 1),
        "min_cointeraction_count": Number(0, 10, whole=True),
        **_HISTORY_LENGTHS,
        **_ITEM_COUNTS,
    },
    # The guide's item_id_hidden_dimension and item_metadata_hidden_dimension belong to embeddings;
    # the local model counts co-occurrences, so it refuses them.
    SIMILAR_ITEMS: {},
    ITEM_AFFINITY: _SEGMENTATION,
    ITEM_ATTRIBUTE_AFFINITY: _SEGMENTATION,
}


def parse_hyperparameters(recipe: str, texts: Mapping[str, str]) -> dict[str, Value]:
    """Return the values as numbers and booleans. Raises HyperparameterError."""
    allowed = HYPERPARAMETERS.get(recipe)
    if allowed is None:
        raise HyperparameterError(
            f"recipe {recipe} is not supported locally; supported: {', '.join(HYPERPARAMETERS)}"
        )
    values = {}
    for key, text in texts.items():
        kind = allowed.get(key)
        if kind is None:
            raise HyperparameterError(
                f"{recipe} has no hyperparameter {key}; it has: {', '.join(allowed) or 'none'}"
            )
        try:
            values[key] = kind.parse(text)
        except ValueError:
            raise HyperparameterError(
                f"hyperparameter {key} is {text!r}; allowed: {kind}"
            ) from None
    for count in ("user_history_length", "item_interaction_count"):
        low = values.get(f"min_{count}_percentile", 0.0)
        high = values.get(f"max_{count}_percentile", 1.0)
        if low >= high:
            raise HyperparameterError(
                f"min_{count}_percentile ({low}) must be below max_{count}_percentile ({high})"
            )
    return values
