"""A failure with a message that says everything: Dagster records it without a Python stack.

`dg.Failure` records the stack, and Dagster's web page shows the stack larger than the message. No
public API leaves it out. If an error comes from a process of the user's code, Dagster records the
description that the process gave. So this failure describes itself.

Any release of Dagster may move the imports of this module. A test names each import that a release
has moved, and CI runs the test against the newest Dagster.
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
    """An error for which Dagster records only the message."""

    def __init__(self, description: str) -> None:
        error = SerializableErrorInfo(f"{dg.Failure.__name__}: {description}\n", [], "Failure")
        super().__init__(  # type: ignore[no-untyped-call]
            description, user_code_process_error_infos=[error]
        )


class ExpectedFailure(dg.Failure, _DescribedError):  # noqa: N818, it is a dg.Failure
    """A failure of an asset that a retry would not help. The message says how to fix it."""

    def __init__(self, description: str, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(description, metadata=metadata, allow_retries=False)


@contextmanager
def errors_as_failures() -> Iterator[None]:
    """Turn user errors in the block into expected failures."""
    failure: ExpectedFailure | None = None
    try:
        yield
    except UserError as error:
        failure = ExpectedFailure(str(error))
    # Raised outside of the except block, so that Dagster records no cause.
    if failure is not None:
        raise failure
