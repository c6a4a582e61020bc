"""Which of the runs that Dagster says are under way still live.

A run whose process was killed, or whose machine lost power, stays "started" in Dagster. Whoever
starts a run on this machine gives it a tag with the machine, and its processes record their ids
among the run's events. So the kernel can tell whether one of them still exists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from batchrec_dagster.storage.processes import (
    MACHINE_TAG,
    OLD_MACHINE_TAG,
    describe_machine,
    is_process_alive,
)

# Not NOT_STARTED: a killed daemon may leave such runs, and asking again launches them.
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# The tag of a run whose process is gone: its own id, because a retry of it inherits the tag.
DIED = "batchrec/died"
# Dagster's tags on a failed run that its daemon will retry, and on a retry.
WILL_RETRY = "dagster/will_retry"
RETRY_NUMBER = "dagster/retry_number"
# How long nothing may be known of the process of a run that is starting.
START_TIMEOUT = timedelta(minutes=10)
# After this a run counts as dead if nobody can tell, for example because it is on another machine.
DEAD_AFTER = timedelta(days=1)
# The events in which processes of a run record their ids.
PROCESS_EVENTS = {dg.DagsterEventType.ENGINE_EVENT, dg.DagsterEventType.STEP_WORKER_STARTED}


def list_living_runs(instance: dg.DagsterInstance, job: str | None = None) -> list[dg.DagsterRun]:
    """The runs under way that live, as far as anybody can tell, newest first.

    job: only runs of the job of this name.
    """
    filters = dg.RunsFilter(job_name=job, statuses=UNDER_WAY)
    records = instance.get_run_records(filters)
    return [record.dagster_run for record in records if _is_alive(instance, record)]


def _is_alive(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    is_alive = is_run_process_alive(instance, record.dagster_run)
    if is_alive is None:
        return datetime.now(UTC) - _with_time_zone(record.create_timestamp) < DEAD_AFTER
    return is_alive


def is_run_process_alive(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool | None:
    """Whether a process of the run lives; None if nobody on this machine can tell.

    A queued run has no process yet: Dagster's daemon starts it, also after a restart.
    """
    machine = _read_machine(run)
    if machine is None or run.status == dg.DagsterRunStatus.QUEUED:
        return None
    here: dict[str, str] = json.loads(describe_machine())
    if machine != here:
        # A host name with another boot is this machine, started again. Another name, or other ids
        # of processes, may belong to a container that still runs.
        host, host_here = (place["processes"].partition(" ")[0] for place in (machine, here))
        is_restarted = host == host_here and machine["boot"] != here["boot"]
        return False if is_restarted else None
    processes = list(_find_processes(instance, run))
    if processes:
        return any(is_process_alive(pid, recorded_at=time) for pid, time in processes)
    record = instance.get_run_record_by_id(run.run_id)
    if record is None:
        return False
    return datetime.now(UTC) - _with_time_zone(record.update_timestamp) < START_TIMEOUT


def _read_machine(run: dg.DagsterRun) -> dict[str, str] | None:
    """The machine of the run's processes; None if it is not recorded of this very run."""
    text = run.tags.get(MACHINE_TAG) or run.tags.get(OLD_MACHINE_TAG, "{}")
    machine: dict[str, str] = json.loads(text)
    if "run" in machine:
        return machine if machine.pop("run") == run.run_id else None
    # A command that starts a run does not know its id before.
    return machine if machine and run.parent_run_id is None else None


def has_died(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the run ended only because its process was gone, and Dagster does not retry it."""
    if run.status in UNDER_WAY:
        return is_run_process_alive(instance, run) is False
    is_retried = run.tags.get(WILL_RETRY) == "true" or RETRY_NUMBER in run.tags
    return run.is_failure and run.tags.get(DIED) == run.run_id and not is_retried


def _find_processes(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Iterator[tuple[int, float]]:
    """The id of each process of the run, and when it recorded that, in seconds since 1970."""
    for entry in instance.all_logs(run.run_id, of_type=PROCESS_EVENTS):
        event = entry.dagster_event
        metadata = getattr(event and event.event_specific_data, "metadata", None) or {}
        pid = getattr(metadata.get("pid"), "value", None)
        if isinstance(pid, str) and pid.isdecimal():
            yield int(pid), entry.timestamp


def _with_time_zone(time: datetime) -> datetime:
    """Dagster's times of records, which have no time zone in some databases: they are UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
