"""The locks of a pipeline's steps.

A command that deletes a pipeline's files or resources holds all the locks while it works.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from batchrec_dagster.config import Pipeline
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.storage.connection import Storage

# The assets that create resources in Personalize before the lists are made, in order.
STEPS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "similar_items_solution_version",
)
# The number of seconds to wait for a lock that another run holds. Callers refuse to start while a
# run is active, so a held lock probably belongs to a run that has ended.
LOCK_SECONDS = 120


def hold_locks(locks: ExitStack, step: StepContext) -> None:
    """Take the locks of the steps and of all lists, so that other runs have to wait.

    locks: the stack that releases the locks when it closes.
    """
    waiting = replace(step, personalize=replace(step.resources, deadline_seconds=LOCK_SECONDS))
    for name in STEPS:
        locks.enter_context(waiting.lock(name))
    for published in step.pipeline.published_lists():
        locks.enter_context(waiting.list_lock(published))


def list_lock_uris(storage: Storage, pipeline: Pipeline) -> tuple[str, ...]:
    """Return the URIs of the locks that `hold_locks` takes."""
    keys = [
        *(pipeline.keys.lock(name) for name in STEPS),
        *(published.keys.list_lock(published.asset) for published in pipeline.published_lists()),
    ]
    return tuple(storage.uri(key) for key in keys)
