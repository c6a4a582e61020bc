"""The leases of a pipeline's steps, which whoever deletes its files or resources holds."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.connection import StorageResource

# The assets that work in Personalize, in order.
STEPS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "user_segments",
    "similar_items_solution_version",
)
# How long a lease of another run may be waited for. A run that lives was refused before.
LEASE_SECONDS = 120


def hold_leases(leases: ExitStack, work: PersonalizeWork, owner: str) -> None:
    """Hold the leases of the steps of all lists until the end, so that runs wait."""
    waiting = replace(work, ensure=replace(work.ensure, deadline_seconds=LEASE_SECONDS))
    for step in STEPS:
        leases.enter_context(waiting.step_lease(step, owner))
    for published in _lists_with_leases(work.pipeline):
        leases.enter_context(waiting.list_lease(published, owner))


def list_lease_uris(storage: StorageResource, pipeline: Pipeline) -> tuple[str, ...]:
    """Where the leases are."""
    keys = [
        *(pipeline.keys.lease(step) for step in STEPS),
        *(published.keys.list_lease(published.asset) for published in _lists_with_leases(pipeline)),
    ]
    return tuple(storage.uri(key) for key in keys)


def _lists_with_leases(pipeline: Pipeline) -> list[PublishedList]:
    """The lists that publish editions, each under a lease of its own."""
    return [published for published in pipeline.published_lists() if published.has_editions]
