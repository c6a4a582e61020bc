"""The recipes that support batch jobs.

Source: Amazon Personalize developer guide, "Choosing a recipe" and "Batch recommendations".
"""

USER_PERSONALIZATION = "aws-user-personalization"
USER_PERSONALIZATION_V2 = "aws-user-personalization-v2"
POPULARITY_COUNT = "aws-popularity-count"
PERSONALIZED_RANKING = "aws-personalized-ranking"
PERSONALIZED_RANKING_V2 = "aws-personalized-ranking-v2"
SIMS = "aws-sims"
SIMILAR_ITEMS = "aws-similar-items"
ITEM_AFFINITY = "aws-item-affinity"
ITEM_ATTRIBUTE_AFFINITY = "aws-item-attribute-affinity"

# The fields of an input line of a batch job.
USER_ID, ITEM_ID = "userId", "itemId"
ITEM_LIST, ITEM_ATTRIBUTES = "itemList", "itemAttributes"

# These recommend items to each user.
USER_RECIPES = (USER_PERSONALIZATION_V2, USER_PERSONALIZATION, POPULARITY_COUNT)


def recipe_arn(recipe: str) -> str:
    """`aws-popularity-count` -> `arn:aws:personalize:::recipe/aws-popularity-count`."""
    return f"arn:aws:personalize:::recipe/{recipe}"
