"""A running job: its resource and tools, the S3 objects of its request, and its statuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from batchrec_dagster.storage.object_store import ObjectInfo, ObjectStore, StorageError, split_uri

from ..catalog.catalog import Catalog, CatalogTransaction
from ..catalog.home import Home
from ..catalog.kinds import CatalogKind, JobResult
from ..catalog.resource import CREATING, UPDATING, Resource, Status
from ..data.datasets import DatasetReader
from ..errors import CatalogError, InvalidInputError, JobFailedError

logger = logging.getLogger("batchrec_dagster.local_personalize")

_CHECK_SECONDS = 0.2  # between looks at whether the job must stop


class StoppedError(Exception):
    """StopSolutionVersionCreation stopped the job."""


class ClosingError(Exception):
    """The process is ending; another worker will run the job again."""


@dataclass
class Job:
    """A resource under work, with the tools that the work needs."""

    resource: Resource
    catalog: Catalog
    home: Home
    store: ObjectStore
    closing: Callable[[], bool]
    _last_checked: float = field(default=0.0, init=False)

    def report_progress(self, message: str) -> None:
        """Log a message, then stop here if asked to. Raises StoppedError, ClosingError."""
        logger.info("%s: %s", self.resource.arn, message)
        self.checkpoint()

    def make_reader(self, *, full_imports_only: bool = False) -> DatasetReader:
        return DatasetReader(self.catalog, self.home, full_imports_only)

    def checkpoint(self) -> None:
        """Stop here if asked to; call it often. Raises StoppedError, ClosingError."""
        if self.closing():
            raise ClosingError
        now = time.monotonic()
        if now - self._last_checked < _CHECK_SECONDS:
            return
        self._last_checked = now
        with self.catalog.open_for_reading() as transaction:
            current = transaction.find(self.resource.arn)
        if current is None or current.status == Status.CREATE_STOPPING:
            raise StoppedError


def check_location(path: str) -> str:
    """Return the path unchanged. Raises InvalidInputError when it is not an S3 path."""
    try:
        split_uri(path)
    except StorageError as error:
        raise InvalidInputError(f"Invalid Data location. {error}") from None
    return path


def add_slash(path: str) -> str:
    return path if path.endswith("/") else path + "/"


def list_objects(store: ObjectStore, path: str) -> list[ObjectInfo]:
    """The object of that key or, if there is none, all objects under that prefix.

    Raises JobFailedError in Personalize's words.
    """
    try:
        exact = None if path.endswith("/") or not split_uri(path)[1] else store.head(path)
        objects = [exact] if exact else store.list(path)
    except StorageError as error:
        raise explain_storage_error(error) from error
    if not objects:
        raise JobFailedError(f"Invalid Data location. There is no object at {path}")
    return objects


def explain_storage_error(error: StorageError) -> JobFailedError:
    """The failure of a job that cannot read or write its S3 objects."""
    if "permission denied" in str(error) or "credentials" in str(error):
        return JobFailedError(f"Insufficient privileges for accessing data in Amazon S3. {error}")
    return JobFailedError(f"Invalid Data location. {error}")


# Members of Describe for an update to a resource that stays ACTIVE in the meantime.
_UPDATES = ("latestSolutionUpdate", "latestDatasetUpdate")

AFTER_UPDATE = "updated"  # in a resource's state: members of Describe as they are after the update

_NAP_SECONDS = 0.1
_OS_ERROR = "(os error "  # in Polars' errors, which are no OSError


# How a job ends, in the transaction that ends it: the resource afterwards, and the files to remove
# when that is committed.
ApplyOutcome = Callable[[CatalogTransaction, Resource], tuple[Resource, Sequence[Path]]]


def start_update(resource: Resource, member: str, change: dict[str, object]) -> Resource:
    """An ACTIVE resource with a pending update, which Describe shows under `member`.

    A solution stays ACTIVE; the status of a dataset is UPDATE PENDING, as AWS's samples record it.
    """
    now = time.time()
    update = change | {
        "status": Status.CREATE_PENDING,
        "creationDateTime": now,
        "lastUpdatedDateTime": now,
    }
    status = Status.UPDATE_PENDING if resource.kind == "Dataset" else resource.status
    return replace(resource.copy_with_status(status, **{member: update}), unfinished=True)


def mark_started(resource: Resource) -> Resource:
    if resource.status in CREATING:
        return resource.copy_with_status(Status.CREATE_IN_PROGRESS)
    if resource.status == Status.DELETE_PENDING and resource.kind != "DatasetGroup":
        return resource.copy_with_status(Status.DELETE_IN_PROGRESS)
    if resource.status in UPDATING:
        resource = resource.copy_with_status(Status.UPDATE_IN_PROGRESS)
    if resource.status in (Status.ACTIVE, Status.UPDATE_IN_PROGRESS):
        return replace(_set_update_status(resource, Status.CREATE_IN_PROGRESS), unfinished=True)
    return resource


def run_job(kind: CatalogKind, job: Job, least_seconds: float = 0.0) -> ApplyOutcome:
    """Run the job, for at least `least_seconds`, and return how it ended.

    Bad data gives a failed outcome, not an exception. Raises ClosingError, CatalogError.
    """
    updates = job.resource.status in (Status.ACTIVE, *UPDATING)
    try:
        if job.resource.status == Status.CREATE_STOPPING:
            raise StoppedError
        assert kind.perform is not None
        until = time.monotonic() + least_seconds
        outcome = _apply_update if updates else _make_success(kind.perform(job))
        while (left := until - time.monotonic()) > 0:
            job.checkpoint()
            time.sleep(min(left, _NAP_SECONDS))
        return outcome
    except StoppedError:
        return _apply_stop
    except (ClosingError, CatalogError):
        raise
    except JobFailedError as error:
        return _make_failure(str(error))
    except StorageError as error:
        return _make_failure(str(explain_storage_error(error)))
    except Exception as error:
        if job.closing() or _interpreter_is_closing():
            raise ClosingError from None
        logger.exception("%s failed", job.resource.arn)
        if isinstance(error, (OSError, MemoryError)) or _OS_ERROR in str(error):
            # The disk or the memory is full, say.
            return _make_failure(f"Create failed. {str(error) or type(error).__name__}")
        # A bug in this service: the log gets the traceback, the client a failed job.
        return _make_failure("Create failed. An internal error occurred: see the service's log.")


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


def _make_success(finished: JobResult) -> ApplyOutcome:
    def apply(
        transaction: CatalogTransaction, resource: Resource
    ) -> tuple[Resource, Sequence[Path]]:
        if resource.status == Status.CREATE_STOPPING:
            return _apply_stop(transaction, resource)
        replaced = finished.apply_changes(transaction)
        ready = resource.copy_with_status(Status.ACTIVE, **finished.body)
        return replace(ready, state={**resource.state, **finished.state}), replaced

    return apply


def _apply_stop(
    transaction: CatalogTransaction, resource: Resource
) -> tuple[Resource, Sequence[Path]]:
    return resource.copy_with_status(Status.CREATE_STOPPED), ()


def _make_failure(reason: str) -> ApplyOutcome:
    return lambda transaction, resource: (
        resource.copy_with_status(Status.CREATE_FAILED, failureReason=reason),
        (),
    )


def _apply_update(
    transaction: CatalogTransaction, resource: Resource
) -> tuple[Resource, Sequence[Path]]:
    body = {**resource.body, **resource.state.get(AFTER_UPDATE, {})}
    state = {name: value for name, value in resource.state.items() if name != AFTER_UPDATE}
    updated = replace(resource, body=body, state=state)
    return _set_update_status(updated.copy_with_status(Status.ACTIVE), Status.ACTIVE), ()


def _set_update_status(resource: Resource, status: str) -> Resource:
    member = next(name for name in _UPDATES if name in resource.body)
    update = resource.body[member] | {"status": status, "lastUpdatedDateTime": time.time()}
    return resource.copy_with_status(resource.status, **{member: update})
