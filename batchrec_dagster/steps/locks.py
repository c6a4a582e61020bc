"""The locks of a pipeline's steps, which whoever deletes its files or resources holds."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.connection import Storage

# The assets that work in Personalize, in order.
STEPS = (
    "personalize_dataset",
    "solution_version",
    "segment_solution_version",
    "user_segments",
    "similar_items_solution_version",
)
# How long a lock of another run may be waited for. A run that lives was refused before.
LOCK_SECONDS = 120


def hold_locks(locks: ExitStack, work: PersonalizeWork, owner: str) -> None:
    """Hold the locks of the steps of all lists until the end, so that runs wait."""
    waiting = replace(work, ensure=replace(work.ensure, deadline_seconds=LOCK_SECONDS))
    for step in STEPS:
        locks.enter_context(waiting.lock(step, owner))
    for published in _lists_with_locks(work.pipeline):
        locks.enter_context(waiting.list_lock(published, owner))


def list_lock_uris(storage: Storage, pipeline: Pipeline) -> tuple[str, ...]:
    """The URIs of the locks that `hold_locks` holds."""
    keys = [
        *(pipeline.keys.lock(step) for step in STEPS),
        *(published.keys.list_lock(published.asset) for published in _lists_with_locks(pipeline)),
    ]
    return tuple(storage.uri(key) for key in keys)


def _lists_with_locks(pipeline: Pipeline) -> list[PublishedList]:
    """The lists that publish editions, each under a lock of its own."""
    return [published for published in pipeline.published_lists() if published.has_editions]
