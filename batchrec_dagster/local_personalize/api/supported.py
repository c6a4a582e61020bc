"""What this local Personalize supports, and what it refuses and why: for refusals and for the docs.

`python -m batchrec_dagster.local_personalize --support` prints it as Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from batchrec_dagster.local_personalize.api.validation import service_model
from batchrec_dagster.local_personalize.operations.registry import OPERATIONS
from batchrec_dagster.local_personalize.recipes import RECIPES

_REAL_TIME = "serve recommendations in real time"

# What the operations that are no part of batch recommendations work on -> why they are none.
_NO_BATCH = {
    "Campaign": f"campaigns {_REAL_TIME}",
    "Recommender": f"recommenders {_REAL_TIME}",
    "EventTracker": "event trackers take events in real time: import them instead",
    "MetricAttribution": "metric attributions count events that come in real time",
    "DataDeletionJob": "data are deleted by a FULL import of those that stay",
    "DatasetExportJob": "what was imported lies in your own storage already",
    "Algorithm": "there are no algorithms of Amazon's here",
    "FeatureTransformation": "there are no feature transformations of Amazon's here",
}
_DOMAIN = "a recipe of domain recommenders, which serve in real time"
_SUCCESSOR = "an old recipe that Amazon replaced by aws-user-personalization"
_OTHER_RECIPES = {
    "aws-trending-now": "Amazon offers it in real time only",
    "aws-next-best-action": "Amazon offers it in real time only",
    "aws-hrnn": _SUCCESSOR,
    "aws-hrnn-metadata": _SUCCESSOR,
    "aws-hrnn-coldstart": _SUCCESSOR,
    "aws-ecomm-…": _DOMAIN,
    "aws-vod-…": _DOMAIN,
}


class Row(NamedTuple):
    """A line of a table: `why` is what supporting it means here, or why it is refused."""

    what: str
    supported: bool
    why: str


# Rules beyond the service model. The tests ask the service for each, under its name here.
RULES = (
    Row("constraints of the service model", True, "required, type, length, range, pattern, enum"),
    Row("unique names, one dataset of a type in a group", True, "ResourceAlreadyExistsException"),
    Row("schemas (Avro)", True, "reserved fields, types, null unions, numbers of fields"),
    Row("resources in use, order of deletion", True, "ResourceInUseException"),
    Row("quotas", True, "Amazon's own; `Quotas` lowers them in tests"),
    Row("tags", True, "at most 50; schemas have none, as on AWS"),
    Row("fewer than 1000 interactions", True, "the import ends as CREATE FAILED"),
    Row("importMode INCREMENTAL", True, "rows are added; FULL replaces them"),
    Row("UpdateDataset", True, "Items and Users only, as on AWS; new fields must allow null"),
    Row("filters", True, "the whole documented language, checked against the group's schemas"),
    Row(
        "trainingMode UPDATE",
        True,
        "by recipes that Amazon updates too; new data without a full training",
    ),
    Row("performHPO", True, "searches the hyperparameters that act here"),
    Row("unknown hyperparameters", False, "the recipe's own are taken, or refused by name"),
    Row("itemExplorationConfig, rankingInfluence", True, "accepted and kept; nothing is explored"),
    Row("optimizationObjective, trainingDataConfig", True, "accepted and kept, without effect"),
    Row("performIncrementalUpdate", False, "needs a recipe that Amazon alone has"),
    Row("trainingMode AUTOTRAIN", False, "Amazon sets it itself, when it trains automatically"),
    Row("performAutoTraining", True, "accepted and kept; nothing is trained without a request"),
    Row("performAutoML", False, "an old option: name a recipe"),
    Row("roleArn", True, "accepted and kept; storage is reached with the server's own credentials"),
    Row("kmsKeyArn", True, "accepted and kept; nothing is encrypted"),
    Row("domain dataset groups and schemas", False, "domains have no batch recommendations"),
    Row("batchInferenceJobMode THEME_GENERATION", False, "themes need Amazon's language models"),
)


def refusal(operation: str) -> str:
    """Why an operation of the service model is not answered here; a sentence."""
    return (
        f"{operation} is not supported: this local Personalize does batch recommendations only,"
        f" and {_why_not(operation)}."
    )


def operations() -> Iterator[Row]:
    """A row for every operation of the service model."""
    for name in sorted(service_model().operation_names):
        known = name in OPERATIONS
        yield Row(name, known, "" if known else _why_not(name))


def recipes() -> Iterator[Row]:
    """A row for every recipe of Amazon's, or family of them."""
    for recipe in RECIPES.values():
        fields = " and ".join(f"`{field}`" for field in recipe.input_fields)
        made = "users" if recipe.makes_segments else "items"
        yield Row(recipe.name, True, f"batches of {made}, for input lines with {fields}")
    for name, why in _OTHER_RECIPES.items():
        yield Row(name, False, why)


def markdown() -> str:
    """All of it, as Markdown tables."""
    parts = (("Operation", operations()), ("Recipe", recipes()), ("Rule", RULES))
    return "\n\n".join(_table(title, rows) for title, rows in parts) + "\n"


def _why_not(operation: str) -> str:
    return next((why for kind, why in _NO_BATCH.items() if kind in operation), "it is none of that")


def _table(title: str, rows: Iterable[Row]) -> str:
    lines = [f"| {title} | Here | |", "|---|---|---|"]
    lines += [
        f"| {row.what} | {'supported' if row.supported else 'refused'} | {row.why} |"
        for row in rows
    ]
    return "\n".join(lines)
