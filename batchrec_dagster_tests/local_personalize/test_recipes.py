"""The recipes: which are supported, and why others are refused."""

from __future__ import annotations

import pytest

from batchrec_dagster.local_personalize.recipes import RECIPES, Recipe, train
from batchrec_dagster_tests.guard.servers.personalize import RECIPE, Local
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of, tastes

BATCH_CAPABLE = {
    "aws-user-personalization": "USER_PERSONALIZATION",
    "aws-user-personalization-v2": "USER_PERSONALIZATION",
    "aws-sims": "RELATED_ITEMS",
    "aws-similar-items": "RELATED_ITEMS",
    "aws-item-affinity": "USER_SEGMENTATION",
    "aws-item-attribute-affinity": "USER_SEGMENTATION",
}
METRICS = {
    "coverage",
    "mean_reciprocal_rank_at_25",
    *(f"normalized_discounted_cumulative_gain_at_{depth}" for depth in (5, 10, 25)),
    *(f"precision_at_{depth}" for depth in (5, 10, 25)),
}
SEGMENT_METRICS = {"coverage", "hits_at_1_percent", "recall_at_1_percent"}


def test_all_recipes_with_batch_jobs_are_listed_and_described(local: Local) -> None:
    recipes = local.client.list_recipes()["recipes"]
    assert {recipe["name"] for recipe in recipes} == set(BATCH_CAPABLE)
    for summary in recipes:
        recipe_description = local.client.describe_recipe(recipeArn=summary["recipeArn"])["recipe"]
        assert recipe_description["recipeType"] == BATCH_CAPABLE[summary["name"]]
        assert recipe_description["recipeArn"] == RECIPE + summary["name"]
        assert recipe_description["description"]
        assert recipe_description.items() >= summary.items()
        assert set(summary) == {
            "name",
            "recipeArn",
            "status",
            "creationDateTime",
            "lastUpdatedDateTime",
        }
    # Domain recommenders work in real time only, so domains have no recipes here.
    assert local.client.list_recipes(domain="ECOMMERCE")["recipes"] == []


@pytest.mark.parametrize("recipe", ["aws-trending-now", "aws-next-best-action"])
def test_real_time_recipes_are_refused(local: Local, recipe: str) -> None:
    group = local.create_group()
    invalid = local.client.exceptions.InvalidInputException
    for recipe_name in (
        lambda: local.create_solution(group, recipe),
        lambda: local.client.describe_recipe(recipeArn=RECIPE + recipe),
    ):
        with pytest.raises(invalid, match=f"{recipe} cannot be used in batch"):
            recipe_name()


def test_the_recipe_of_texts_is_refused_with_the_one_to_take(local: Local) -> None:
    group = local.create_group()
    message = "aws-semantic-similarity is not supported locally.*aws-similar-items"
    with pytest.raises(local.client.exceptions.InvalidInputException, match=message):
        local.create_solution(group, "aws-semantic-similarity")


@pytest.mark.parametrize("recipe", ["aws-hrnn", "aws-ecomm-popular-items-by-views", "aws-magic"])
def test_unknown_recipes_are_refused(local: Local, recipe: str) -> None:
    with pytest.raises(local.client.exceptions.ResourceNotFoundException, match="does not exist"):
        local.create_solution(local.create_group(), recipe)


@pytest.mark.parametrize("recipe", BATCH_CAPABLE)
def test_a_solution_can_be_created_with_each_recipe(local: Local, recipe: str) -> None:
    solution = local.create_solution(local.create_group(), recipe)
    assert local.describe(solution)["recipeArn"] == RECIPE + recipe
    assert local.describe(solution)["performAutoML"] is False


def test_automatic_training_is_accepted_with_a_warning(
    local: Local, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        solution = local.create_solution(local.create_group(), performAutoTraining=True)
    assert local.describe(solution)["performAutoTraining"] is True
    messages = [record for record in caplog.records if "performAutoTraining" in record.message]
    assert len(messages) == 1
    assert "every 7 days" in messages[0].message


@pytest.mark.parametrize("flag", ["performAutoML", "performHPO", "performIncrementalUpdate"])
def test_other_ways_of_training_are_refused(local: Local, flag: str) -> None:
    invalid = local.client.exceptions.InvalidInputException
    group = local.create_group()
    with pytest.raises(invalid, match=f"{flag} is not supported locally"):
        local.create_solution(group, "aws-sims", **{flag: True})
    with pytest.raises(invalid, match="recipeArn is required"):
        local.client.create_solution(name="films", datasetGroupArn=group)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_training_measures_the_recipes_metrics(recipe: Recipe) -> None:
    expected = SEGMENT_METRICS if recipe.makes_segments else METRICS
    assert set(train(recipe.name, interactions_of(tastes()), {}).metrics) == expected
