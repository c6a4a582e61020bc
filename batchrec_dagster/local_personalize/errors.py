"""Personalize's documented exceptions, as a client sees them: a code and a message, HTTP 400."""

from __future__ import annotations

from batchrec_dagster.storage.object_store import StorageError


class ServiceError(Exception):
    """A refused request; `code` is the exception's name in the service model."""

    code = "InternalFailure"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code


class CatalogError(StorageError):
    """The catalog cannot be read or written; the message says what to do.

    No refusal of Personalize's: the embedded client raises it as it is, the server answers 500.
    """


class InvalidInputError(ServiceError):
    """A value is not valid or breaks a rule of the service."""

    code = "InvalidInputException"


class AlreadyExistsError(ServiceError):
    """A resource of this name exists."""

    code = "ResourceAlreadyExistsException"

    def __init__(self, arn: str) -> None:
        super().__init__(f"Another resource with Arn {arn} already exists.")


class ResourceNotFoundError(ServiceError):
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


class JobFailedError(Exception):
    """The job ends as CREATE FAILED, with this message as its `failureReason`."""
