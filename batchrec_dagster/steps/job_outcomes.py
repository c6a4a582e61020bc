"""What a finished job says of itself: whether this run started it, and how long it took."""

from __future__ import annotations

from batchrec_dagster.personalize.ensure import ReadyResource


def describe_outcome(job: ReadyResource, action: str) -> str:
    """`imported` if this run did it, else `unchanged: not imported again`.

    Of a request whose answer was lost it says `adopted`.
    action: what the job does, as a participle: imported.
    """
    if job.adopted:
        return f"adopted: {action} by a request of which no answer came"
    return action if job.created else f"unchanged: not {action} again"


def measure_job_seconds(job: ReadyResource) -> float:
    """How many seconds the job took, in whichever run that was."""
    times = job.description
    seconds: float = (times["lastUpdatedDateTime"] - times["creationDateTime"]).total_seconds()
    return seconds
