"""Every batch operation by name; requests are looked up here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from batchrec_dagster.local_personalize.api.validation import (
    output_members,
    prune,
    service_model,
)
from batchrec_dagster.local_personalize.catalog.catalog import ACTIVE
from batchrec_dagster.local_personalize.catalog.kinds import Call, Kind
from batchrec_dagster.local_personalize.errors import NotFoundError
from batchrec_dagster.local_personalize.operations import (
    batch_jobs,
    dataset_import_jobs,
    datasets,
    resources,
    solution_versions,
    solutions,
)
from batchrec_dagster.local_personalize.operations.resources import (
    DEFAULT_PAGE,
    read_token,
    write_token,
)
from batchrec_dagster.local_personalize.recipes import RECIPES, Recipe, get_recipe

_PUBLISHED = 1_559_779_200.0  # when Personalize became generally available


def list_recipes(call: Call) -> dict[str, Any]:
    """ListRecipes: one page; none for a domain, whose own recipes serve in real time."""
    domain = call.params.get("domain")
    limit = call.params.get("maxResults", DEFAULT_PAGE)
    after = read_token(call.params.get("nextToken"), "Recipe", domain)
    recipes = [] if domain else list(RECIPES.values())
    shape = output_members("ListRecipes")["recipes"]
    page = [_recipe_description(recipe) for recipe in recipes[after : after + limit]]
    answer: dict[str, Any] = {"recipes": prune(page, shape)}
    if after + limit < len(recipes):
        answer["nextToken"] = write_token(after + limit, "Recipe", domain)
    return answer


def describe_recipe(call: Call) -> dict[str, Any]:
    """DescribeRecipe. Raises NotFoundError, InvalidInputError for a recipe without batch."""
    return {"recipe": _recipe_description(get_recipe(call.params["recipeArn"]))}


def _recipe_description(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "recipeArn": recipe.arn,
        "algorithmArn": recipe.arn.replace(":recipe/", ":algorithm/"),
        "featureTransformationArn": (
            "arn:aws:personalize:::feature-transformation/JSON-percentile-filtering"
        ),
        "status": ACTIVE,
        "description": recipe.description,
        "recipeType": recipe.type,
        "creationDateTime": _PUBLISHED,
        "lastUpdatedDateTime": _PUBLISHED,
    }


Operation = Callable[[Call], dict[str, Any]]

KINDS: dict[str, Kind] = {
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

_VERBS: dict[str, Callable[[Kind, Call], dict[str, Any]]] = {
    "Create": resources.create,
    "Describe": resources.describe,
    "List": resources.list_page,
    "Delete": resources.delete,
}


def _empty_list(operation: str, call: Call) -> dict[str, Any]:
    """An empty page of a kind that cannot be created here, for inventories and clean-up scripts."""
    read_token(call.params.get("nextToken"), operation)
    return {
        name: [] for name, shape in output_members(operation).items() if shape.type_name == "list"
    }


def _not_found(member: str, call: Call) -> NoReturn:
    """As on AWS for an ARN that names nothing, for programs that look before they create."""
    raise NotFoundError(call.params.get(member, ""))


_SUPPORTED: dict[str, Operation] = {
    **{
        operation: partial(_VERBS[verb], kind)
        for kind in KINDS.values()
        for verb, operation in kind.operations.items()
    },
    "UpdateDataset": datasets.update_dataset,
    "UpdateSolution": solutions.update,
    "StopSolutionVersionCreation": solution_versions.stop,
    "GetSolutionMetrics": solution_versions.metrics,
    "ListRecipes": list_recipes,
    "DescribeRecipe": describe_recipe,
    "TagResource": resources.tag_resource,
    "UntagResource": resources.untag_resource,
    "ListTagsForResource": resources.list_tags,
}
# The lists of kinds that cannot be created here: they are empty.
EMPTY_LISTS = frozenset(
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
NEVER_FOUND = {
    f"{verb}{kind}": f"{kind[0].lower()}{kind[1:]}Arn"
    for verb in ("Describe", "Delete", "Update", "Start", "Stop")
    for kind in _OTHER_KINDS
    if f"{verb}{kind}" in service_model().operation_names
}

OPERATIONS: dict[str, Operation] = {
    **_SUPPORTED,
    **{name: partial(_empty_list, name) for name in EMPTY_LISTS},
    **{name: partial(_not_found, member) for name, member in NEVER_FOUND.items()},
}

READS = frozenset(name for name in OPERATIONS if name.startswith(("Describe", "List", "Get")))
