"""The error that the client side of Personalize raises."""

from __future__ import annotations

from collections.abc import Mapping

from batchrec_dagster.errors import UserError


class PersonalizeError(UserError):
    """Personalize refused a request, a resource failed, or it took too long.

    The message tells the user what to do. A later run may continue, but the same run is not worth
    another try.
    """

    def __init__(self, message: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.details: Mapping[str, str] = details or {}
        """The ARN, status and reason of a resource that failed; else empty."""
