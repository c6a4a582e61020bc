"""How Personalize trains."""

from __future__ import annotations

import dagster as dg
from pydantic import Field, field_validator

from batchrec_dagster.formats.recipes import POPULARITY_COUNT, USER_RECIPES


class Solution(dg.Model):
    """How Personalize trains."""

    recipe: str = Field(
        default="aws-user-personalization-v2",
        description="The Personalize recipe: " + ", ".join(USER_RECIPES) + ".",
        json_schema_extra={"enum": list(USER_RECIPES)},
    )
    hyperparameters: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="The recipe's own settings, by Personalize's names (algorithmHyperParameters).",
        examples=[{"hidden_dimension": 64}],
    )
    compare_with_popularity: bool = Field(
        default=True,
        description="Also train aws-popularity-count, so that the metrics stand beside what a list"
        " of the most popular items would reach. On AWS it costs a short training more.",
    )

    @field_validator("recipe")
    @classmethod
    def _recipe_is_known(cls, recipe: str) -> str:
        if recipe not in USER_RECIPES:
            raise ValueError(f"unknown recipe; allowed are {', '.join(USER_RECIPES)}")
        return recipe

    @property
    def recipes(self) -> dict[str, dict[str, str]]:
        """What is trained, by recipe its hyperparameters: first its own, then popularity."""
        recipes = {self.recipe: self.algorithm_hyperparameters}
        if self.compare_with_popularity:
            recipes.setdefault(POPULARITY_COUNT, {})
        return recipes

    @property
    def algorithm_hyperparameters(self) -> dict[str, str]:
        """The hyperparameters as Personalize takes them: strings, booleans in lower case."""
        return {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in sorted(self.hyperparameters.items())
        }
