"""The recipes that this local Personalize trains: all those with batch jobs.

Source: developer guide, "Choosing a recipe" and "Batch inference job input and output".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.local_personalize.errors import InvalidInputError, NotFoundError
from batchrec_dagster.personalize import recipes as names
from batchrec_dagster.personalize.recipes import recipe_arn

# Personalize's types of recipes.
USER_PERSONALIZATION = "USER_PERSONALIZATION"
POPULAR_ITEMS = "POPULAR_ITEMS"
PERSONALIZED_RANKING = "PERSONALIZED_RANKING"
RELATED_ITEMS = "RELATED_ITEMS"
USER_SEGMENTATION = "USER_SEGMENTATION"

USER_ID, ITEM_ID = "userId", "itemId"
ITEM_LIST, ITEM_ATTRIBUTES = "itemList", "itemAttributes"


@dataclass(frozen=True)
class Recipe:
    """A recipe: its name, Personalize's type for it, and what an input line must have."""

    name: str
    type: str
    description: str
    input_fields: tuple[str, ...] = (USER_ID,)
    scores: bool = False  # whether its batch output has scores
    updates: bool = False  # whether trainingMode UPDATE is allowed
    max_lines: int | None = None  # how many lines an input file may have

    @property
    def arn(self) -> str:
        return recipe_arn(self.name)

    @property
    def makes_segments(self) -> bool:
        """Whether it works in batch segment jobs; all others do in batch inference jobs."""
        return self.type == USER_SEGMENTATION


RECIPES = {
    recipe.arn: recipe
    for recipe in (
        Recipe(
            names.USER_PERSONALIZATION,
            USER_PERSONALIZATION,
            "Predicts the items that each user will interact with.",
            scores=True,
            updates=True,
        ),
        Recipe(
            names.USER_PERSONALIZATION_V2,
            USER_PERSONALIZATION,
            "Predicts the items that each user will interact with; the newer generation.",
            scores=True,
        ),
        Recipe(
            names.POPULARITY_COUNT,
            POPULAR_ITEMS,
            "Recommends the items that most users have interacted with: a baseline.",
        ),
        Recipe(
            names.PERSONALIZED_RANKING,
            PERSONALIZED_RANKING,
            "Puts a list of items into the order that a user is likely to want.",
            (USER_ID, ITEM_LIST),
            scores=True,
        ),
        Recipe(
            names.PERSONALIZED_RANKING_V2,
            PERSONALIZED_RANKING,
            "Puts a list of items into the order that a user is likely to want; the newer"
            " generation.",
            (USER_ID, ITEM_LIST),
            scores=True,
        ),
        Recipe(
            names.SIMS,
            RELATED_ITEMS,
            "Finds the items that the same users have interacted with.",
            (ITEM_ID,),
        ),
        Recipe(
            names.SIMILAR_ITEMS,
            RELATED_ITEMS,
            "Finds the items that are like a given one.",
            (ITEM_ID,),
        ),
        Recipe(
            names.ITEM_AFFINITY,
            USER_SEGMENTATION,
            "Finds the users who are most likely to interact with an item.",
            (ITEM_ID,),
            max_lines=500,
        ),
        Recipe(
            names.ITEM_ATTRIBUTE_AFFINITY,
            USER_SEGMENTATION,
            "Finds the users who are most likely to interact with items of some attributes.",
            (ITEM_ATTRIBUTES,),
            max_lines=10,
        ),
    )
}

# Recipes that Personalize offers in real time only.
_NOT_IN_BATCH = ("aws-trending-now", "aws-next-best-action")


def get_recipe(arn: str) -> Recipe:
    """The recipe of an ARN. Raises NotFoundError, or InvalidInputError for one without batch.

    Refused before anything is trained: nothing could be done here with such a solution.
    """
    if arn in RECIPES:
        return RECIPES[arn]
    for name in _NOT_IN_BATCH:
        if arn == recipe_arn(name):
            raise InvalidInputError(
                f"{name} cannot be used in batch: you can't get batch recommendations with it,"
                " and this local Personalize does batch only."
            )
    raise NotFoundError(arn)


def training_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """A `solutionConfig`'s hyperparameters and feature transformation parameters together."""
    return {
        **config.get("featureTransformationParameters", {}),
        **config.get("algorithmHyperParameters", {}),
    }
