"""A failure with a message that says everything: Dagster records it without a Python stack.

For a `dg.Failure`, Dagster records the stack, and its web page shows the stack larger than the
message. No public API leaves out the stack. But if an error comes from a process of the user's
code, Dagster records the description that the process gave, instead of the stack. So
`ExpectedFailure` is also an error of that class, and gives a description without a stack.

Any release of Dagster may move the classes that this module imports. A test names each import that
a release has moved, and CI runs the test against the newest Dagster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.personalize.api import PersonalizeError


class _DescribedError(DagsterUserCodeProcessError):
    """An error for which Dagster records the message without a Python stack."""

    def __init__(self, description: str) -> None:
        error = SerializableErrorInfo(f"{dg.Failure.__name__}: {description}\n", [], "Failure")
        super().__init__(  # type: ignore[no-untyped-call]
            description, user_code_process_error_infos=[error]
        )


class ExpectedFailure(dg.Failure, _DescribedError):  # noqa: N818, it is a dg.Failure
    """A failure of an asset that a retry would not help. The message says how to fix it."""

    def __init__(self, description: str, metadata: Mapping[str, Any] | None = None) -> None:
        super().__init__(description, metadata=metadata, allow_retries=False)


class Interrupted(dg.DagsterExecutionInterruptedError, dg.DagsterError):
    """An interrupt of a step, which Dagster does not retry.

    Dagster applies a step's retry policy to an interrupt of the classes in `INTERRUPTS`, but not to
    a `dg.DagsterError`.
    """


INTERRUPTS = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)


def make_failure(error: UserError, retry_policy: dg.RetryPolicy | None) -> dg.Failure:
    """Return the failure of a step that a user error ended.

    retry_policy: the step's policy; None if it has none. If there is a policy and the error is a
        `Retry`, Dagster applies the policy to the failure, and records its Python stack.
    """
    metadata = error.details if isinstance(error, PersonalizeError) else None
    if isinstance(error, Retry) and retry_policy is not None:
        return dg.Failure(str(error), metadata)
    return ExpectedFailure(str(error), metadata)


@contextmanager
def errors_as_failures(retry_policy: dg.RetryPolicy | None) -> Iterator[None]:
    """Turn user errors in the block into failures, and keep Dagster from retrying an interrupt.

    retry_policy: the policy of the step that runs the block; None if the step has no policy, or if
        no step runs the block.
    """
    failure: dg.Failure | None = None
    try:
        yield
    except UserError as error:
        failure = make_failure(error, retry_policy)
    except INTERRUPTS as error:
        raise Interrupted from error
    # The raise is outside of the except block, so that Dagster records no cause.
    if failure is not None:
        raise failure
