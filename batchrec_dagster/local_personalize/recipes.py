"""The recipes that this local Personalize trains.

Source: developer guide, "Choosing a recipe".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.formats.recipes import (
    POPULARITY_COUNT,
    USER_PERSONALIZATION,
    USER_PERSONALIZATION_V2,
    recipe_arn,
)


@dataclass(frozen=True)
class Recipe:
    """A recipe: its name, Personalize's type for it, and what an input line must have."""

    name: str
    type: str
    description: str
    input_fields: tuple[str, ...] = ("userId",)
    updates: bool = False  # whether trainingMode UPDATE is allowed

    @property
    def arn(self) -> str:
        return recipe_arn(self.name)


RECIPES = {
    recipe.arn: recipe
    for recipe in (
        Recipe(
            USER_PERSONALIZATION,
            "USER_PERSONALIZATION",
            "Predicts the items that each user will interact with.",
            updates=True,
        ),
        Recipe(
            USER_PERSONALIZATION_V2,
            "USER_PERSONALIZATION",
            "Predicts the items that each user will interact with; the newer generation.",
        ),
        Recipe(
            POPULARITY_COUNT,
            "USER_PERSONALIZATION",
            "Recommends the items that most users have interacted with: a baseline.",
        ),
    )
}


def training_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """What a `solutionConfig` says of the algorithm and of the features, as learning takes it."""
    return {
        **config.get("featureTransformationParameters", {}),
        **config.get("algorithmHyperParameters", {}),
    }
