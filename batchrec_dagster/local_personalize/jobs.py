"""Jobs, which do the work of new resources in threads of the process that got the request.

A job holds a lock on a file while it works. The kernel releases the lock when the process ends. So
a job with a free lock is dead. The status of its resource becomes CREATE FAILED, and the client
creates another resource, as on AWS. A job writes to new paths. Nobody reads these paths until
the transaction that makes the resource ACTIVE stores them.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore, split_uri
from batchrec_dagster.storage.progress import Progress

from .catalogue import Catalogue, Resource, Status
from .errors import CatalogueError, InvalidInputError, JobFailedError
from .home import Home, remove_path
from .imported_rows import DatasetReader
from .resources import ApiRequest, JobResult, Kind

logger = logging.getLogger("batchrec_dagster.local_personalize")

CLOSE_SECONDS = 3.0
"""The time that an ending interpreter waits for jobs to reach a checkpoint."""

# These are Amazon Personalize's own words.
INVALID_LOCATION = "Invalid Data location."

_DEAD = (
    "Create failed. The process that ran this job has ended: create another one (in a pipeline: run"
    " again)."
)


class ClosingError(Exception):
    """The process is ending, so the job stops."""


@dataclass(frozen=True)
class Job:
    """The work on a new resource, with the tools that the work needs."""

    resource: Resource
    catalogue: Catalogue
    home: Home
    store: ObjectStore
    """The store of the S3 objects that the request names."""
    is_closing: Callable[[], bool]
    """A function that returns whether this process is ending."""

    def report_progress(self, message: str) -> None:
        """Log a message. Raises ClosingError if the process is ending."""
        logger.info("%s: %s", self.resource.arn, message)
        self.checkpoint()

    def checkpoint(self) -> None:
        """Raise ClosingError if the process is ending. Long work calls this often."""
        if self.is_closing():
            raise ClosingError

    def count_progress(self, unit: str, total: int) -> Callable[[int], None]:
        """Return a function that counts finished work, logs it at intervals, and is a checkpoint.

        unit: the unit of work to log, such as "lines of s3://b/users.json".
        total: the number of units to do.
        """
        progress = Progress(unit, total, self.report_progress)

        def count(number: int) -> None:
            progress.add(number)
            self.checkpoint()
            if progress.count == total:
                progress.end()

        return count

    def make_reader(self, *, full_imports_only: bool = False) -> DatasetReader:
        """Return a reader of imported data.

        full_imports_only: whether the reader leaves out imports with importMode INCREMENTAL.
        """
        return DatasetReader(self.catalogue, self.home, full_imports_only)

    def list_objects(self, path: str) -> list[ObjectInfo]:
        """Return the object at an S3 path. If there is none, return all objects below the path.

        Objects are below a path if their paths begin with it. For a path that ends with a slash,
        all objects below the path are returned.

        Raises JobFailedError, in Amazon Personalize's words, if there are no objects, and UserError
        if S3 cannot be read.
        """
        _, key = split_uri(path)
        exact = None if path.endswith("/") or not key else self.store.head(path)
        objects = [exact] if exact else self.store.list(path)
        if not objects:
            raise JobFailedError(f"{INVALID_LOCATION} There is no object at {path}")
        return objects


def check_data_source(request: ApiRequest) -> None:
    """Raise InvalidInputError if the request has no valid location of its data in S3."""
    location = request.params["dataSource"].get("dataLocation")
    if location is None:
        raise InvalidInputError("dataSource.dataLocation is required.")
    check_location(location)


def check_location(path: str) -> str:
    """Return the path unchanged. Raises InvalidInputError if it is not an S3 path."""
    try:
        split_uri(path)
    except UserError as error:
        raise InvalidInputError(f"{INVALID_LOCATION} {error}") from None
    return path


class JobLock:
    """A lock that shows that a job is alive."""

    def __init__(self, folder: Path) -> None:
        """Create and lock a file in `folder`, the folder of all locks of a home."""
        self.name = uuid.uuid4().hex
        self._path = folder / self.name
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        # Closing the file would not be enough, because a child process that was forked in the
        # meantime has the file open, too.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def is_dead(folder: Path, name: str) -> bool:
    """Return whether nobody holds the lock of this name."""
    try:
        with (folder / name).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def fail_dead_jobs(catalogue: Catalogue, home: Home) -> None:
    """Mark the resources of dead jobs as failed, and remove the files that these jobs wrote.

    Raises CatalogueError.
    """
    with catalogue.open_for_reading() as transaction:
        names = [resource.job for resource in transaction.list_with_job()]
    dead_names = {name for name in names if name and is_dead(home.locks, name)}
    if not dead_names:
        return
    with catalogue.open_for_writing() as transaction:
        for resource in transaction.list_with_job():
            # A job may have succeeded just before its lock was found free. Such a job is no longer
            # in this list.
            if resource.job in dead_names:
                transaction.save(resource.end_job(Status.CREATE_FAILED, failureReason=_DEAD))
                logger.warning("%s: the process that worked on it has ended", resource.arn)
    for name in dead_names:
        remove_path(home.locks / name)
    remove_unnamed_files(catalogue, home)


def remove_unnamed_files(catalogue: Catalogue, home: Home) -> None:
    """Remove the files that belong neither to a resource nor to a job under way."""
    # The files are listed before the catalogue is read. So if a job finishes a listed file in
    # between, the catalogue already has the file's name.
    folders = (home.datasets, home.models, home.batches)
    paths = [path for folder in folders for path in folder.iterdir()]
    if not paths:
        return
    with catalogue.open_for_reading() as transaction:
        owned_paths = {home.root / path for path in transaction.list_files()}
        prefixes = tuple(home.make_prefix(job.arn) for job in transaction.list_with_job())
    for path in paths:
        if path not in owned_paths and not path.name.startswith(prefixes):
            remove_path(path)


class Jobs:
    """The running jobs of this process, each in a thread."""

    def __init__(self, catalogue: Catalogue, home: Home, store: ObjectStore) -> None:
        """Prepare to run jobs, and to close them when the interpreter ends.

        store: the store of the S3 objects that requests name.
        """
        self._catalogue = catalogue
        self._home = home
        self._store = store
        self._closing = threading.Event()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._close = weakref.finalize(self, _close, catalogue, self._closing, self._threads)

    def start(self, kind: Kind, resource: Resource, lock: JobLock) -> None:
        """Start the resource's job and return at once.

        lock: the job's lock, which is released when the job ends.
        """
        thread = threading.Thread(
            target=self._run, args=(kind, resource, lock), name=resource.arn, daemon=True
        )
        self._threads.add(thread)
        thread.start()

    def close(self) -> None:
        """Stop the jobs at their next checkpoint. Their resources fail."""
        self._close()

    def _run(self, kind: Kind, resource: Resource, lock: JobLock) -> None:
        """Run the job and record its result. This is the function of the job's thread."""
        try:
            with self._turns[kind.turn]:
                if self._closing.is_set():
                    return
                started = replace(resource, status=Status.CREATE_IN_PROGRESS, updated=time.time())
                with self._catalogue.open_for_writing() as transaction:
                    transaction.save(started)
                logger.info("%s: %s", started.arn, started.status)
                job = Job(started, self._catalogue, self._home, self._store, self._closing.is_set)
                self._record(started.arn, _perform(kind, job))
            self._catalogue.copy_log()
        except ClosingError:
            pass
        except CatalogueError as error:
            # The disk may be full, for example. As the lock is released, the next request either
            # gets the error, too, or marks the resource as failed.
            logger.error("%s: %s", resource.arn, error)
        finally:
            lock.release()

    def _record(self, arn: str, result: JobResult | str) -> None:
        """Write the job's result to the catalogue.

        result: the job's result, or the reason of its failure.
        """
        replaced_files: Sequence[Path] = ()
        with self._catalogue.open_for_writing() as transaction:
            resource = transaction.require(arn)
            if isinstance(result, str):
                ended = resource.end_job(Status.CREATE_FAILED, failureReason=result)
            else:
                replaced_files = result.apply_changes(transaction)
                ended = resource.end_job(Status.ACTIVE, **result.body)
                ended = replace(ended, state={**resource.state, **result.state})
            transaction.save(ended)
        logger.info(
            "%s: %s%s", arn, ended.status, f" ({result})" if isinstance(result, str) else ""
        )
        for path in replaced_files:
            remove_path(path)


def _perform(kind: Kind, job: Job) -> JobResult | str:
    """Do the work, and return its result or the reason of its failure, as Describe shows it.

    Raises ClosingError if the process ends first, and CatalogueError.
    """
    assert kind.perform is not None
    try:
        return kind.perform(job)
    except (ClosingError, CatalogueError):
        raise
    except JobFailedError as error:
        return str(error)
    except UserError as error:
        is_denied = isinstance(
            error.__cause__, PermissionError | PermissionDeniedError | UnauthenticatedError
        )
        what = (
            "Insufficient privileges for accessing data in Amazon S3."
            if is_denied
            else INVALID_LOCATION
        )
        return f"{what} {error}"
    except (OSError, MemoryError, pl.exceptions.PolarsError) as error:
        # The disk or the memory may be full, for example. The client can do something about that.
        logger.exception("%s failed", job.resource.arn)
        return f"Create failed. {str(error) or type(error).__name__}"
    except Exception:
        # An ending interpreter first closes its thread pools, which makes the work fail, and only
        # then runs `_close`. So the checkpoint has to wait a moment.
        time.sleep(0.2)
        job.checkpoint()
        # This is a bug in this service. The log gets the traceback, and the client a failed job.
        logger.exception("%s failed", job.resource.arn)
        return "Create failed. An internal error occurred: see the service's log."


def _close(
    catalogue: Catalogue, closing: threading.Event, threads: weakref.WeakSet[threading.Thread]
) -> None:
    """Stop the jobs, and wait up to CLOSE_SECONDS until they have reached a checkpoint."""
    closing.set()
    deadline = time.monotonic() + CLOSE_SECONDS
    # The garbage collector may run this in the thread of the last job, which cannot join itself.
    for thread in set(threads) - {threading.current_thread()}:
        thread.join(max(0.0, deadline - time.monotonic()))
    with suppress(CatalogueError):
        catalogue.copy_log()
