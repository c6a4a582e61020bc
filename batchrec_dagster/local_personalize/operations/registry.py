"""Every batch operation by name; and what is supported, or why the rest is refused.

`batchrec local-personalize --support` prints that as Markdown; refused requests quote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

from ..api.validation import output_members, prune, service_model
from ..catalog.kinds import CatalogKind
from ..catalog.requests import ApiRequest
from ..catalog.resource import Status
from ..errors import ResourceNotFoundError
from ..recipes import REAL_TIME_RECIPES, RECIPES, Recipe, get_recipe
from . import batch_jobs, dataset_import_jobs, datasets, resources, solution_versions, solutions

_RELEASE_TIME = 1_559_779_200.0  # when Personalize became generally available


def list_recipes(request: ApiRequest) -> dict[str, Any]:
    """ListRecipes: one page; none for a domain, whose own recipes serve in real time."""
    domain = request.params.get("domain")
    limit = request.params.get("maxResults", resources.DEFAULT_PAGE)
    after = resources.read_token(request.params.get("nextToken"), "Recipe", domain)
    all_recipes = [] if domain else list(RECIPES.values())
    shape = output_members("ListRecipes")["recipes"]
    page = [_recipe_description(recipe) for recipe in all_recipes[after : after + limit]]
    answer: dict[str, Any] = {"recipes": prune(page, shape)}
    if after + limit < len(all_recipes):
        answer["nextToken"] = resources.write_token(after + limit, "Recipe", domain)
    return answer


def describe_recipe(request: ApiRequest) -> dict[str, Any]:
    """DescribeRecipe. Raises NotFoundError, InvalidInputError for a recipe without batch."""
    return {"recipe": _recipe_description(get_recipe(request.params["recipeArn"]))}


def _recipe_description(recipe: Recipe) -> dict[str, Any]:
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


Operation = Callable[[ApiRequest], dict[str, Any]]

KINDS: dict[str, CatalogKind] = {
    kind.name: kind
    for kind in (
        datasets.DATASET_GROUP,
        datasets.SCHEMA,
        datasets.DATASET,
        dataset_import_jobs.DATASET_IMPORT_JOB,
        solutions.SOLUTION,
        solution_versions.SOLUTION_VERSION,
        datasets.FILTER,
        batch_jobs.BATCH_INFERENCE_JOB,
        batch_jobs.BATCH_SEGMENT_JOB,
    )
}

# What can be asked of every kind, as far as the service model has it.
_PATTERNS: dict[str, Callable[[CatalogKind, ApiRequest], dict[str, Any]]] = {
    "Create{}": resources.create,
    "Describe{}": resources.describe,
    "List{}s": resources.list_page,
    "Delete{}": resources.delete,
}


def _answer_empty_list(operation: str, request: ApiRequest) -> dict[str, Any]:
    """An empty page of a kind that cannot be created here, for inventories and clean-up scripts."""
    resources.read_token(request.params.get("nextToken"), operation)
    return {
        name: [] for name, shape in output_members(operation).items() if shape.type_name == "list"
    }


def _answer_not_found(member: str, request: ApiRequest) -> NoReturn:
    """As on AWS for an ARN that names nothing, for programs that look before they create."""
    raise ResourceNotFoundError(request.params.get(member, ""))


_SUPPORTED: dict[str, Operation] = {
    **{
        operation: partial(verb, kind)
        for kind in KINDS.values()
        for name, verb in _PATTERNS.items()
        if (operation := name.format(kind.name)) in service_model().operation_names
    },
    "UpdateDataset": datasets.update_dataset,
    "UpdateSolution": solutions.update_solution,
    "StopSolutionVersionCreation": solution_versions.stop_creation,
    "GetSolutionMetrics": solution_versions.get_metrics,
    "ListRecipes": list_recipes,
    "DescribeRecipe": describe_recipe,
    "TagResource": resources.tag_resource,
    "UntagResource": resources.untag_resource,
    "ListTagsForResource": resources.list_tags,
}
# The lists of kinds that cannot be created here: they are empty.
EMPTY_LIST_OPERATIONS = frozenset(
    name
    for name in service_model().operation_names
    if name.startswith("List") and name not in _SUPPORTED
)

# Their kinds, such as EventTracker.
_OTHER_KINDS = frozenset(
    name.removeprefix("Create")
    for name in service_model().operation_names
    if name.startswith("Create") and name not in _SUPPORTED
)
# What can be asked of such a resource: there is none. Operation -> the member with its ARN.
NOT_FOUND_OPERATIONS = {
    f"{verb}{kind}": f"{kind[0].lower()}{kind[1:]}Arn"
    for verb in ("Describe", "Delete", "Update", "Start", "Stop")
    for kind in _OTHER_KINDS
    if f"{verb}{kind}" in service_model().operation_names
}

OPERATIONS: dict[str, Operation] = {
    **_SUPPORTED,
    **{name: partial(_answer_empty_list, name) for name in EMPTY_LIST_OPERATIONS},
    **{name: partial(_answer_not_found, member) for name, member in NOT_FOUND_OPERATIONS.items()},
}

READ_OPERATIONS = frozenset(
    name for name in OPERATIONS if name.startswith(("Describe", "List", "Get"))
)


_REAL_TIME = "serve recommendations in real time"

# Part of the operation's name -> why it is refused.
_NO_BATCH = {
    "Campaign": f"campaigns {_REAL_TIME}",
    "Recommender": f"recommenders {_REAL_TIME}",
    "EventTracker": "event trackers record events in real time: import events instead",
    "MetricAttribution": "metric attributions count real-time events",
    "DataDeletionJob": "import the data to keep with importMode FULL instead",
    "DatasetExportJob": "the imported files are in your own storage already",
    "Algorithm": "Amazon's algorithms are not available locally",
    "FeatureTransformation": "Amazon's feature transformations are not available locally",
}
_DOMAIN = "a recipe of domain recommenders, which serve in real time"
_SUCCESSOR = "an old recipe that Amazon replaced by aws-user-personalization"
_OTHER_RECIPES = {
    **dict.fromkeys(REAL_TIME_RECIPES, "Amazon offers it in real time only"),
    "aws-hrnn": _SUCCESSOR,
    "aws-hrnn-metadata": _SUCCESSOR,
    "aws-hrnn-coldstart": _SUCCESSOR,
    "aws-ecomm-…": _DOMAIN,
    "aws-vod-…": _DOMAIN,
}


class SupportRow(NamedTuple):
    """A row of a table: `note` says how it is supported, or why it is refused."""

    name: str
    note: str = ""
    supported: bool = True


# Rules beyond the service model. The tests check each on the service, by its name here.
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
    SupportRow("performIncrementalUpdate", "needs a recipe that only Amazon has", supported=False),
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
    SupportRow("GetSolutionMetrics", "four decimals"),
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


def explain_refusal(operation: str) -> str:
    """The message for an unsupported operation of the service model."""
    return (
        f"{operation} is not supported locally: only batch recommendations are,"
        f" and {_refusal_reason(operation)}."
    )


def describe_operations() -> Iterator[SupportRow]:
    """A row for every operation of the service model."""
    for name in sorted(service_model().operation_names):
        if name in EMPTY_LIST_OPERATIONS or name in NOT_FOUND_OPERATIONS:
            answer = (
                "always empty" if name in EMPTY_LIST_OPERATIONS else "ResourceNotFoundException"
            )
            yield SupportRow(name, f"{answer}: {_refusal_reason(name)}")
        else:
            known = name in OPERATIONS
            yield SupportRow(name, "" if known else _refusal_reason(name), known)


def describe_recipes() -> Iterator[SupportRow]:
    """A row for each of Amazon's recipes, or family of recipes."""
    for recipe in RECIPES.values():
        fields = " and ".join(f"`{field}`" for field in recipe.input_fields)
        yield SupportRow(recipe.name, f"{recipe.output} for input lines with {fields}")
    for name, why in _OTHER_RECIPES.items():
        yield SupportRow(name, why, supported=False)


def format_support_table() -> str:
    """All of it, as Markdown tables."""
    parts = (("Operation", describe_operations()), ("Recipe", describe_recipes()), ("Rule", RULES))
    return "\n\n".join(_format_table(title, rows) for title, rows in parts) + "\n"


def _refusal_reason(operation: str) -> str:
    return next(
        (why for kind, why in _NO_BATCH.items() if kind in operation),
        "this operation does not belong to them",
    )


def _format_table(title: str, rows: Iterable[SupportRow]) -> str:
    lines = [f"| {title} | Here | |", "|---|---|---|"]
    lines += [
        f"| {row.name} | {'supported' if row.supported else 'refused'} | {row.note} |"
        for row in rows
    ]
    return "\n".join(lines)
