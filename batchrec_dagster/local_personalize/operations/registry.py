"""Every batch operation by name: the table that the wire looks requests up in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from batchrec_dagster.local_personalize.catalog.kinds import Call, Kind
from batchrec_dagster.local_personalize.operations import (
    datasets,
    recipes,
    resources,
    solution_versions,
    solutions,
    tags,
)
from batchrec_dagster.local_personalize.operations.batch_inference_jobs import BATCH_INFERENCE_JOB
from batchrec_dagster.local_personalize.operations.batch_segment_jobs import BATCH_SEGMENT_JOB
from batchrec_dagster.local_personalize.operations.dataset_groups import DATASET_GROUP
from batchrec_dagster.local_personalize.operations.dataset_import_jobs import DATASET_IMPORT_JOB
from batchrec_dagster.local_personalize.operations.datasets import DATASET
from batchrec_dagster.local_personalize.operations.filters import FILTER
from batchrec_dagster.local_personalize.operations.schemas import SCHEMA
from batchrec_dagster.local_personalize.operations.solution_versions import SOLUTION_VERSION
from batchrec_dagster.local_personalize.operations.solutions import SOLUTION

Operation = Callable[[Call], dict[str, Any]]

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        DATASET_GROUP,
        SCHEMA,
        DATASET,
        DATASET_IMPORT_JOB,
        SOLUTION,
        SOLUTION_VERSION,
        FILTER,
        BATCH_INFERENCE_JOB,
        BATCH_SEGMENT_JOB,
    )
}

_VERBS: dict[str, Callable[[Kind, Call], dict[str, Any]]] = {
    "Create": resources.create,
    "Describe": resources.describe,
    "List": resources.list_page,
    "Delete": resources.delete,
}

OPERATIONS: dict[str, Operation] = {
    **{
        operation: partial(_VERBS[verb], kind)
        for kind in KINDS.values()
        for verb, operation in kind.operations.items()
    },
    "UpdateDataset": datasets.update,
    "UpdateSolution": solutions.update,
    "StopSolutionVersionCreation": solution_versions.stop,
    "GetSolutionMetrics": solution_versions.metrics,
    "ListRecipes": recipes.list_recipes,
    "DescribeRecipe": recipes.describe_recipe,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListTagsForResource": tags.list_tags,
}

READS = frozenset(name for name in OPERATIONS if name.startswith(("Describe", "List", "Get")))
