"""The recipes that make a list of items for each user, and can do it in batch.

Source: Amazon Personalize developer guide, "Choosing a recipe" and "Batch recommendations".
"""

USER_PERSONALIZATION = "aws-user-personalization"
USER_PERSONALIZATION_V2 = "aws-user-personalization-v2"
POPULARITY_COUNT = "aws-popularity-count"

USER_RECIPES = (USER_PERSONALIZATION_V2, USER_PERSONALIZATION, POPULARITY_COUNT)


def recipe_arn(recipe: str) -> str:
    """`aws-popularity-count` -> `arn:aws:personalize:::recipe/aws-popularity-count`."""
    return f"arn:aws:personalize:::recipe/{recipe}"
