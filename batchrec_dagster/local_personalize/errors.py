"""The exceptions that Amazon Personalize documents, and this service's own exceptions.

A client sees a ServiceError as HTTP status 400, with the code and the message.
"""

from __future__ import annotations

from batchrec_dagster.errors import UserError


class ServiceError(Exception):
    """A request that is refused."""

    code = "InternalFailure"
    """The name of the exception in the service model."""

    def __init__(self, message: str, code: str | None = None) -> None:
        """Set the message and the code.

        code: the name of an exception that has no class here; None for the code of this class.
        """
        super().__init__(message)
        self.code = code or self.code


class CatalogueError(UserError):
    """The catalogue cannot be read or written. The message says what to do.

    Amazon Personalize has no such exception. The embedded client raises it unchanged, and the
    server answers with HTTP status 500.
    """


class InvalidInputError(ServiceError):
    """A value is not valid or breaks a rule of the service."""

    code = "InvalidInputException"


class AlreadyExistsError(ServiceError):
    """A resource with this name exists already."""

    code = "ResourceAlreadyExistsException"

    def __init__(self, arn: str) -> None:
        super().__init__(f"Another resource with Arn {arn} already exists.")


class ResourceNotFoundError(ServiceError):
    """There is no resource with this ARN."""

    code = "ResourceNotFoundException"

    def __init__(self, arn: str) -> None:
        super().__init__(f"Resource Arn {arn} does not exist.")


class InUseError(ServiceError):
    """The resource is not ready, or another resource needs it."""

    code = "ResourceInUseException"


class JobFailedError(Exception):
    """A job cannot be done. It ends as CREATE FAILED, with this message as its `failureReason`."""
