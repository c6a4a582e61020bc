"""The service of a local Personalize, which answers requests and runs jobs in the background.

The wire format is AWS JSON 1.1, as the service model's metadata says (protocol, targetPrefix).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from batchrec_dagster.personalize.measurements import HEADER
from batchrec_dagster.personalize.schemas import FILTER_HISTORY, MAX_EVENT_TYPES
from batchrec_dagster.storage.objects import ObjectStore

from .. import ACCOUNT_ID, REGION
from ..catalogue import Catalogue
from ..errors import CatalogueError, InvalidInputError, ServiceError
from ..home import Home, remove_path
from ..jobs import JobLock, Jobs, fail_dead_jobs, logger, remove_unnamed_files
from ..operations.registry import find_operation
from ..resources import HEADERS, ApiRequest
from .validation import check_request, load_service_model, prune

CONTENT_TYPE = "application/x-amz-json-1.1"
TARGET_PREFIX = "AmazonPersonalize"

# The error codes for malformed requests.
_UNKNOWN_OPERATION, _NOT_JSON = "UnknownOperationException", "SerializationException"


class HttpResponse(NamedTuple):
    """A response to the client."""

    status: int
    body: bytes
    """The content as JSON."""
    headers: Mapping[str, str]

    @classmethod
    def make(cls, content: Any, status: int = 200, **headers: str) -> HttpResponse:
        """Return a response with a new request id.

        content: written to the body as JSON.
        """
        headers = {"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": str(uuid.uuid4()), **headers}
        return cls(status, json.dumps(content).encode(), headers)

    @classmethod
    def make_error(cls, status: int, code: str, message: str) -> HttpResponse:
        """Return an error response of the protocol.

        code: the name of the exception in the service model.
        """
        return cls.make({"__type": code, "message": message}, status)


def _parse_target(target: str) -> str:
    """Return the operation's name. Raises ServiceError."""
    prefix, _, operation = target.partition(".")
    if prefix != TARGET_PREFIX or not operation:
        raise ServiceError(
            f"The header X-Amz-Target must be {TARGET_PREFIX}.<operation>, not {target[:100]!r}.",
            _UNKNOWN_OPERATION,
        )
    return operation


def _parse_body(body: bytes) -> dict[str, Any]:
    """Return the request's parameters. Raises ServiceError."""
    try:
        params = json.loads(body or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ServiceError("The request's body is not valid JSON.", _NOT_JSON) from None
    if not isinstance(params, dict):
        raise ServiceError("The request's body must be a JSON object.", _NOT_JSON)
    return params


def _parse_success(header: str) -> list[str]:
    """Return the event types that metrics count. Raises ServiceError.

    header: a JSON array of event types. If empty, metrics count all events.
    """
    try:
        names = json.loads(header or "[]")
    except (ValueError, RecursionError):
        names = None
    is_list = isinstance(names, list) and len(names) <= MAX_EVENT_TYPES
    if not is_list or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(
            f"The header {HEADER} must be a JSON array of at most {MAX_EVENT_TYPES} event types."
        )
    return list(names)


def _refuse_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN and Infinity, which Python's JSON reader accepts by default."""
    raise ValueError(f"{name} is not JSON")


class LocalPersonalize:
    """The service on a home. Several services, even in different processes, may share a home."""

    def __init__(
        self,
        home: Path,
        store: ObjectStore,
        *,
        region: str = REGION,
        account: str = ACCOUNT_ID,
        filter_interactions: int = FILTER_HISTORY,
    ) -> None:
        """Open or create the home, and mark the jobs of ended processes as failed.

        store: the store of the S3 objects that requests name.
        region, account: the region and account in the ARNs of new resources.
        filter_interactions: the number of a user's latest interactions of an event type that a
            filter considers.

        Raises CatalogueError, and OSError if the folder cannot be created.
        """
        self._home = Home(home.absolute())
        self.region = region
        self._account = account
        self._filter_interactions = filter_interactions
        self._catalogue = Catalogue(self._home.catalogue, has_data=self._home.has_data)
        self._jobs = Jobs(self._catalogue, self._home, store)
        fail_dead_jobs(self._catalogue, self._home)
        remove_unnamed_files(self._catalogue, self._home)

    def answer(self, target: str, body: bytes, success: str = "") -> HttpResponse:
        """Return the response to an HTTP request. Errors become error responses of the protocol.

        target: the header X-Amz-Target, which names the operation.
        body: the request's JSON.
        success: the value of the header HEADER; empty if the request has no such header.

        Raises CatalogueError, which the embedded client passes on unchanged.
        """
        try:
            operation, params = _parse_target(target), _parse_body(body)
            content = self.call(operation, params, _parse_success(success))
            headers = content.pop(HEADERS, {})
            return HttpResponse.make(content, **headers)
        except ServiceError as error:
            return HttpResponse.make_error(400, error.code, str(error))
        except CatalogueError:
            raise
        except Exception:
            logger.exception("a request to the local Personalize failed: %.100r", target)
            message = "An internal error occurred; see the service's log."
            return HttpResponse.make_error(500, "InternalFailure", message)

    def call(
        self,
        operation: str,
        params: dict[str, Any],
        success: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return the members of the response to a request.

        operation: the operation's name, such as CreateSchema.
        params: the request's members, which are validated here.
        success: the event types that metrics count. If empty, metrics count all events.

        Raises ServiceError if the request is refused, and CatalogueError.
        """
        model = load_service_model()
        if operation not in model.operation_names:
            raise ServiceError(
                f"Amazon Personalize has no operation {operation!r}.", _UNKNOWN_OPERATION
            )
        shape = model.operation_model(operation).input_shape
        assert shape is not None
        check_request(params, shape)
        fail_dead_jobs(self._catalogue, self._home)
        is_reading = operation.startswith(("Describe", "List", "Get"))
        open_transaction = (
            self._catalogue.open_for_reading if is_reading else self._catalogue.open_for_writing
        )
        locks: list[JobLock] = []

        def take_lock() -> str:
            locks.append(JobLock(self._home.locks))
            return locks[-1].name

        try:
            with open_transaction() as transaction:
                request = ApiRequest(
                    params=prune(params, shape),
                    transaction=transaction,
                    home=self._home.root,
                    region=self.region,
                    account=self._account,
                    filter_interactions=self._filter_interactions,
                    success=success,
                    take_lock=take_lock,
                )
                response = find_operation(operation)(request)
        except BaseException:
            for lock in locks:
                lock.release()
            raise
        # If the process is killed before it removes the files, the next service on this home
        # removes them.
        for path in request.files_to_remove:
            remove_path(self._home.root / path)
        for (kind, resource), lock in zip(request.started, locks, strict=True):
            self._jobs.start(kind, resource, lock)
        return response

    def close(self) -> None:
        """Stop running jobs. Their resources fail."""
        self._jobs.close()
