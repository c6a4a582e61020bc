"""ListRecipes and DescribeRecipe."""

from __future__ import annotations

from typing import Any

from batchrec_dagster.local_personalize.api.validation import output_members, pruned
from batchrec_dagster.local_personalize.catalog.catalog import ACTIVE
from batchrec_dagster.local_personalize.catalog.kinds import Call
from batchrec_dagster.local_personalize.operations.resources import (
    DEFAULT_PAGE,
    read_token,
    write_token,
)
from batchrec_dagster.local_personalize.recipes import RECIPES, Recipe, recipe_of

_PUBLISHED = 1_559_779_200.0  # when Personalize became generally available


def list_recipes(call: Call) -> dict[str, Any]:
    """One page of the recipes; a domain has none, for domains do no batch."""
    domain = call.params.get("domain")
    limit = call.params.get("maxResults", DEFAULT_PAGE)
    after = read_token(call.params.get("nextToken"), "Recipe", domain)
    recipes = [] if domain else list(RECIPES.values())
    shape = output_members("ListRecipes")["recipes"]
    page = [_described(recipe) for recipe in recipes[after : after + limit]]
    answer: dict[str, Any] = {"recipes": pruned(page, shape)}
    if after + limit < len(recipes):
        answer["nextToken"] = write_token(after + limit, "Recipe", domain)
    return answer


def describe_recipe(call: Call) -> dict[str, Any]:
    """Raises NotFoundError, and InvalidInputError for a recipe that cannot be used in batch."""
    return {"recipe": _described(recipe_of(call.params["recipeArn"]))}


def _described(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "recipeArn": recipe.arn,
        "algorithmArn": f"arn:aws:personalize:::algorithm/{recipe.name}",
        "featureTransformationArn": (
            "arn:aws:personalize:::feature-transformation/JSON-percentile-filtering"
        ),
        "status": ACTIVE,
        "description": recipe.description,
        "recipeType": recipe.type,
        "creationDateTime": _PUBLISHED,
        "lastUpdatedDateTime": _PUBLISHED,
    }
