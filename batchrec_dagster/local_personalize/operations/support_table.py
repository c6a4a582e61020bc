"""What the service supports of Amazon Personalize, and why it refuses the rest.

`batchrec local-personalize --support` prints it as Markdown, and refused requests quote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..api.validation import load_service_model
from ..recipes import REAL_TIME_RECIPES, RECIPES, SEMANTIC_SIMILARITY
from .registry import EMPTY_LIST_OPERATIONS, NOT_FOUND_OPERATIONS, OPERATIONS

_REAL_TIME = "serve recommendations in real time"

# Why operations are refused, by a part of their names.
_REFUSAL_REASONS = {
    "Campaign": f"campaigns {_REAL_TIME}",
    "Recommender": f"recommenders {_REAL_TIME}",
    "EventTracker": "event trackers record events in real time: import events instead",
    "MetricAttribution": "metric attributions count real-time events",
    "DatasetExportJob": "the imported files are in your own storage already",
    "Algorithm": "Amazon's algorithms are not available locally",
    "FeatureTransformation": "Amazon's feature transformations are not available locally",
}
_DOMAIN = "a recipe of domain recommenders, which serve in real time"
_SUCCESSOR = "an old recipe that Amazon replaced by aws-user-personalization"

# Why recipes are refused, by the names of recipes or of families of recipes.
_OTHER_RECIPES = {
    **dict.fromkeys(REAL_TIME_RECIPES, "Amazon offers it in real time only"),
    SEMANTIC_SIMILARITY: "it compares the texts of items with a model that only Amazon has",
    "aws-hrnn": _SUCCESSOR,
    "aws-hrnn-metadata": _SUCCESSOR,
    "aws-hrnn-coldstart": _SUCCESSOR,
    "aws-ecomm-…": _DOMAIN,
    "aws-vod-…": _DOMAIN,
}


class SupportRow(NamedTuple):
    """A row of a table of what is supported."""

    name: str
    note: str = ""
    """How it is supported, or why it is refused."""
    supported: bool = True


RULES = (
    SupportRow("constraints of the service model", "required, type, length, range, pattern, enum"),
    SupportRow("unique names, one dataset of a type in a group", "ResourceAlreadyExistsException"),
    SupportRow(
        "schemas (Avro)", "reserved fields, types, null unions, numbers of fields, one textual"
    ),
    SupportRow("resources in use, order of deletion", "ResourceInUseException"),
    SupportRow("quotas", "Amazon's, but 50 dataset groups; `--quota` changes them"),
    SupportRow("tags", "at most 50; schemas have none, as on AWS"),
    SupportRow("fewer than 1000 interactions", "the import ends as CREATE FAILED"),
    SupportRow("event types", "at most 10 in a dataset, together with its optional columns"),
    SupportRow(
        "columns of CSV files",
        "matched by name; further ones are ignored, and so is an empty `_SUCCESS`",
    ),
    SupportRow(
        "lengths of values",
        "ids 256 characters, categorical values and other strings of items 1,000; textual ones any",
    ),
    SupportRow("importMode INCREMENTAL", "rows are added; FULL replaces them and must come first"),
    SupportRow(
        "UpdateDataset",
        "Items and Users only, as on AWS; new fields must allow null; statuses UPDATE …",
    ),
    SupportRow(
        "data deletion jobs",
        "run alone in their group; erase users from imports, from the held-out users of models and"
        " from the catalogue's file, at once, where Amazon takes up to a day",
    ),
    SupportRow("filters", "all documented syntax, checked against the group's schemas"),
    SupportRow(
        "trainingMode UPDATE",
        "for the recipes that Amazon updates too; new data without a full training",
    ),
    SupportRow("performHPO", "searches the hyperparameters that have an effect here"),
    SupportRow(
        "unknown hyperparameters", "refused with the list of the recipe's own", supported=False
    ),
    SupportRow(
        "itemExplorationConfig",
        "explorationWeight is the largest share of new items of the Items dataset in a list; the"
        " same lists each time",
    ),
    SupportRow("rankingInfluence", "stored, without effect"),
    SupportRow(
        "optimizationObjective, trainingDataConfig",
        "without effect but for the metric average_rewards_at_k; the column must be there",
    ),
    SupportRow("performIncrementalUpdate", f"only for {SEMANTIC_SIMILARITY}", supported=False),
    SupportRow(
        "trainingMode AUTOTRAIN", "set only by Amazon's automatic training", supported=False
    ),
    SupportRow(
        "performAutoTraining",
        "a first version soon, then by schedulingExpression (1 to 30 days), at a request, if there"
        " is new data",
    ),
    SupportRow("performAutoML", "deprecated: choose a recipe", supported=False),
    SupportRow("names of jobs", "free again when their dataset or solution is deleted"),
    SupportRow(
        "reasons and placeholders of aws-user-personalization-v2",
        "with `--v2-lines`, to test how a program reads them",
    ),
    SupportRow("ids in batch lines", "numbers are taken as text"),
    SupportRow(
        "GetSolutionMetrics",
        "four decimals; with the header `x-batchrec-target-events`, a JSON array, they count these"
        " event types alone, and the answer repeats the header; with `x-batchrec-compare-with`, the"
        " ARN of another version of the same data, the header `x-batchrec-compared` has the mean"
        " difference of NDCG at 25 for the same people, with its interval; with"
        " `x-batchrec-breakdown`, the answer's header of this name has the quality by length of"
        " list, by categories of users and by categories of items",
    ),
    SupportRow("roleArn", "stored; storage is read with the server's own credentials"),
    SupportRow("kmsKeyArn", "stored; nothing is encrypted"),
    SupportRow(
        "domain dataset groups and schemas",
        "custom solutions and batch jobs, with the domain's required and reserved fields",
    ),
    SupportRow(
        "batchInferenceJobMode THEME_GENERATION",
        "themes need Amazon's language models",
        supported=False,
    ),
)
"""Rules beyond the service model. The tests check each on the service, by its name here."""


def explain_refusal(operation: str) -> str:
    """Return the message for an operation of the service model that is not supported."""
    return (
        f"{operation} is not supported locally: only batch recommendations are,"
        f" and {_find_refusal_reason(operation)}."
    )


def describe_operations() -> Iterator[SupportRow]:
    """Yield a row for every operation of the service model."""
    for name in sorted(load_service_model().operation_names):
        if name in EMPTY_LIST_OPERATIONS:
            yield SupportRow(name, f"always empty: {_find_refusal_reason(name)}")
        elif name in NOT_FOUND_OPERATIONS:
            yield SupportRow(name, f"ResourceNotFoundException: {_find_refusal_reason(name)}")
        elif name in OPERATIONS:
            yield SupportRow(name)
        else:
            yield SupportRow(name, _find_refusal_reason(name), supported=False)


def describe_recipes() -> Iterator[SupportRow]:
    """Yield a row for each of Amazon's recipes, or family of recipes."""
    for recipe in RECIPES.values():
        fields = " and ".join(f"`{field}`" for field in recipe.input_fields)
        yield SupportRow(recipe.name, f"{recipe.output} for input lines with {fields}")
    for name, reason in _OTHER_RECIPES.items():
        yield SupportRow(name, reason, supported=False)


def format_support_table() -> str:
    """Return all of it as Markdown tables."""
    tables = (
        _format_table("Operation", describe_operations()),
        _format_table("Recipe", describe_recipes()),
        _format_table("Rule", RULES),
    )
    return "\n\n".join(tables) + "\n"


def _find_refusal_reason(operation: str) -> str:
    for part, reason in _REFUSAL_REASONS.items():
        if part in operation:
            return reason
    return "this operation does not belong to them"


def _format_table(title: str, rows: Iterable[SupportRow]) -> str:
    lines = [f"| {title} | Here | |", "|---|---|---|"]
    for row in rows:
        verdict = "supported" if row.supported else "refused"
        lines.append(f"| {row.name} | {verdict} | {row.note} |")
    return "\n".join(lines)
