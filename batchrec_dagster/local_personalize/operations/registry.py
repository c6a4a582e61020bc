"""The kinds of resources, and the function that answers each operation, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from ..api.validation import find_output_members, load_service_model
from ..catalog.kinds import CatalogKind
from ..catalog.requests import ApiRequest
from ..errors import ResourceNotFoundError
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


_SUPPORTED: dict[str, Operation] = {
    **_list_kind_operations(),
    "UpdateDataset": datasets.update_dataset,
    "UpdateSolution": solutions.update_solution,
    "StopSolutionVersionCreation": solution_versions.stop_creation,
    "GetSolutionMetrics": solution_versions.get_metrics,
    "ListRecipes": recipes.list_recipes,
    "DescribeRecipe": recipes.describe_recipe,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListTagsForResource": tags.list_tags,
}

EMPTY_LIST_OPERATIONS = frozenset(
    name
    for name in load_service_model().operation_names
    if name.startswith("List") and name not in _SUPPORTED
)
"""The lists of kinds that cannot be created here, so that they are empty."""

# The kinds that cannot be created here, such as EventTracker.
_OTHER_KINDS = frozenset(
    name.removeprefix("Create")
    for name in load_service_model().operation_names
    if name.startswith("Create") and name not in _SUPPORTED
)

NOT_FOUND_OPERATIONS = {
    f"{verb}{kind}": f"{kind[0].lower()}{kind[1:]}Arn"
    for verb in ("Describe", "Delete", "Update", "Start", "Stop")
    for kind in _OTHER_KINDS
    if f"{verb}{kind}" in load_service_model().operation_names
}
"""The operations on one resource of such a kind, and the member with its ARN. None exists."""


def _answer_empty_list(operation: str, request: ApiRequest) -> dict[str, Any]:
    """Answer with an empty page, as inventories and clean-up scripts list every kind."""
    read_token(request.params.get("nextToken"), operation)
    members = find_output_members(operation)
    return {name: [] for name, shape in members.items() if shape.type_name == "list"}


def _answer_not_found(member: str, request: ApiRequest) -> NoReturn:
    """Answer as AWS does for an ARN that names nothing, as programs look before they create.

    member: the request's member with the ARN.
    """
    raise ResourceNotFoundError(request.params.get(member, ""))


OPERATIONS: dict[str, Operation] = {
    **_SUPPORTED,
    **{name: partial(_answer_empty_list, name) for name in EMPTY_LIST_OPERATIONS},
    **{name: partial(_answer_not_found, member) for name, member in NOT_FOUND_OPERATIONS.items()},
}
"""Every operation that is answered, by name. All others are refused."""

READ_OPERATIONS = frozenset(
    name for name in OPERATIONS if name.startswith(("Describe", "List", "Get"))
)
"""The operations that change nothing."""
