"""From one status to the next: what beginning, finishing, failing and stopping make of a resource.

Source: the statuses that the service model documents for each kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from batchrec_dagster.local_personalize.catalog.catalog import (
    ACTIVE,
    CREATE_FAILED,
    CREATE_IN_PROGRESS,
    CREATE_PENDING,
    CREATE_STOPPED,
    CREATE_STOPPING,
    CREATING,
    DELETE_IN_PROGRESS,
    DELETE_PENDING,
    DELETING,
    Records,
    Resource,
)
from batchrec_dagster.local_personalize.catalog.kinds import Finished, Kind
from batchrec_dagster.local_personalize.errors import JobFailedError
from batchrec_dagster.local_personalize.jobs.job import (
    ClosingError,
    Job,
    StoppedError,
    logger,
    storage_failure,
)
from batchrec_dagster.storage.object_store import StorageError

# Members of Describe that tell of a change to a resource that stays ACTIVE meanwhile.
_UPDATES = ("latestSolutionUpdate", "latestDatasetUpdate")

_NAP_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """What becomes of a resource: `apply` in the transaction that ends the work, then `after`."""

    apply: Callable[[Records, Resource], Resource]
    after: Callable[[], None] = lambda: None


def is_creating(resource: Resource) -> bool:
    """Whether the work is to make the resource."""
    return resource.status in (*CREATING, CREATE_STOPPING)


def is_deleting(resource: Resource) -> bool:
    """Whether the work is to delete it."""
    return resource.status in DELETING


def with_update(resource: Resource, member: str, change: dict[str, object]) -> Resource:
    """An ACTIVE resource with a change that is to be made to it, told of under `member`."""
    now = time.time()
    update = change | {
        "status": CREATE_PENDING,
        "creationDateTime": now,
        "lastUpdatedDateTime": now,
    }
    return replace(resource.now(resource.status, **{member: update}), unfinished=True)


def begun(resource: Resource) -> Resource:
    """The resource as a worker takes it in hand."""
    if resource.status in CREATING:
        return resource.now(CREATE_IN_PROGRESS)
    if resource.status == DELETE_PENDING and resource.kind != "DatasetGroup":
        return resource.now(DELETE_IN_PROGRESS)
    if resource.status == ACTIVE:
        return replace(_update_now(resource, CREATE_IN_PROGRESS), unfinished=True)
    return resource


def perform(kind: Kind, job: Job, least_seconds: float = 0.0) -> Outcome:
    """Does the work, which takes `least_seconds` at least; returns what is to become of it.

    Never raises for what is wrong with the data; ClosingError goes through.
    """
    if job.resource.status == ACTIVE:
        return Outcome(_updated)
    try:
        if job.resource.status == CREATE_STOPPING:
            raise StoppedError
        assert kind.perform is not None
        until = time.monotonic() + least_seconds
        finished = kind.perform(job)
        while (left := until - time.monotonic()) > 0:
            job.checkpoint()
            time.sleep(min(left, _NAP_SECONDS))
        return _active(finished)
    except StoppedError:
        return Outcome(_stopped)
    except JobFailedError as error:
        return _failed(str(error))
    except StorageError as error:
        return _failed(str(storage_failure(error)))
    except ClosingError:
        raise
    except Exception:
        if job.closing() or _interpreter_ends():
            raise ClosingError from None
        # A flaw of this service: the log has the whole story, the client a failed job.
        logger.exception("%s failed", job.resource.arn)
        return _failed("Create failed. An internal error occurred; the service's log tells more.")


def _interpreter_ends() -> bool:
    """Whether no thread can be started any more, which makes learning fail that uses a pool.

    The pools of concurrent.futures close before `atexit` tells the worker.
    """
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int)
    except RuntimeError:
        return True
    return False


def _active(finished: Finished) -> Outcome:
    def apply(records: Records, resource: Resource) -> Resource:
        if resource.status == CREATE_STOPPING:
            return _stopped(records, resource)
        finished.along(records)
        ready = resource.now(ACTIVE, **finished.body)
        return replace(ready, state={**resource.state, **finished.state})

    return Outcome(apply, finished.after)


def _stopped(records: Records, resource: Resource) -> Resource:
    return resource.now(CREATE_STOPPED)


def _failed(reason: str) -> Outcome:
    def apply(records: Records, resource: Resource) -> Resource:
        return resource.now(CREATE_FAILED, failureReason=reason)

    return Outcome(apply)


def _updated(records: Records, resource: Resource) -> Resource:
    return _update_now(resource, ACTIVE)


def _update_now(resource: Resource, status: str) -> Resource:
    member = next(name for name in _UPDATES if name in resource.body)
    update = resource.body[member] | {"status": status, "lastUpdatedDateTime": time.time()}
    return resource.now(resource.status, **{member: update})
