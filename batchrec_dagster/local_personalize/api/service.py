"""One local Personalize: a request in, an answer out, the work in the background.

The wire format is AWS JSON 1.1, as the service model's metadata says (protocol, targetPrefix).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from batchrec_dagster.storage.object_store import ObjectStore

from ..catalog.catalog import Catalog
from ..catalog.home import Home
from ..catalog.quotas import Quotas
from ..catalog.requests import ACCOUNT_ID, HEADERS, ApiRequest
from ..errors import CatalogError, InvalidInputError, ServiceError
from ..jobs.job import logger
from ..jobs.pace import JobPace
from ..jobs.worker import Worker
from ..operations.automatic_training import find_due_solutions, train_due_solutions
from ..operations.registry import KINDS, OPERATIONS, READ_OPERATIONS
from ..operations.support_table import explain_refusal
from .validation import check_request, find_input_shape, load_service_model, prune

CONTENT_TYPE = "application/x-amz-json-1.1"
TARGET_PREFIX = "AmazonPersonalize"
_UNKNOWN_OPERATION, _NOT_JSON = "UnknownOperationException", "SerializationException"
_SCHEDULE_CHECK_SECONDS = 1.0  # between looks at whether an automatic training is due

CallOperation = Callable[[str, dict[str, Any]], dict[str, Any]]


class HttpResponse(NamedTuple):
    """An HTTP response: its status, JSON body and headers."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def make(cls, content: Any, status: int = 200, **headers: str) -> HttpResponse:
        headers = {"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": str(uuid.uuid4()), **headers}
        return cls(status, json.dumps(content).encode(), headers)

    @classmethod
    def make_error(cls, status: int, code: str, message: str) -> HttpResponse:
        return cls.make({"__type": code, "message": message}, status)


def answer(service: CallOperation, target: str, body: bytes) -> HttpResponse:
    """Call the service; its errors become error responses of the protocol.

    Raises CatalogError: an embedded client's caller gets that itself.
    """
    try:
        found = service(_parse_target(target), _parse_body(body))
        headers = found.pop(HEADERS, {})
        return HttpResponse.make(found, **headers)
    except ServiceError as error:
        return HttpResponse.make_error(400, error.code, str(error))
    except CatalogError:
        raise
    except Exception:
        logger.exception("a request to the local Personalize failed: %.100r", target)
        message = "An internal error occurred; see the service's log."
        return HttpResponse.make_error(500, "InternalFailure", message)


def _parse_target(target: str) -> str:
    prefix, _, operation = target.partition(".")
    if prefix != TARGET_PREFIX or not operation:
        raise ServiceError(
            f"The header X-Amz-Target must be {TARGET_PREFIX}.<operation>, not {target[:100]!r}.",
            _UNKNOWN_OPERATION,
        )
    return operation


def _parse_body(body: bytes) -> dict[str, Any]:
    try:
        params = json.loads(body or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ServiceError("The request's body is not valid JSON.", _NOT_JSON) from None
    if not isinstance(params, dict):
        raise ServiceError("The request's body must be a JSON object.", _NOT_JSON)
    return params


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class LocalPersonalize:
    """The service on one home; several, in one process or many, may share it."""

    def __init__(
        self,
        home: Path,
        store: ObjectStore,
        *,
        region: str = "us-east-1",
        account: str = ACCOUNT_ID,
        quotas: Quotas | None = None,
        pace: JobPace | None = None,
        v2_lines: bool = False,
    ) -> None:
        """`v2_lines`: lists of aws-user-personalization-v2 have reasons and, with a filter,
        placeholders without scores at their end, as AWS documents them."""
        folders = Home(home.absolute())
        self.region, self._account, self._v2_lines = region, account, v2_lines
        self._quotas = quotas or Quotas()
        self._catalog = Catalog(folders.catalog, has_data=folders.has_data)
        self._worker = Worker(self._catalog, folders, store, KINDS, pace or JobPace())
        self._next_schedule_check = 0.0
        self._worker.wake()  # resume the jobs of earlier processes

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer one request. Raises ServiceError, CatalogError."""
        self._worker.raise_failure()
        if operation not in load_service_model().operation_names:
            raise ServiceError(
                f"Amazon Personalize has no operation {operation!r}.", _UNKNOWN_OPERATION
            )
        if operation not in OPERATIONS:
            raise InvalidInputError(explain_refusal(operation))
        self._train_when_due()
        shape = find_input_shape(operation)
        check_request(params, shape)
        given = prune(params, shape)
        catalog = self._catalog
        opened = (
            catalog.open_for_reading()
            if operation in READ_OPERATIONS
            else catalog.open_for_writing()
        )
        with opened as transaction:
            request = ApiRequest(
                given, transaction, self.region, self._quotas, self._account, self._v2_lines
            )
            answer = OPERATIONS[operation](request)
        self._worker.wake()
        return answer

    def _train_when_due(self) -> None:
        """Start automatic trainings, at the first request after they are due."""
        if time.monotonic() < self._next_schedule_check:
            return
        self._next_schedule_check = time.monotonic() + _SCHEDULE_CHECK_SECONDS
        with self._catalog.open_for_reading() as transaction:
            due = find_due_solutions(transaction)
        if due:
            with self._catalog.open_for_writing() as transaction:
                train_due_solutions(transaction)

    def close(self) -> None:
        """Stop running jobs, for another process to resume."""
        self._worker.close()
