"""The operations ListRecipes and DescribeRecipe."""

from __future__ import annotations

from typing import Any

from ..catalogue import Status
from ..resources import ApiRequest, answer_page
from ..trained_recipes import RECIPES, Recipe, get_recipe

_RELEASE_TIME = 1_559_779_200.0
"""The creation and update time of every recipe, in epoch seconds.

It is the day on which Amazon Personalize became available.
"""


def list_recipes(request: ApiRequest) -> dict[str, Any]:
    """Answer ListRecipes: one page of recipes.

    The list for a domain is empty, because the recipes of domains are for real time only.
    Raises ServiceError for a bad token.
    """
    domain = request.params.get("domain")
    recipes = [] if domain else list(enumerate(map(_describe, RECIPES.values()), start=1))
    return answer_page(
        request, "ListRecipes", lambda after, limit: recipes[after : after + limit], domain
    )


def describe_recipe(request: ApiRequest) -> dict[str, Any]:
    """Answer DescribeRecipe.

    Raises ResourceNotFoundError, and InvalidInputError for a recipe without batch jobs.
    """
    return {"recipe": _describe(get_recipe(request.params["recipeArn"]))}


def _describe(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "recipeArn": recipe.arn,
        "algorithmArn": recipe.arn.replace(":recipe/", ":algorithm/"),
        "featureTransformationArn": (
            "arn:aws:personalize:::feature-transformation/JSON-percentile-filtering"
        ),
        "status": Status.ACTIVE,
        "description": recipe.description,
        "recipeType": recipe.type,
        "creationDateTime": _RELEASE_TIME,
        "lastUpdatedDateTime": _RELEASE_TIME,
    }
