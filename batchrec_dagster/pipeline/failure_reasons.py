"""Reasons why a run failed, read from the events of its log."""

from __future__ import annotations

import re
from signal import Signals

from dagster import DagsterEvent, DagsterEventType

# Dagster's messages about a killed process, of a step or of a run.
_KILLED = re.compile(r"(?:for step (\S+)|process for \S+) was terminated by signal (\d+) ")
_MEMORY_FIX = (
    "memory most likely ran out. Give the machine or container more, keep fewer interactions"
    " (interactions.window), or prepare them on Spark (preparation)"
)
_DISK_FIX = "free some space; batchrec check names the disks, that of temporary files (TMPDIR) too"


def explain_signal(process: str, signal: int) -> str:
    """Return a sentence about a process that a signal killed.

    process: the name of the step or run that the process belonged to.
    """
    name = Signals(signal).name
    sentence = f"the process of {process} was killed by {name}"
    # The system kills a process with SIGKILL when memory runs out. Polars aborts with SIGABRT when
    # it cannot allocate memory.
    return f"{sentence}: {_MEMORY_FIX}" if name in ("SIGKILL", "SIGABRT") else sentence


def find_failure_reason(event: DagsterEvent) -> str | None:
    """Return why the event's step failed, or which process was killed.

    None if the event says neither.
    """
    if event.event_type == DagsterEventType.ENGINE_EVENT:
        match = _KILLED.search(event.message or "")
        return explain_signal(match[1] or "the run", int(match[2])) if match else None
    if event.event_type != DagsterEventType.STEP_FAILURE:
        return None
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description.strip()
    error = failure.error
    # For a crashed process, an event of the engine gives the reason, which is the signal.
    if error is None or error.cls_name == "ChildProcessCrashException":
        return None
    # The outer error only says that the step failed.
    cause = error.cause or error
    message = cause.message.strip()
    if "No space left on device" in message:
        return f"{message}: {_DISK_FIX}"
    if (cause.cls_name or "").endswith("MemoryError"):
        return f"{message}: {_MEMORY_FIX}"
    return message
