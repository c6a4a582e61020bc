"""The statuses that a resource goes through while its job waits, runs and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from batchrec_dagster.errors import UserError

from ..catalog.catalog import CatalogTransaction
from ..catalog.kinds import CatalogKind, JobResult
from ..catalog.resource import CREATING, Resource, Status
from ..errors import CatalogError, JobFailedError
from .job import ClosingError, Job, StoppedError, logger
from .s3_locations import explain_storage_error

ResourceUpdate = tuple[Resource, Sequence[Path]]
"""The resource after its job, and the files to remove when the transaction is committed."""

ApplyOutcome = Callable[[CatalogTransaction, Resource], ResourceUpdate]
"""Ends a job, in the transaction that does so. It gets the resource as the catalog has it then."""

_OS_ERROR_TEXT = "(os error "
"""What the messages of Polars' input and output errors contain. They are not OSErrors."""


def mark_started(resource: Resource) -> Resource:
    """Return a copy with the status that it has while its job runs."""
    if resource.status in CREATING:
        return resource.copy_with_status(Status.CREATE_IN_PROGRESS)
    if resource.status == Status.DELETE_PENDING and resource.kind != "DatasetGroup":
        return resource.copy_with_status(Status.DELETE_IN_PROGRESS)
    return resource


def run_job(kind: CatalogKind, job: Job) -> ApplyOutcome:
    """Run the job, and return the function that records how it ended.

    Bad data gives a failed outcome, not an exception.

    Raises ClosingError if the process ends first, and CatalogError.
    """
    try:
        if job.resource.status == Status.CREATE_STOPPING:
            raise StoppedError
        assert kind.perform is not None
        return _make_success(kind.perform(job))
    except StoppedError:
        return _apply_stop
    except (ClosingError, CatalogError):
        raise
    except JobFailedError as error:
        return _make_failure(str(error))
    except UserError as error:
        return _make_failure(str(explain_storage_error(error)))
    except Exception as error:
        if job.closing() or _interpreter_is_closing():
            raise ClosingError from None
        logger.exception("%s failed", job.resource.arn)
        if isinstance(error, (OSError, MemoryError)) or _OS_ERROR_TEXT in str(error):
            # The disk or the memory is full, for example: the client can do something about it.
            return _make_failure(f"Create failed. {str(error) or type(error).__name__}")
        # A bug in this service: the log gets the traceback, the client a failed job.
        return _make_failure("Create failed. An internal error occurred: see the service's log.")


def _interpreter_is_closing() -> bool:
    """Tell whether the interpreter starts no more threads, so that training in a pool fails.

    The pools of concurrent.futures close before `atexit` calls the worker.
    """
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int)
    except RuntimeError:
        return True
    return False


def _make_success(result: JobResult) -> ApplyOutcome:
    """Return the outcome of a job that succeeded, unless it was stopped at its very end."""

    def apply(transaction: CatalogTransaction, resource: Resource) -> ResourceUpdate:
        if resource.status == Status.CREATE_STOPPING:
            return _apply_stop(transaction, resource)
        replaced_files = result.apply_changes(transaction)
        active = resource.copy_with_status(Status.ACTIVE, **result.body)
        return replace(active, state={**resource.state, **result.state}), replaced_files

    return apply


def _apply_stop(transaction: CatalogTransaction, resource: Resource) -> ResourceUpdate:
    return resource.copy_with_status(Status.CREATE_STOPPED), ()


def _make_failure(reason: str) -> ApplyOutcome:
    """Return the outcome of a job that failed. Describe shows the reason as `failureReason`."""

    def apply(transaction: CatalogTransaction, resource: Resource) -> ResourceUpdate:
        return resource.copy_with_status(Status.CREATE_FAILED, failureReason=reason), ()

    return apply
