"""A failure whose message says all: Dagster records it without the stack of Python's frames.

`dg.Failure` records the stack, and Dagster's web page shows it larger than the message. No public
API leaves it out. Dagster records an error of a process of the user's code as that process has
described it, so this failure describes itself.

Any release of Dagster may move what is imported here. A test names each import that a release has
moved, and CI runs it against the newest Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from batchrec_dagster.errors import UserError


class _DescribedError(DagsterUserCodeProcessError):
    """An error that Dagster records as its message alone."""

    def __init__(self, description: str) -> None:
        error = SerializableErrorInfo(f"{dg.Failure.__name__}: {description}\n", [], "Failure")
        super().__init__(  # type: ignore[no-untyped-call]
            description, user_code_process_error_infos=[error]
        )


class ExpectedFailure(dg.Failure, _DescribedError):  # noqa: N818, it is a dg.Failure
    """A failure of an asset that another try would not help, and whose message says what would."""

    def __init__(self, description: str, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(description, metadata=metadata, allow_retries=False)


@contextmanager
def errors_as_failures() -> Iterator[None]:
    """A block whose errors for people become expected failures."""
    failure: ExpectedFailure | None = None
    try:
        yield
    except UserError as error:
        failure = ExpectedFailure(str(error))
    # Outside of the except block, so that Dagster records no cause.
    if failure is not None:
        raise failure
