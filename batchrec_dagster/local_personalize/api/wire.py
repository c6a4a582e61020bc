"""AWS JSON 1.1: the bytes of a request to an operation's parameters, and its answer to bytes.

Source: the service model's metadata (protocol json, jsonVersion 1.1, targetPrefix) and the AWS
JSON 1.1 protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from batchrec_dagster.local_personalize.errors import (
    SerializationError,
    ServiceError,
    UnknownOperationError,
)
from batchrec_dagster.local_personalize.jobs.job import logger

CONTENT_TYPE = "application/x-amz-json-1.1"
TARGET_PREFIX = "AmazonPersonalize"

Service = Callable[[str, dict[str, Any]], dict[str, Any]]


class Answer(NamedTuple):
    """An HTTP status and a JSON body."""

    status: int
    body: bytes


def answer(service: Service, target: str, body: bytes) -> Answer:
    """Hands a request to the service. Whatever happens, the answer is one of the protocol's."""
    try:
        return Answer(200, json.dumps(service(_operation(target), _params(body))).encode())
    except ServiceError as error:
        return _refusal(400, error.code, str(error))
    except Exception:
        logger.exception("a request to the local Personalize failed: %.100r", target)
        return _refusal(
            500, "InternalFailure", "An internal error occurred; see the service's log."
        )


def _refusal(status: int, code: str, message: str) -> Answer:
    return Answer(status, json.dumps({"__type": code, "message": message}).encode())


def _operation(target: str) -> str:
    prefix, _, operation = target.partition(".")
    if prefix != TARGET_PREFIX or not operation:
        raise UnknownOperationError(
            f"The header X-Amz-Target must be {TARGET_PREFIX}.<operation>, not {target[:100]!r}."
        )
    return operation


def _params(body: bytes) -> dict[str, Any]:
    try:
        params = json.loads(body or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise SerializationError("The request's body is not valid JSON.") from None
    if not isinstance(params, dict):
        raise SerializationError("The request's body must be a JSON object.")
    return params


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
