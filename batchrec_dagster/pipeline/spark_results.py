"""The result that a Spark job reports through Dagster Pipes, and the failure of a job."""

from __future__ import annotations

import dagster as dg

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.row_rules import PreparationResult


def make_job_failure(reason: str) -> dg.Failure:
    """Return the failure of a Spark job that ran and failed."""
    return dg.Failure(f"the Spark job failed: {reason}", allow_retries=False)


def read_result(completed: dg.PipesClientCompletedInvocation) -> PreparationResult:
    """Return the result that the job reported.

    Raises UserError if the job refused the files, and dg.Failure if it reported nothing.
    """
    for message in completed.get_custom_messages():
        if "refused" in message:
            raise UserError(message["refused"])
        return PreparationResult(**message)
    raise dg.Failure("the Spark job ended without reporting a result")
