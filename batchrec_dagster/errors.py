"""The errors that people can act on. Every other exception is a bug, and keeps its traceback.

It imports nothing of the package, so that any process can raise and catch them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """Something cannot be done as things are. The message says why, and what to do.

    A subclass exists only where some code has to tell its errors from the others.
    """


class Retry(UserError):  # noqa: N818, a later try may mend it
    """Something cannot be done now, but a later try may succeed."""


class Refused(Exception):  # noqa: N818, it is a verdict rather than an error
    """A step stopped because one of its checks blocks what comes after it."""

    def __init__(self, findings: Sequence[Any]) -> None:
        """findings: the verdicts of all checks of the step, those that passed among them."""
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings
