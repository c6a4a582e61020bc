"""The leases of a pipeline's steps, which whoever deletes its files or resources holds."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from batchrec_dagster.config import Pipeline
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.layout import SIMILAR_ITEMS, is_of_list

# The assets that work in Personalize, in order.
STEPS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "recommendations",
    "user_segments",
    "similar_items_solution_version",
    SIMILAR_ITEMS,
)
# How long a lease of another run may be waited for. A run that lives was refused before.
LEASE_SECONDS = 120


def hold_leases(leases: ExitStack, work: PersonalizeWork, owner: str) -> None:
    """Hold the leases of the steps of all lists until the end, so that runs wait."""
    waiting = replace(work, ensure=replace(work.ensure, deadline_seconds=LEASE_SECONDS))
    for step in STEPS:
        # Each list has a step of its own, or all share one.
        pipelines = work.pipeline.published_pipelines if is_of_list(step) else [work.pipeline]
        for pipeline in pipelines:
            leases.enter_context(waiting.for_pipeline(pipeline).step_lease(step, owner))


def list_lease_uris(storage: StorageResource, pipeline: Pipeline) -> tuple[str, ...]:
    """Where the leases are."""
    return tuple(
        storage.uri(list_pipeline.storage_keys.lease(step))
        for list_pipeline in pipeline.published_pipelines
        for step in STEPS
    )
