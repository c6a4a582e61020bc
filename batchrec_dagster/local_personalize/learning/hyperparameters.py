"""Amazon Personalize's hyperparameters: which a recipe takes, and what they may be.

Source: the recipes' pages in the developer guide, "Properties and hyperparameters". Values come as
text, as in CreateSolution's `algorithmHyperParameters` and `featureTransformationParameters`. A
percentile that is not given leaves nobody out, whatever the guide's default is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from batchrec_dagster.local_personalize.learning.interactions import TrainingError

Value = int | float | bool


@dataclass(frozen=True)
class Number:
    """A number between two bounds, both allowed; tunable when performHPO may choose it."""

    low: float
    high: float
    whole: bool = False
    tunable: bool = False

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
    """`true` or `false`, in any case; tunable when performHPO may choose it."""

    tunable: bool = False

    def parse(self, text: str) -> Value:
        """The value of the text; raises ValueError."""
        try:
            return {"true": True, "false": False}[text.strip().lower()]
        except KeyError:
            raise ValueError(text) from None

    def __str__(self) -> str:
        return "true or false"


Hyperparameters = Mapping[str, Number | Truth]

HISTORY_LENGTHS: Hyperparameters = {
    "min_user_history_length_percentile": Number(0, 1),
    "max_user_history_length_percentile": Number(0, 1),
}
ITEM_COUNTS: Hyperparameters = {
    "min_item_interaction_count_percentile": Number(0, 1),
    "max_item_interaction_count_percentile": Number(0, 1),
}
# What stands in featureTransformationParameters; all others do in algorithmHyperParameters.
FEATURES: Hyperparameters = {**HISTORY_LENGTHS, **ITEM_COUNTS}
PERSONAL: Hyperparameters = {
    "hidden_dimension": Number(32, 256, whole=True, tunable=True),
    "bptt": Number(2, 32, whole=True, tunable=True),
    "recency_mask": Truth(tunable=True),
    **HISTORY_LENGTHS,
}
SECOND_GENERATION: Hyperparameters = {"apply_recency_bias": Truth()}
AFFINITY: Hyperparameters = {"hidden_dimension": Number(32, 256, whole=True)}

RECIPES: Mapping[str, Hyperparameters] = {
    "aws-user-personalization": PERSONAL,
    "aws-user-personalization-v2": SECOND_GENERATION,
    "aws-personalized-ranking": PERSONAL,
    "aws-personalized-ranking-v2": SECOND_GENERATION,
    "aws-popularity-count": {},
    "aws-sims": {
        "popularity_discount_factor": Number(0, 1, tunable=True),
        "min_cointeraction_count": Number(0, 10, whole=True, tunable=True),
        **HISTORY_LENGTHS,
        **ITEM_COUNTS,
    },
    # The guide's item_id_hidden_dimension and item_metadata_hidden_dimension are of embeddings;
    # here similarity is co-occurrence, so they are refused.
    "aws-similar-items": {},
    "aws-item-affinity": AFFINITY,
    "aws-item-attribute-affinity": AFFINITY,
}


def hyperparameters_of(recipe: str) -> Hyperparameters:
    """Those that a recipe takes. Raises TrainingError for a recipe that is not trained here."""
    allowed = RECIPES.get(recipe)
    if allowed is None:
        raise TrainingError(f"recipe {recipe} cannot be trained here; these can: {_names(RECIPES)}")
    return allowed


def parse_hyperparameters(recipe: str, texts: Mapping[str, str]) -> dict[str, Value]:
    """The values given, typed. Raises TrainingError naming the key and what is allowed."""
    allowed = hyperparameters_of(recipe)
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
    for what in ("user_history_length", "item_interaction_count"):
        low = values.get(f"min_{what}_percentile", 0.0)
        high = values.get(f"max_{what}_percentile", 1.0)
        if low >= high:
            raise TrainingError(
                f"min_{what}_percentile ({low}) is not below max_{what}_percentile ({high})"
            )
    return values


def _names(of: Mapping[str, object]) -> str:
    return ", ".join(of)
