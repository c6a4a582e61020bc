"""The locks of a pipeline's steps, which whoever deletes its files or resources holds."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from batchrec_dagster.config import Pipeline
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.connection import Storage

# The assets that work in Personalize before the lists, in order.
STEPS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "similar_items_solution_version",
)
# How long a lock of another run may be waited for. A run that lives was refused before.
LOCK_SECONDS = 120


def hold_locks(locks: ExitStack, work: PersonalizeWork, owner: str) -> None:
    """Hold the locks of the steps and of all lists until the end, so that runs wait."""
    waiting = replace(work, ensure=replace(work.ensure, deadline_seconds=LOCK_SECONDS))
    for step in STEPS:
        locks.enter_context(waiting.lock(step, owner))
    for published in work.pipeline.published_lists():
        locks.enter_context(waiting.list_lock(published, owner))


def list_lock_uris(storage: Storage, pipeline: Pipeline) -> tuple[str, ...]:
    """The URIs of the locks that `hold_locks` holds."""
    keys = [
        *(pipeline.keys.lock(step) for step in STEPS),
        *(published.keys.list_lock(published.asset) for published in pipeline.published_lists()),
    ]
    return tuple(storage.uri(key) for key in keys)
