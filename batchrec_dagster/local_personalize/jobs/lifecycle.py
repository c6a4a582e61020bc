"""A resource's status when its job starts, finishes, fails or is stopped.

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
    UPDATE_IN_PROGRESS,
    UPDATE_PENDING,
    UPDATING,
    Records,
    Resource,
)
from batchrec_dagster.local_personalize.catalog.kinds import JobResult, Kind
from batchrec_dagster.local_personalize.errors import CatalogError, JobFailedError
from batchrec_dagster.local_personalize.jobs.job import (
    ClosingError,
    Job,
    StoppedError,
    logger,
    storage_failure,
)
from batchrec_dagster.storage.object_store import StorageError

# Members of Describe for an update to a resource that stays ACTIVE in the meantime.
_UPDATES = ("latestSolutionUpdate", "latestDatasetUpdate")

UPDATED = "updated"  # in a resource's state: members of Describe as they are after the update

_NAP_SECONDS = 0.1
_OS_ERROR = "(os error "  # in Polars' errors, which are no OSError


@dataclass(frozen=True)
class Outcome:
    """How a job ends: `apply` runs in the transaction that ends it, then `after`."""

    apply: Callable[[Records, Resource], Resource]
    after: Callable[[], None] = lambda: None


def is_creating(resource: Resource) -> bool:
    """Whether the job creates the resource."""
    return resource.status in (*CREATING, CREATE_STOPPING)


def is_deleting(resource: Resource) -> bool:
    """Whether the job deletes it."""
    return resource.status in DELETING


def start_update(resource: Resource, member: str, change: dict[str, object]) -> Resource:
    """An ACTIVE resource with a pending update, which Describe shows under `member`.

    A solution stays ACTIVE; the status of a dataset is UPDATE PENDING, as AWS's samples record it.
    """
    now = time.time()
    update = change | {
        "status": CREATE_PENDING,
        "creationDateTime": now,
        "lastUpdatedDateTime": now,
    }
    status = UPDATE_PENDING if resource.kind == "Dataset" else resource.status
    return replace(resource.with_status(status, **{member: update}), unfinished=True)


def start(resource: Resource) -> Resource:
    """The resource as its job starts."""
    if resource.status in CREATING:
        return resource.with_status(CREATE_IN_PROGRESS)
    if resource.status == DELETE_PENDING and resource.kind != "DatasetGroup":
        return resource.with_status(DELETE_IN_PROGRESS)
    if resource.status in UPDATING:
        resource = resource.with_status(UPDATE_IN_PROGRESS)
    if resource.status in (ACTIVE, UPDATE_IN_PROGRESS):
        return replace(_set_update_status(resource, CREATE_IN_PROGRESS), unfinished=True)
    return resource


def perform(kind: Kind, job: Job, least_seconds: float = 0.0) -> Outcome:
    """Run the job, for at least `least_seconds`, and return how it ended.

    Bad data gives a failed outcome, not an exception. Raises ClosingError, CatalogError.
    """
    updates = job.resource.status in (ACTIVE, *UPDATING)
    try:
        if job.resource.status == CREATE_STOPPING:
            raise StoppedError
        assert kind.perform is not None
        until = time.monotonic() + least_seconds
        outcome = Outcome(_finish_update) if updates else _succeed(kind.perform(job))
        while (left := until - time.monotonic()) > 0:
            job.checkpoint()
            time.sleep(min(left, _NAP_SECONDS))
        return outcome
    except StoppedError:
        return Outcome(_stop)
    except (ClosingError, CatalogError):
        raise
    except JobFailedError as error:
        return _fail(str(error))
    except StorageError as error:
        return _fail(str(storage_failure(error)))
    except Exception as error:
        if job.closing() or _interpreter_is_closing():
            raise ClosingError from None
        logger.exception("%s failed", job.resource.arn)
        if isinstance(error, (OSError, MemoryError)) or _OS_ERROR in str(error):
            # The disk or the memory is full, say.
            return _fail(f"Create failed. {str(error) or type(error).__name__}")
        # A bug in this service: the log gets the traceback, the client a failed job.
        return _fail("Create failed. An internal error occurred: see the service's log.")


def _interpreter_is_closing() -> bool:
    """Whether the interpreter starts no more threads, so that training in a pool fails.

    The pools of concurrent.futures close before `atexit` calls the worker.
    """
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int)
    except RuntimeError:
        return True
    return False


def _succeed(finished: JobResult) -> Outcome:
    def apply(records: Records, resource: Resource) -> Resource:
        if resource.status == CREATE_STOPPING:
            return _stop(records, resource)
        finished.in_transaction(records)
        ready = resource.with_status(ACTIVE, **finished.body)
        return replace(ready, state={**resource.state, **finished.state})

    return Outcome(apply, finished.after)


def _stop(records: Records, resource: Resource) -> Resource:
    return resource.with_status(CREATE_STOPPED)


def _fail(reason: str) -> Outcome:
    def apply(records: Records, resource: Resource) -> Resource:
        return resource.with_status(CREATE_FAILED, failureReason=reason)

    return Outcome(apply)


def _finish_update(records: Records, resource: Resource) -> Resource:
    body = {**resource.body, **resource.state.get(UPDATED, {})}
    state = {name: value for name, value in resource.state.items() if name != UPDATED}
    updated = replace(resource, body=body, state=state)
    return _set_update_status(updated.with_status(ACTIVE), ACTIVE)


def _set_update_status(resource: Resource, status: str) -> Resource:
    member = next(name for name in _UPDATES if name in resource.body)
    update = resource.body[member] | {"status": status, "lastUpdatedDateTime": time.time()}
    return resource.with_status(resource.status, **{member: update})
