"""How long jobs take at least, to rehearse the waiting that AWS asks for."""

from __future__ import annotations

from dataclasses import dataclass

from ..catalog.kinds import JobQueue

# About how long the jobs of each queue take on AWS, from the request to ACTIVE.
_AWS_MINUTES = {
    JobQueue.QUICK: 1.0,
    JobQueue.IMPORT: 8.0,
    JobQueue.TRAINING: 20.0,
    JobQueue.INFERENCE: 30.0,
    # "Up to a day", by the developer guide.
    JobQueue.DELETION: 24 * 60.0,
}
# The part of that time in which the job has not started yet.
_PENDING_SHARE = 0.25


@dataclass(frozen=True)
class JobPace:
    """How long jobs take here, compared with AWS."""

    aws_time_share: float = 0.0
    """The least share of AWS's time: 0 for no delay, 1 for all of it."""

    def pending_seconds(self, queue: JobQueue) -> float:
        """Return the least time between the request and the start of the job."""
        return self._total_seconds(queue) * _PENDING_SHARE

    def in_progress_seconds(self, queue: JobQueue) -> float:
        """Return the least time that a job runs."""
        return self._total_seconds(queue) * (1 - _PENDING_SHARE)

    def _total_seconds(self, queue: JobQueue) -> float:
        return 60 * _AWS_MINUTES[queue] * self.aws_time_share
