"""Outputs of batch jobs that no table can be made from: each is made again, once in a run.

A rejected output is marked, so that no run adopts its job. The run that rejects it starts another
job at once; if that output is rejected too, the run fails, and the next one starts a new job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from batchrec_dagster.steps.checks import CheckResult, FailedChecksError, require_passed
from batchrec_dagster.steps.errors import StepError

if TYPE_CHECKING:
    from batchrec_dagster.steps.batch_jobs import JobOutput

Jobs = TypeVar("Jobs")
Table = TypeVar("Table")

NEXT_RUN = "Another job of this run gave no better output; run again: the next run starts a new one"


class RejectedOutputsError(Exception):
    """Some jobs' outputs cannot be used, and are marked. Other jobs can make them again.

    outputs: those that cannot be used.
    error: what is wrong with them.
    """

    def __init__(self, outputs: Sequence[JobOutput], error: StepError | FailedChecksError) -> None:
        super().__init__(str(error))
        self.outputs = outputs
        self.error = error

    @property
    def checks(self) -> Sequence[CheckResult]:
        """The verdicts on the outputs; none if they could not be read."""
        return self.error.checks if isinstance(self.error, FailedChecksError) else []

    @property
    def reason(self) -> str:
        """What is wrong, in words."""
        findings = [check.finding for check in self.checks if _rejects(check)]
        return "; ".join(findings) or str(self.error)

    def make_final_error(self) -> StepError | FailedChecksError:
        """The error that stops a run which has made the outputs again already."""
        if isinstance(self.error, StepError):
            return StepError(f"{self.error}. {NEXT_RUN}")
        return FailedChecksError(
            [
                replace(check, finding=f"{check.finding}. {NEXT_RUN}") if _rejects(check) else check
                for check in self.checks
            ]
        )


def _rejects(check: CheckResult) -> bool:
    """Whether the check failed because of what a batch job wrote."""
    return check.blocks and check.makes_output_unusable


def require_usable(
    outputs: Sequence[JobOutput], checks: Sequence[CheckResult], rejected: Collection[int]
) -> None:
    """Raise if one of the checks blocks.

    rejected: the places of the outputs that the checks fail because of, and that another job may
        make better.
    Raises RejectedOutputsError, or FailedChecksError if another job would not help.
    """
    if not any(map(_rejects, checks)):
        require_passed(checks)
        return
    rejected_outputs = [outputs[place] for place in sorted(rejected)]
    # Without any, the next run may try all of them again.
    unusable_outputs = rejected_outputs or outputs
    folders = " and ".join(output.storage.where(output.folder) for output in unusable_outputs)
    located_checks = [
        replace(check, finding=f"{folders}: {check.finding}") if _rejects(check) else check
        for check in checks
    ]
    error = FailedChecksError(located_checks)
    reason = "; ".join(check.finding for check in checks if _rejects(check))
    for output in unusable_outputs:
        output.mark_damaged(reason)
    if rejected_outputs:
        raise RejectedOutputsError(rejected_outputs, error)
    raise error


def make_table(
    jobs: Jobs,
    read: Callable[[Jobs], Table],
    start_again: Callable[[Jobs, Sequence[JobOutput]], Jobs],
    log: logging.Logger,
) -> tuple[Jobs, Table]:
    """The table that `read` makes of the jobs' outputs, and the jobs that made it.

    read: raises RejectedOutputsError if outputs cannot be used.
    start_again: returns the finished jobs with new ones in the place of those of these outputs.
        Raises FailedChecksError if the budget does not allow them.
    Raises FailedChecksError or StepError if the new outputs cannot be used either.
    """
    try:
        return jobs, read(jobs)
    except RejectedOutputsError as rejection:
        log.warning(f"{rejection.reason}. Another job makes this output again")
        try:
            jobs = start_again(jobs, rejection.outputs)
        except FailedChecksError as refusal:
            # The budget does not allow another job: say what it was for too.
            raise FailedChecksError([*rejection.checks, *refusal.checks]) from refusal
    try:
        return jobs, read(jobs)
    except RejectedOutputsError as rejection:
        raise rejection.make_final_error() from rejection
