"""The kinds of resources, and the functions that answer operations, by operation name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from .. import resources
from ..api.validation import load_service_model
from ..errors import InvalidInputError, ResourceNotFoundError
from ..resources import ApiRequest, Kind
from . import (
    batch_inference_jobs,
    batch_segment_jobs,
    data_deletion_jobs,
    dataset_groups,
    dataset_import_jobs,
    listed_recipes,
    solution_versions,
    solutions,
)

Operation = Callable[[ApiRequest], dict[str, Any]]
"""A function that returns the members of the response. Raises ServiceError."""

KINDS: tuple[Kind, ...] = (
    dataset_groups.DATASET_GROUP,
    dataset_groups.SCHEMA,
    dataset_groups.DATASET,
    dataset_groups.FILTER,
    dataset_import_jobs.DATASET_IMPORT_JOB,
    solutions.SOLUTION,
    solution_versions.SOLUTION_VERSION,
    batch_inference_jobs.BATCH_INFERENCE_JOB,
    batch_segment_jobs.BATCH_SEGMENT_JOB,
    data_deletion_jobs.DATA_DELETION_JOB,
)
"""The kinds of resources that can be created here."""

# The functions for the operations of each kind. The service model says which kind has which
# operations.
_PATTERNS: dict[str, Callable[[Kind, ApiRequest], dict[str, Any]]] = {
    "Create{}": resources.create,
    "Describe{}": resources.describe,
    "List{}s": resources.list_page,
    "Delete{}": resources.delete,
}

OPERATIONS: dict[str, Operation] = {
    **{
        pattern.format(kind.name): partial(function, kind)
        for kind in KINDS
        for pattern, function in _PATTERNS.items()
        if pattern.format(kind.name) in load_service_model().operation_names
    },
    "StopSolutionVersionCreation": solution_versions.stop_creation,
    "GetSolutionMetrics": solution_versions.get_metrics,
    "ListRecipes": listed_recipes.list_recipes,
    "DescribeRecipe": listed_recipes.describe_recipe,
    "TagResource": solution_versions.tag_resource,
    "UntagResource": resources.untag,
    "ListTagsForResource": resources.list_tags,
}
"""The functions that answer the offered operations, by operation name."""


def find_operation(name: str) -> Operation:
    """Return the function that answers an operation of the service model.

    Some kinds of resources are not offered here. Their List operations return empty lists, because
    inventories and clean-up scripts list every kind. Describe and Delete raise
    ResourceNotFoundError. All other operations, such as Create, raise InvalidInputError.
    """
    if name in OPERATIONS:
        return OPERATIONS[name]
    if name.startswith("List"):
        return partial(_answer_empty_list, name)
    return _answer_not_found if name.startswith(("Describe", "Delete")) else partial(_refuse, name)


def _answer_empty_list(operation: str, request: ApiRequest) -> dict[str, Any]:
    return resources.answer_page(request, operation, lambda after, limit: [])


def _answer_not_found(request: ApiRequest) -> NoReturn:
    [arn] = request.params.values()
    raise ResourceNotFoundError(arn)


def _refuse(operation: str, request: ApiRequest) -> NoReturn:
    raise InvalidInputError(
        f"{operation} is not supported locally: only batch recommendations are."
    )
