"""Personalize's documented exceptions, as a client sees them: a code and a message, HTTP 400."""

from __future__ import annotations


class ServiceError(Exception):
    """An answer that refuses a request; `code` is the exception's name in the service model."""

    code = "InternalFailure"


class InvalidInputError(ServiceError):
    """A value is not valid, or a rule of the service forbids it."""

    code = "InvalidInputException"


class SerializationError(ServiceError):
    """The request's body is not JSON."""

    code = "SerializationException"


class UnknownOperationError(ServiceError):
    """Personalize has no such operation."""

    code = "UnknownOperationException"


class AlreadyExistsError(ServiceError):
    """There is a resource of this name."""

    code = "ResourceAlreadyExistsException"

    def __init__(self, arn: str) -> None:
        super().__init__(f"Another resource with Arn {arn} already exists.")


class NotFoundError(ServiceError):
    """There is no resource of this ARN."""

    code = "ResourceNotFoundException"

    def __init__(self, arn: str) -> None:
        super().__init__(f"Resource Arn {arn} does not exist.")


class InUseError(ServiceError):
    """The resource is not ready yet, or something else needs it."""

    code = "ResourceInUseException"


class LimitExceededError(ServiceError):
    """A quota is used up."""

    code = "LimitExceededException"


class InvalidNextTokenError(ServiceError):
    """The token is not one that this operation gave."""

    code = "InvalidNextTokenException"

    def __init__(self) -> None:
        super().__init__("The next token is not valid: send the one of the page before, unchanged.")


class TooManyTagsError(ServiceError):
    """A resource would have more tags than the 50 that are allowed."""

    code = "TooManyTagsException"


class TooManyTagKeysError(ServiceError):
    """A request names more tag keys than the 50 that a resource can have."""

    code = "TooManyTagKeysException"


class JobFailedError(Exception):
    """A job ends as CREATE FAILED; the text is its `failureReason`."""
