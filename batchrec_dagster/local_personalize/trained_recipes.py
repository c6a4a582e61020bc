"""The table of recipes that this local Personalize trains. Each recipe has batch jobs.

Source: developer guide, "Choosing a recipe" and "Batch inference job input and output".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrec_dagster.personalize import formats
from batchrec_dagster.personalize import recipes as names
from batchrec_dagster.personalize.recipes import Values, build_recipe_arn, parse_hyperparameters

from .engine import blend, segments, similar
from .engine.blend_model import BlendModel
from .engine.content import ItemFeatures
from .engine.data import Interactions, Log, TrainingError
from .engine.evaluate import Measurements
from .engine.segments import SegmentModel
from .engine.similar import SimilarItems
from .errors import InvalidInputError, ResourceNotFoundError

# Amazon Personalize's types of recipes.
PERSONALIZATION = "USER_PERSONALIZATION"
RELATED_ITEMS = "RELATED_ITEMS"
USER_SEGMENTATION = "USER_SEGMENTATION"


AnyModel = BlendModel | SimilarItems | SegmentModel
# A function that takes interactions, the features of items, hyperparameters and a log. It returns
# the model, and the measurements of a model that was trained without the tested users.
Train = Callable[[Interactions, ItemFeatures | None, Values, Log], tuple[AnyModel, Measurements]]


@dataclass(frozen=True)
class Recipe:
    """A recipe of Amazon Personalize, and the functions that train and load its models here."""

    name: str
    """The last part of the recipe's ARN."""

    type: str
    """The recipe's type in Amazon Personalize, such as USER_PERSONALIZATION."""

    description: str

    input_field: str
    """The field of a batch job's input line that names the user, item or item attributes."""

    train: Train

    load: Callable[[Path], AnyModel]
    """A function that reads a saved model. Raises ModelFileError."""

    events_config: bool = False
    """Whether solutionConfig.eventsConfig is allowed."""

    @property
    def arn(self) -> str:
        return build_recipe_arn(self.name)

    @property
    def makes_segments(self) -> bool:
        """Whether the recipe is for batch segment jobs. If not, it is for batch inference jobs."""
        return self.type == USER_SEGMENTATION


_TABLE = (
    Recipe(
        names.USER_PERSONALIZATION,
        PERSONALIZATION,
        "Predicts the items that each user will interact with.",
        formats.USER_FIELD,
        blend.train,
        BlendModel.load,
    ),
    Recipe(
        names.USER_PERSONALIZATION_V2,
        PERSONALIZATION,
        "Predicts the items that each user will interact with; the second generation.",
        formats.USER_FIELD,
        blend.train,
        BlendModel.load,
        events_config=True,
    ),
    Recipe(
        names.SIMS,
        RELATED_ITEMS,
        "Finds the items that the same users have interacted with.",
        formats.ITEM_FIELD,
        similar.train_sims,
        SimilarItems.load,
    ),
    Recipe(
        names.SIMILAR_ITEMS,
        RELATED_ITEMS,
        "Finds the items that are similar to a given one.",
        formats.ITEM_FIELD,
        similar.train_similar_items,
        SimilarItems.load,
    ),
    Recipe(
        names.ITEM_AFFINITY,
        USER_SEGMENTATION,
        "Finds the users who are most likely to interact with an item.",
        formats.ITEM_FIELD,
        segments.train,
        SegmentModel.load,
    ),
    Recipe(
        names.ITEM_ATTRIBUTE_AFFINITY,
        USER_SEGMENTATION,
        "Finds the users who are most likely to interact with items of some attributes.",
        formats.ITEM_ATTRIBUTES,
        segments.train,
        SegmentModel.load,
    ),
)
RECIPES: Mapping[str, Recipe] = {recipe.arn: recipe for recipe in _TABLE}

# These recipes have no batch jobs: Amazon Personalize offers them in real time only.
REAL_TIME_RECIPES = ("aws-trending-now", "aws-next-best-action")
# This recipe has batch jobs, but it compares items' texts with a model that only Amazon has.
SEMANTIC_SIMILARITY = "aws-semantic-similarity"


def get_recipe(arn: str) -> Recipe:
    """Return the recipe with this ARN.

    Raises ResourceNotFoundError if there is none, and InvalidInputError if the recipe has no batch
    jobs or is available on AWS only.
    """
    # Clients in China and GovCloud use their partition in the ARN.
    standard_arn = re.sub(r"^arn:aws(-cn|-us-gov):", "arn:aws:", arn)
    if standard_arn in RECIPES:
        return RECIPES[standard_arn]
    for name in REAL_TIME_RECIPES:
        if standard_arn == build_recipe_arn(name):
            raise InvalidInputError(
                f"{name} cannot be used in batch: Personalize offers it in real time only, which is"
                " not supported locally."
            )
    if standard_arn == build_recipe_arn(SEMANTIC_SIMILARITY):
        raise InvalidInputError(
            f"{SEMANTIC_SIMILARITY} is not supported locally: it compares the texts of items with a"
            f" model that only Amazon has. {names.SIMILAR_ITEMS} uses their other metadata."
        )
    raise ResourceNotFoundError(arn)


def training_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the hyperparameters and feature transformation parameters of a `solutionConfig`."""
    return {
        **config.get("featureTransformationParameters", {}),
        **config.get("algorithmHyperParameters", {}),
    }


def train(
    name: str,
    interactions: Interactions,
    hyperparameters: Mapping[str, str],
    *,
    features: ItemFeatures | None = None,
    log: Log = lambda _: None,
) -> tuple[AnyModel, Measurements]:
    """Train a recipe and measure it on Amazon Personalize's split.

    On the same number of cores, the same data and hyperparameters give the same model.

    name: the recipe's name, which is the last part of its ARN.
    features: the features of the Items dataset. Only recipes of items for users read them.
    log: takes a line about the progress of the training.

    Raises HyperparameterError or TrainingError.
    """
    values = parse_hyperparameters(name, hyperparameters)
    if not len(interactions):
        raise TrainingError("there are no interactions to train on")
    log(
        f"{name}: {len(interactions):,} interactions of {len(interactions.user_ids):,} users "
        f"with {len(interactions.item_ids):,} items"
    )
    return RECIPES[build_recipe_arn(name)].train(interactions, features, values, log)
