"""One local Personalize: requests in, answers out, work in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchrec_dagster.local_personalize.api.supported import refusal
from batchrec_dagster.local_personalize.api.validation import (
    check_request,
    input_shape,
    pruned,
    service_model,
)
from batchrec_dagster.local_personalize.catalog.catalog import Catalog
from batchrec_dagster.local_personalize.catalog.home import Home
from batchrec_dagster.local_personalize.catalog.kinds import Call, Quotas
from batchrec_dagster.local_personalize.errors import InvalidInputError, UnknownOperationError
from batchrec_dagster.local_personalize.jobs.progress import Pace
from batchrec_dagster.local_personalize.jobs.worker import Worker
from batchrec_dagster.local_personalize.operations.registry import KINDS, OPERATIONS, READS
from batchrec_dagster.storage.object_store import ObjectStore


class LocalPersonalize:
    """The service on one home. Many of them, in one process or several, may share a home."""

    def __init__(
        self,
        home: Path,
        store: ObjectStore,
        *,
        region: str = "us-east-1",
        quotas: Quotas | None = None,
        pace: Pace | None = None,
    ) -> None:
        folders = Home(home.absolute())
        self._region = region
        self._quotas = quotas or Quotas()
        self._catalog = Catalog(folders.catalog)
        self._worker = Worker(self._catalog, folders, store, KINDS, pace or Pace())
        self._worker.wake()  # what an earlier process has left is taken up at once

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answers one request. Raises ServiceError."""
        if operation not in service_model().operation_names:
            raise UnknownOperationError(f"Amazon Personalize has no operation {operation!r}.")
        if operation not in OPERATIONS:
            raise InvalidInputError(refusal(operation))
        shape = input_shape(operation)
        check_request(params, shape)
        given = pruned(params, shape)
        transaction = self._catalog.reading if operation in READS else self._catalog.writing
        with transaction() as records:
            call = Call(given, records, self._region, self._quotas)
            answer = OPERATIONS[operation](call)
        self._worker.wake()
        return answer

    def close(self) -> None:
        """Leave what is in hand to others; the service takes no more work."""
        self._worker.close()
