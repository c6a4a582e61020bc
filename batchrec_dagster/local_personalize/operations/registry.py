"""The kinds of resources, and the function that answers each operation, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from ..api.validation import find_output_members, load_service_model
from ..catalog.kinds import CatalogKind
from ..catalog.requests import ApiRequest
from ..errors import InvalidInputError, ResourceNotFoundError
from . import (
    batch_inference_jobs,
    batch_segment_jobs,
    data_deletion_jobs,
    dataset_import_jobs,
    datasets,
    filters,
    recipes,
    resources,
    solution_versions,
    solutions,
    tags,
)
from .page_tokens import read_token

Operation = Callable[[ApiRequest], dict[str, Any]]
"""Returns the members of the response. Raises ServiceError."""

KINDS: dict[str, CatalogKind] = {
    kind.name: kind
    for kind in (
        datasets.DATASET_GROUP,
        datasets.SCHEMA,
        datasets.DATASET,
        dataset_import_jobs.DATASET_IMPORT_JOB,
        solutions.SOLUTION,
        solution_versions.SOLUTION_VERSION,
        filters.FILTER,
        batch_inference_jobs.BATCH_INFERENCE_JOB,
        batch_segment_jobs.BATCH_SEGMENT_JOB,
        data_deletion_jobs.DATA_DELETION_JOB,
    )
}
"""The kinds of resources that can be created here, by name."""

# The operations of every kind, as far as the service model has them.
_PATTERNS: dict[str, Callable[[CatalogKind, ApiRequest], dict[str, Any]]] = {
    "Create{}": resources.create,
    "Describe{}": resources.describe,
    "List{}s": resources.list_page,
    "Delete{}": resources.delete,
}


def _list_kind_operations() -> dict[str, Operation]:
    operations: dict[str, Operation] = {}
    for kind in KINDS.values():
        for pattern, function in _PATTERNS.items():
            name = pattern.format(kind.name)
            if name in load_service_model().operation_names:
                operations[name] = partial(function, kind)
    return operations


OPERATIONS: dict[str, Operation] = {
    **_list_kind_operations(),
    "StopSolutionVersionCreation": solution_versions.stop_creation,
    "GetSolutionMetrics": solution_versions.get_metrics,
    "ListRecipes": recipes.list_recipes,
    "DescribeRecipe": recipes.describe_recipe,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListTagsForResource": tags.list_tags,
}
"""What answers each operation of the kinds that can be created here, by name."""


def _answer_empty_list(operation: str, request: ApiRequest) -> dict[str, Any]:
    """Answer with an empty page, as inventories and clean-up scripts list every kind."""
    read_token(request.params.get("nextToken"), operation)
    members = find_output_members(operation)
    return {name: [] for name, shape in members.items() if shape.type_name == "list"}


def _answer_not_found(request: ApiRequest) -> NoReturn:
    """Answer as AWS does for an ARN that names nothing, as programs look before they create."""
    [arn] = request.params.values()
    raise ResourceNotFoundError(arn)


def make_generic_answer(operation: str) -> Operation:
    """Return what answers an operation of the service model that is not in OPERATIONS.

    Raises InvalidInputError for what can only be refused.
    """
    if operation.startswith("List"):
        return partial(_answer_empty_list, operation)
    if operation.startswith(("Describe", "Delete")):
        return _answer_not_found
    raise InvalidInputError(
        f"{operation} is not supported locally: only batch recommendations are."
    )
