"""Personalize's documented exceptions, as a client sees them: a code and a message, HTTP 400."""

from __future__ import annotations

from batchrec_dagster.storage.object_store import StorageError


class ServiceError(Exception):
    """A refused request; `code` is the exception's name in the service model."""

    code = "InternalFailure"


class CatalogError(StorageError):
    """The catalog cannot be read or written; the message says what to do.

    No refusal of Personalize's: the embedded client raises it as it is, the server answers 500.
    """


class InvalidInputError(ServiceError):
    """A value is not valid or breaks a rule of the service."""

    code = "InvalidInputException"


class SerializationError(ServiceError):
    """The request's body is not JSON."""

    code = "SerializationException"


class UnknownOperationError(ServiceError):
    """Personalize has no such operation."""

    code = "UnknownOperationException"


class AlreadyExistsError(ServiceError):
    """A resource of this name exists."""

    code = "ResourceAlreadyExistsException"

    def __init__(self, arn: str) -> None:
        super().__init__(f"Another resource with Arn {arn} already exists.")


class NotFoundError(ServiceError):
    """No resource has this ARN."""

    code = "ResourceNotFoundException"

    def __init__(self, arn: str) -> None:
        super().__init__(f"Resource Arn {arn} does not exist.")


class InUseError(ServiceError):
    """The resource is not ready, or another resource needs it."""

    code = "ResourceInUseException"


class LimitExceededError(ServiceError):
    """A quota is used up."""

    code = "LimitExceededException"


class InvalidNextTokenError(ServiceError):
    """The token is not from the previous page of the same list."""

    code = "InvalidNextTokenException"

    def __init__(self) -> None:
        super().__init__("The next token is not valid: send the previous page's token, unchanged.")


class TooManyTagsError(ServiceError):
    """A resource would have more tags than the 50 that are allowed."""

    code = "TooManyTagsException"


class TooManyTagKeysError(ServiceError):
    """A request names more tag keys than the 50 that a resource can have."""

    code = "TooManyTagKeysException"


class JobFailedError(Exception):
    """The job ends as CREATE FAILED, with this message as its `failureReason`."""
