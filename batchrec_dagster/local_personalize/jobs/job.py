"""One piece of work in hand: what a kind's `perform` is given."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from batchrec_dagster.local_personalize.catalog.catalog import CREATE_STOPPING, Catalog, Resource
from batchrec_dagster.local_personalize.catalog.home import Home
from batchrec_dagster.storage.object_store import ObjectStore

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
