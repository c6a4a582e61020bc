"""ListRecipes and DescribeRecipe: Amazon's recipes that this service has."""

from __future__ import annotations

from typing import Any

from ..api.validation import find_output_members, prune
from ..catalogue import Status
from ..recipes import RECIPES, Recipe, get_recipe
from ..resources import DEFAULT_PAGE, ApiRequest, read_token, write_token

_RELEASE_TIME = 1_559_779_200.0
"""The time of every recipe: when Amazon Personalize became available, in epoch seconds."""


def list_recipes(request: ApiRequest) -> dict[str, Any]:
    """Answer ListRecipes: one page, and the token of the next page if there is one.

    A domain has no recipes here, because its own recipes serve in real time.
    Raises ServiceError for a bad token.
    """
    domain = request.params.get("domain")
    limit = request.params.get("maxResults", DEFAULT_PAGE)
    start = read_token(request.params.get("nextToken"), "Recipe", domain)
    recipes = [] if domain else list(RECIPES.values())
    end = start + limit
    page = [_describe(recipe) for recipe in recipes[start:end]]
    shape = find_output_members("ListRecipes")["recipes"]
    response: dict[str, Any] = {"recipes": prune(page, shape)}
    if end < len(recipes):
        response["nextToken"] = write_token(end, "Recipe", domain)
    return response


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
