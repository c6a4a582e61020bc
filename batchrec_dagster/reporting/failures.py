"""Why a run failed, from its event log: what a step says, or which signal killed a process."""

from __future__ import annotations

import re
from signal import Signals

from dagster import DagsterEvent, DagsterEventType

# As Dagster says it of a run's process, and of a step's.
_KILLED = re.compile(r"(?:for step (\S+)|process for \S+) was terminated by signal (\d+) ")
_MEMORY = (
    "memory most likely ran out. Give the machine or container more, keep fewer interactions"
    " (interactions.window), or prepare them on Spark (preparation)"
)
_DISK = "free some space; batchrec doctor names the disks, that of temporary files (TMPDIR) too"


def killed(what: str, signal: int) -> str:
    """What to say of a process that a signal ended. SIGABRT: Polars could not allocate memory."""
    name = Signals(signal).name
    said = f"the process of {what} was killed by {name}"
    return f"{said}: {_MEMORY}" if name in ("SIGKILL", "SIGABRT") else said


def reason(event: DagsterEvent) -> str | None:
    """Why the step of this event failed, or what was killed; None if the event says neither."""
    if event.event_type == DagsterEventType.ENGINE_EVENT:
        found = _KILLED.search(event.message or "")
        return killed(found[1] or "the run", int(found[2])) if found else None
    if event.event_type != DagsterEventType.STEP_FAILURE:
        return None
    failed = event.step_failure_data
    if failed.user_failure_data is not None and failed.user_failure_data.description:
        return failed.user_failure_data.description.strip()
    error = failed.error
    if error is None or error.cls_name == "ChildProcessCrashException":  # see ENGINE_EVENT
        return None
    # The outer error only says that the step failed.
    cause = error.cause or error
    fix = _MEMORY if (cause.cls_name or "").endswith("MemoryError") else ""
    fix = _DISK if "No space left on device" in cause.message else fix
    return f"{cause.message.strip()}{fix and ': '}{fix}"
