"""A running job: the resource that it works on, and the tools that the work needs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from batchrec_dagster.storage.objects import ObjectStore

from ..catalog.catalog import Catalog
from ..catalog.home import Home
from ..catalog.resource import Resource, Status
from ..data.datasets import DatasetReader

logger = logging.getLogger("batchrec_dagster.local_personalize")

_STOP_CHECK_SECONDS = 0.2
"""How often a job reads in the catalog whether it must stop."""


class StoppedError(Exception):
    """A client stopped the job with StopSolutionVersionCreation, or deleted its resource."""


class ClosingError(Exception):
    """The process is ending. Another worker will run the job again."""


@dataclass
class Job:
    """A resource under work, with the tools that the work needs."""

    resource: Resource
    catalog: Catalog
    home: Home
    store: ObjectStore
    """Where the S3 objects of the request are."""
    closing: Callable[[], bool]
    """Tells whether this process is ending."""
    _last_checked: float = field(default=0.0, init=False)

    def report_progress(self, message: str) -> None:
        """Log a message, and then stop here if asked to, as `checkpoint` does."""
        logger.info("%s: %s", self.resource.arn, message)
        self.checkpoint()

    def make_reader(self, *, full_imports_only: bool = False) -> DatasetReader:
        """Return a reader of imported data.

        full_imports_only: whether to leave out imports with importMode INCREMENTAL.
        """
        return DatasetReader(self.catalog, self.home, full_imports_only)

    def checkpoint(self) -> None:
        """Stop here if asked to. Long work calls it often.

        Raises StoppedError if the job must stop, and ClosingError if the process is ending.
        """
        if self.closing():
            raise ClosingError
        now = time.monotonic()
        if now - self._last_checked < _STOP_CHECK_SECONDS:
            return
        self._last_checked = now
        with self.catalog.open_for_reading() as transaction:
            current = transaction.find(self.resource.arn)
        if current is None or current.status == Status.CREATE_STOPPING:
            raise StoppedError
