"""The errors that users can act on. Every other exception is a bug, and keeps its traceback.

This module imports nothing from the package, so any process can raise and catch these errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong and what to do.

    A subclass exists only where some code has to tell its errors from other user errors.
    """


class Retry(UserError):  # noqa: N818, a later try may mend it
    """A temporary error: a later try may succeed."""


class Refused(Exception):  # noqa: N818, it is a verdict rather than an error
    """A step stopped because one of its checks blocks the steps after it."""

    def __init__(self, findings: Sequence[Any]) -> None:
        """Keep the findings and join them into the message.

        findings: the verdicts of all checks of the step, including the checks that passed.
        """
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings
