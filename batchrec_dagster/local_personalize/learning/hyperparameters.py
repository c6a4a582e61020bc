"""Amazon Personalize's hyperparameters: which a recipe takes, and what they may be.

Source: the recipes' pages in the developer guide, "Properties and hyperparameters". Values come as
text, as in CreateSolution's `algorithmHyperParameters` and `featureTransformationParameters`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from batchrec_dagster.local_personalize.learning.errors import TrainingError

Value = int | float | bool


@dataclass(frozen=True)
class Number:
    """A number between two bounds, both allowed."""

    low: float
    high: float
    whole: bool = False

    def parse(self, text: str) -> Value:
        """The value of the text; raises ValueError."""
        value = int(text) if self.whole else float(text)
        if not self.low <= value <= self.high or not math.isfinite(value):
            raise ValueError(text)
        return value

    def __str__(self) -> str:
        if self.whole:
            return f"a whole number from {self.low:g} to {self.high:g}"
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Truth:
    """`true` or `false`, in any case."""

    def parse(self, text: str) -> Value:
        """The value of the text; raises ValueError."""
        try:
            return {"true": True, "false": False}[text.strip().lower()]
        except KeyError:
            raise ValueError(text) from None

    def __str__(self) -> str:
        return "true or false"


PERCENTILES = {
    "min_user_history_length_percentile": Number(0, 1),
    "max_user_history_length_percentile": Number(0, 1),
}

RECIPES: Mapping[str, Mapping[str, Number | Truth]] = {
    "aws-user-personalization": {
        "hidden_dimension": Number(32, 256, whole=True),
        "bptt": Number(2, 32, whole=True),
        "recency_mask": Truth(),
        **PERCENTILES,
    },
    "aws-user-personalization-v2": {"apply_recency_bias": Truth()},
    "aws-popularity-count": {},
}


def parse_hyperparameters(recipe: str, texts: Mapping[str, str]) -> dict[str, Value]:
    """The values given, typed. Raises TrainingError naming the key and what is allowed."""
    allowed = RECIPES.get(recipe)
    if allowed is None:
        raise TrainingError(f"recipe {recipe} cannot be trained here; these can: {_names(RECIPES)}")
    values = {}
    for key, text in texts.items():
        kind = allowed.get(key)
        if kind is None:
            raise TrainingError(
                f"{recipe} has no hyperparameter {key}; it has: {_names(allowed) or 'none'}"
            )
        try:
            values[key] = kind.parse(text)
        except ValueError:
            raise TrainingError(f"hyperparameter {key} is {text!r}; allowed: {kind}") from None
    low = values.get("min_user_history_length_percentile", 0.0)
    high = values.get("max_user_history_length_percentile", 1.0)
    if low >= high:
        raise TrainingError(
            f"min_user_history_length_percentile ({low}) is not below "
            f"max_user_history_length_percentile ({high})"
        )
    return values


def _names(of: Mapping[str, object]) -> str:
    return ", ".join(of)
