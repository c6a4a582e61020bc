"""The recipes that this local Personalize trains, one row each: those that have batch jobs.

Source: developer guide, "Choosing a recipe" and "Batch inference job input and output".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from batchrec_dagster.personalize import file_formats
from batchrec_dagster.personalize import recipes as names
from batchrec_dagster.personalize.recipes import Value, build_recipe_arn, parse_hyperparameters

from .errors import InvalidInputError, ResourceNotFoundError
from .learning import training
from .learning.evaluation import METRICS, SEGMENT_METRICS
from .learning.hpo import DEFAULT_JOBS, MAX_JOBS, Search, format_value, search_ranges, tune
from .learning.interactions import Interactions, TrainingError
from .learning.training import RecipeTrainer, TrainedModel

# Amazon Personalize's types of recipes.
USER_PERSONALIZATION = "USER_PERSONALIZATION"
POPULAR_ITEMS = "POPULAR_ITEMS"
PERSONALIZED_RANKING = "PERSONALIZED_RANKING"
RELATED_ITEMS = "RELATED_ITEMS"
USER_SEGMENTATION = "USER_SEGMENTATION"


class Output(StrEnum):
    """What an output line has."""

    ITEMS = "items"
    SCORED_ITEMS = "items with scores"
    USERS = "users"


@dataclass(frozen=True)
class Recipe:
    """A recipe of Amazon Personalize: its description, its lines, and how it is trained here."""

    name: str
    """The last part of its ARN."""

    type: str
    """One of Amazon Personalize's types of recipes."""

    description: str

    input_fields: tuple[str, ...]
    """The fields of an input line of a batch job."""

    output: Output

    trainer: RecipeTrainer

    metrics: tuple[str, ...] = METRICS
    """The names of its metrics in GetSolutionMetrics."""

    updates: bool = False
    """Whether Amazon Personalize allows trainingMode UPDATE."""

    events_config: bool = False
    """Whether solutionConfig.eventsConfig is allowed."""

    max_lines: int | None = None
    """How many lines an input file may have; None if there is no limit."""

    @property
    def arn(self) -> str:
        return build_recipe_arn(self.name)

    @property
    def makes_segments(self) -> bool:
        """Whether it serves batch segment jobs; all others serve batch inference jobs."""
        return self.output == Output.USERS


_TABLE = (
    Recipe(
        names.USER_PERSONALIZATION,
        USER_PERSONALIZATION,
        "Predicts the items that each user will interact with.",
        (file_formats.USER_FIELD,),
        Output.SCORED_ITEMS,
        training.BLEND,
        updates=True,
    ),
    Recipe(
        names.USER_PERSONALIZATION_V2,
        USER_PERSONALIZATION,
        "Predicts the items that each user will interact with; the second generation.",
        (file_formats.USER_FIELD,),
        Output.SCORED_ITEMS,
        training.BLEND,
        events_config=True,
    ),
    Recipe(
        names.POPULARITY_COUNT,
        POPULAR_ITEMS,
        "Recommends the items that most users have interacted with: a baseline.",
        (file_formats.USER_FIELD,),
        Output.ITEMS,
        training.POPULARITY,
    ),
    Recipe(
        names.PERSONALIZED_RANKING,
        PERSONALIZED_RANKING,
        "Orders a list of items by how likely a user is to want them.",
        (file_formats.USER_FIELD, file_formats.ITEM_LIST),
        Output.SCORED_ITEMS,
        training.BLEND,
    ),
    Recipe(
        names.PERSONALIZED_RANKING_V2,
        PERSONALIZED_RANKING,
        "Orders a list of items by how likely a user is to want them; the second generation.",
        (file_formats.USER_FIELD, file_formats.ITEM_LIST),
        Output.SCORED_ITEMS,
        training.BLEND,
        events_config=True,
    ),
    Recipe(
        names.SIMS,
        RELATED_ITEMS,
        "Finds the items that the same users have interacted with.",
        (file_formats.ITEM_FIELD,),
        Output.ITEMS,
        training.SIMS,
    ),
    Recipe(
        names.SIMILAR_ITEMS,
        RELATED_ITEMS,
        "Finds the items that are similar to a given one.",
        (file_formats.ITEM_FIELD,),
        Output.ITEMS,
        training.SIMILAR_ITEMS,
    ),
    Recipe(
        names.ITEM_AFFINITY,
        USER_SEGMENTATION,
        "Finds the users who are most likely to interact with an item.",
        (file_formats.ITEM_FIELD,),
        Output.USERS,
        training.SEGMENTATION,
        SEGMENT_METRICS,
        max_lines=500,
    ),
    Recipe(
        names.ITEM_ATTRIBUTE_AFFINITY,
        USER_SEGMENTATION,
        "Finds the users who are most likely to interact with items of some attributes.",
        (file_formats.ITEM_ATTRIBUTES,),
        Output.USERS,
        training.SEGMENTATION,
        SEGMENT_METRICS,
        max_lines=10,
    ),
)
RECIPES: Mapping[str, Recipe] = {recipe.arn: recipe for recipe in _TABLE}  # by ARN

# Recipes that Amazon Personalize offers in real time only.
REAL_TIME_RECIPES = ("aws-trending-now", "aws-next-best-action")
# A recipe with batch jobs, which compares the texts of items with a model that only Amazon has.
SEMANTIC_SIMILARITY = "aws-semantic-similarity"


def get_recipe(arn: str) -> Recipe:
    """The recipe of an ARN.

    Raises ResourceNotFoundError if there is none, or InvalidInputError if it has no batch jobs, or
    if only Amazon has it.
    """
    # Clients of a region in China or of GovCloud name its partition.
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
    """The hyperparameters and the feature transformation parameters of a `solutionConfig`."""
    return {
        **config.get("featureTransformationParameters", {}),
        **config.get("algorithmHyperParameters", {}),
    }


def hpo_search(config: Mapping[str, Any]) -> Search:
    """The search that performHPO runs, from a `solutionConfig`.

    Raises InvalidInputError for a bad range.
    """
    hpo = config.get("hpoConfig", {})
    ranges = hpo.get("algorithmHyperParameterRanges", {})
    resources = hpo.get("hpoResourceConfig", {})
    return Search(
        parse_count(resources, "maxNumberOfTrainingJobs", DEFAULT_JOBS, MAX_JOBS),
        integers=_bounds(ranges.get("integerHyperParameterRanges", [])),
        continuous=_bounds(ranges.get("continuousHyperParameterRanges", [])),
        categories={
            _name(entry): entry.get("values", [])
            for entry in ranges.get("categoricalHyperParameterRanges", [])
        },
    )


def parse_count(resources: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    """A number of an hpoResourceConfig, from 1 to the maximum.

    Raises InvalidInputError if it is not such a number.
    """
    text = resources.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= maximum):
        raise InvalidInputError(f"{name} must be a whole number from 1 to {maximum}, not {text!r}.")
    return int(text)


def _bounds(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """The least and the largest value of each hyperparameter, from the ranges of an hpoConfig."""
    for entry in entries:
        if "minValue" not in entry or "maxValue" not in entry:
            raise InvalidInputError(
                f"The range of {_name(entry)} needs both a minValue and a maxValue."
            )
    return {_name(entry): (entry["minValue"], entry["maxValue"]) for entry in entries}


def _name(entry: Mapping[str, Any]) -> str:
    if not entry.get("name"):
        raise InvalidInputError("Each range of algorithmHyperParameterRanges needs a name.")
    return str(entry["name"])


def train(
    name: str,
    interactions: Interactions,
    hyperparameters: Mapping[str, str],
    *,
    seed: int = 0,
    log: Callable[[str], None] = lambda _: None,
    previous: Path | None = None,
    search: Search | None = None,
) -> TrainedModel:
    """Train a recipe and measure it on Amazon Personalize's split.

    The same data, hyperparameters and seed give the same model, byte for byte, on any number of
    cores. Raises HyperparameterError or TrainingError, and ModelFileError when a file of the
    previous model is damaged.

    name: of the recipe, without the rest of its ARN.
    log: takes a line about what was done.
    previous: the folder of a model to update, which keeps its hyperparameters.
    search: where to look for the best hyperparameters.
    """
    values = parse_hyperparameters(name, hyperparameters)
    ranges = search_ranges(name, hyperparameters, search) if search else {}
    trainer = RECIPES[build_recipe_arn(name)].trainer
    if not len(interactions):
        raise TrainingError("there are no interactions to train on")
    log(
        f"{name}: {len(interactions):,} interactions of {len(interactions.user_ids):,} users "
        f"with {len(interactions.item_ids):,} items"
    )
    if previous is not None:
        if trainer.update is None:
            raise TrainingError(f"{name} cannot be updated, only trained in full")
        update = trainer.update(previous, interactions, seed, log)
        if update is not None:
            model, measurements, old_values = update
            tuned = {key: format_value(old_values[key]) for key in ranges if key in old_values}
            return TrainedModel(model, measurements, tuned)
    best: dict[str, Value] = {}
    if search is not None and trainer.measure is not None:
        jobs = search.max_jobs
        best = tune(trainer.measure, interactions, values, ranges, jobs, seed, log)
    model, measurements = trainer.train(interactions, {**values, **best}, seed, log)
    tuned = {key: format_value(value) for key, value in best.items()}
    return TrainedModel(model, measurements, tuned)
