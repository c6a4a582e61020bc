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

_LOOK_SECONDS = 0.2  # how often a job looks whether it was told to stop


class StoppedError(Exception):
    """StopSolutionVersionCreation has asked for it."""


class ClosingError(Exception):
    """The process goes; the job is left for whoever comes next."""


@dataclass
class Job:
    """The resource to make ready, and what it takes."""

    resource: Resource
    catalog: Catalog
    home: Home
    store: ObjectStore
    closing: Callable[[], bool]
    _looked: float = field(default=0.0, init=False)

    def progress(self, message: str) -> None:
        """Tell in the log where the job is; a good place to be stopped.

        Raises StoppedError, ClosingError.
        """
        logger.info("%s: %s", self.resource.arn, message)
        self.checkpoint()

    def checkpoint(self) -> None:
        """Come here often. Raises StoppedError, ClosingError."""
        if self.closing():
            raise ClosingError
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        with self.catalog.reading() as records:
            found = records.find(self.resource.arn)
        if found is None or found.status == CREATE_STOPPING:
            raise StoppedError


def check_location(path: str) -> str:
    """The path as it is. Raises InvalidInputError when it names no place in S3."""
    try:
        split_uri(path)
    except StorageError as error:
        raise InvalidInputError(f"Invalid Data location. {error}") from None
    return path


def folder_of(path: str) -> str:
    """The path as a folder, ending in `/`."""
    return path if path.endswith("/") else path + "/"


def objects_at(store: ObjectStore, path: str) -> list[ObjectInfo]:
    """The one object of that key or, where there is none, all whose key starts with it.

    Raises JobFailedError in Personalize's words.
    """
    try:
        exact = None if path.endswith("/") or not split_uri(path)[1] else store.head(path)
        found = [exact] if exact else store.list(path)
    except StorageError as error:
        raise storage_failure(error) from error
    if not found:
        raise JobFailedError(f"Invalid Data location. There is no object at {path}")
    return found


def storage_failure(error: StorageError) -> JobFailedError:
    """The failure of a job that could not read or write its objects."""
    if "permission denied" in str(error) or "credentials" in str(error):
        return JobFailedError(f"Insufficient privileges for accessing data in Amazon S3. {error}")
    return JobFailedError(f"Invalid Data location. {error}")
