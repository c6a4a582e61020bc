"""A running job: the resource, its tools, and the S3 objects that its request names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from batchrec_dagster.local_personalize.catalog.catalog import CREATE_STOPPING, Catalog, Resource
from batchrec_dagster.local_personalize.catalog.home import Home
from batchrec_dagster.local_personalize.errors import InvalidInputError, JobFailedError
from batchrec_dagster.storage.object_store import ObjectInfo, ObjectStore, StorageError, split_uri

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

    def progress(self, message: str) -> None:
        """Log a message, then stop here if asked to. Raises StoppedError, ClosingError."""
        logger.info("%s: %s", self.resource.arn, message)
        self.checkpoint()

    def checkpoint(self) -> None:
        """Stop here if asked to; call it often. Raises StoppedError, ClosingError."""
        if self.closing():
            raise ClosingError
        now = time.monotonic()
        if now - self._last_checked < _CHECK_SECONDS:
            return
        self._last_checked = now
        with self.catalog.reading() as records:
            current = records.find(self.resource.arn)
        if current is None or current.status == CREATE_STOPPING:
            raise StoppedError


def check_location(path: str) -> str:
    """Return the path unchanged. Raises InvalidInputError when it is not an S3 path."""
    try:
        split_uri(path)
    except StorageError as error:
        raise InvalidInputError(f"Invalid Data location. {error}") from None
    return path


def as_folder(path: str) -> str:
    """The path as a folder, ending in `/`."""
    return path if path.endswith("/") else path + "/"


def objects_at(store: ObjectStore, path: str) -> list[ObjectInfo]:
    """The object of that key or, if there is none, all objects under that prefix.

    Raises JobFailedError in Personalize's words.
    """
    try:
        exact = None if path.endswith("/") or not split_uri(path)[1] else store.head(path)
        objects = [exact] if exact else store.list(path)
    except StorageError as error:
        raise storage_failure(error) from error
    if not objects:
        raise JobFailedError(f"Invalid Data location. There is no object at {path}")
    return objects


def storage_failure(error: StorageError) -> JobFailedError:
    """The failure of a job that cannot read or write its S3 objects."""
    if "permission denied" in str(error) or "credentials" in str(error):
        return JobFailedError(f"Insufficient privileges for accessing data in Amazon S3. {error}")
    return JobFailedError(f"Invalid Data location. {error}")
