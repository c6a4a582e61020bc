"""A Dagster run from its event log: the stages as `batchrec run` shows them, and why it failed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from rich.table import Table
from rich.text import Text

from batchrec_dagster.reporting.terminal import escape_invisible

STATUS = {
    DagsterEventType.STEP_START: "running",
    DagsterEventType.STEP_RESTARTED: "running",
    DagsterEventType.STEP_UP_FOR_RETRY: "retrying",
    DagsterEventType.STEP_SUCCESS: "done",
    DagsterEventType.STEP_FAILURE: "failed",
    DagsterEventType.STEP_SKIPPED: "skipped",
}
ENDED = {"done", "failed", "stopped", "skipped"}
STYLES = {"running": "bold", "retrying": "yellow", "done": "green", "failed": "bold red"}
# In log messages, names of resources in Personalize are too long for a line.
ARN = re.compile(r"\s?\barn:\S+")
RECORDS_AT_ONCE = 1000


@dataclass
class Stage:
    """One asset of the run. last_time: seconds that it took in the last successful run."""

    name: str
    last_duration: float | None = None
    status: str = "waiting"
    start_time: float | None = None
    end_time: float | None = None
    details: str = ""

    def measure_seconds(self, now: float) -> float | None:
        """How long it has run, or ran; None if it has not started."""
        return (
            None if self.start_time is None else max(0.0, (self.end_time or now) - self.start_time)
        )


@dataclass
class RunStages:
    """The stages of a pipeline's run. errors: why it failed; warnings: of checks; each in a line.

    Names and messages are safe for a terminal.
    """

    instance: dg.DagsterInstance
    run: dg.DagsterRun
    stages: dict[str, Stage] = field(init=False)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _cursor: str | None = None

    def __post_init__(self) -> None:
        assert self.run.execution_plan_snapshot_id is not None
        plan = self.instance.get_execution_plan_snapshot(self.run.execution_plan_snapshot_id)
        times = _read_last_durations(self.instance, self.run.job_name)
        self.stages = {
            key: Stage(escape_invisible(key.partition("__")[2] or key), times.get(key))
            for key in plan.step_keys_to_execute
        }

    def update(self) -> Iterator[Stage]:
        """Read what is new in the event log; the stages that have ended since, or wait for another
        try."""
        more = True
        while more:
            page = self.instance.get_records_for_run(
                self.run.run_id, self._cursor, limit=RECORDS_AT_ONCE
            )
            self._cursor, more = page.cursor, page.has_more
            for record in page.records:
                stage = self._process(record.event_log_entry)
                if stage is not None and stage.status in {*ENDED, "retrying"}:
                    yield stage

    def _process(self, entry: EventLogEntry) -> Stage | None:
        """Note what the entry says; returns its stage if the stage's status changed."""
        event, stage = entry.dagster_event, self.stages.get(entry.step_key or "")
        if event is None or stage is None:
            if stage is not None and stage.status == "running":
                stage.details = _make_line(ARN.sub("", entry.user_message))
            elif event is not None and event.event_type == DagsterEventType.RUN_FAILURE:
                # Unless a stage says why: its process was killed, for example.
                error = getattr(event.event_specific_data, "error", None)
                message = (error.cause or error).message if error else event.message
                self.errors = self.errors or [_make_line(message or "the run failed")]
            elif event is not None and (failure_reason := find_failure_reason(event)):
                self.errors.append(_make_line(failure_reason))
            return None
        if event.event_type == DagsterEventType.ENGINE_EVENT and (
            failure_reason := find_failure_reason(event)
        ):
            self.errors.append(_make_line(failure_reason))
            return None
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            metadata = event.step_materialization_data.materialization.metadata
            stage.details = summarize_metadata(
                {key: value.value for key, value in metadata.items()}
            )
        elif event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.WARN:
                what = f"{check.check_name} of {stage.name}"
                self.warnings.append(_make_line(f"{what}: {check.description or 'failed'}"))
        elif event.event_type in STATUS:
            self._change_status(stage, event, entry.timestamp)
            return stage
        return None

    def _change_status(self, stage: Stage, event: DagsterEvent, timestamp: float) -> None:
        stage.status = STATUS[event.event_type]
        if stage.status == "running":
            stage.start_time = stage.start_time or timestamp
        if stage.status == "retrying":
            stage.details = _make_line(_describe_retry(event))
        stage.end_time = timestamp if stage.status in {*ENDED, "retrying"} else None
        if stage.status != "failed":
            return
        error = event.step_failure_data.error
        stage.details = ""
        if error is not None and error.cls_name == "DagsterExecutionInterruptedError":
            stage.status = "stopped"
        elif failure_reason := find_failure_reason(event):
            self.errors.append(f"{stage.name}: {_make_line(failure_reason)}")

    @property
    def running(self) -> list[str]:
        """The names of the stages that run."""
        return [stage.name for stage in self.stages.values() if stage.status == "running"]

    def finish(self) -> None:
        """Call it when the run has ended: what has not started is not run."""
        for stage in self.stages.values():
            if stage.status not in ENDED:
                stage.status = "not run" if stage.start_time is None else "stopped"

    def build_table(self, now: float) -> Table:
        """The stages, a line each. now: seconds since the epoch."""
        timed = any(stage.last_duration is not None for stage in self.stages.values())
        table = Table(box=None, pad_edge=False, expand=True, show_header=timed, header_style="dim")
        table.add_column("stage", no_wrap=True)
        table.add_column("status", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        if timed:
            table.add_column("last run", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
        for stage in self.stages.values():
            cells = [Text(stage.name), Text(stage.status, style=STYLES.get(stage.status, "dim"))]
            cells.append(Text(format_duration(stage.measure_seconds(now))))
            if timed:
                cells.append(Text(format_duration(stage.last_duration), style="dim"))
            table.add_row(*cells, Text(stage.details, no_wrap=True, overflow="ellipsis"))
        return table

    def format_line(self, stage: Stage) -> str:
        """A stage that has ended, or waits for another try, for a pipe."""
        width = max(len(other_stage.name) for other_stage in self.stages.values())
        time = format_duration(stage.measure_seconds(stage.end_time or 0.0))
        return f"{stage.name:<{width}}  {stage.status:<8}  {time:>9}  {stage.details}".rstrip()


def summarize_metadata(metadata: Mapping[str, Any]) -> str:
    """What an asset's metadata says that it did, in a few words."""
    outcome, rows = str(metadata.get("outcome", "")), metadata.get("dagster/row_count")
    users: Any = metadata.get("users")
    if ": " in outcome or (rows is None and users is None):  # "unchanged: not trained again"
        return _make_line(outcome)
    if "rows_read" in metadata:
        return f"{rows:,} of {metadata['rows_read']:,} rows kept"
    if rows == 0 and users is None:  # outcomes, before anybody has used the lists
        return "nothing yet"
    if rows is None or rows == users:
        return _format_number(users, "user")
    return _format_number(rows, "row") + (
        "" if users is None else f" for {_format_number(users, 'user')}"
    )


def _format_number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def format_duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s` or `2 h 10 min`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remaining_seconds:02} s" if minutes else f"{remaining_seconds} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _read_last_durations(instance: dg.DagsterInstance, job: str) -> dict[str, float]:
    succeeded = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
    for run in instance.get_runs(succeeded, limit=1):
        return {
            step.step_key: step.end_time - step.start_time
            for step in instance.get_run_step_stats(run.run_id)
            if step.start_time is not None and step.end_time is not None
        }
    return {}


def _describe_retry(event: DagsterEvent) -> str:
    """When a step is tried again, and why, without the name of the error's class."""
    retry = event.step_retry_data
    cause = retry.error.cause or retry.error
    message = re.sub(rf"^[\w.]*{cause.cls_name}: ", "", cause.message)
    pause = f"in {format_duration(retry.seconds_to_wait)}" if retry.seconds_to_wait else "now"
    return f"tries again {pause}: {message}"


def _make_line(text: str) -> str:
    return escape_invisible(" ".join(text.split()))


# As Dagster says it of a run's process, and of a step's.
_KILLED = re.compile(r"(?:for step (\S+)|process for \S+) was terminated by signal (\d+) ")
_MEMORY = (
    "memory most likely ran out. Give the machine or container more, keep fewer interactions"
    " (interactions.window), or prepare them on Spark (preparation)"
)
_DISK = "free some space; batchrec doctor names the disks, that of temporary files (TMPDIR) too"


def explain_signal(what: str, signal: int) -> str:
    """What to say of a process that a signal ended. SIGABRT: Polars could not allocate memory."""
    name = Signals(signal).name
    sentence = f"the process of {what} was killed by {name}"
    return f"{sentence}: {_MEMORY}" if name in ("SIGKILL", "SIGABRT") else sentence


def find_failure_reason(event: DagsterEvent) -> str | None:
    """Why the step of this event failed, or what was killed; None if the event says neither."""
    if event.event_type == DagsterEventType.ENGINE_EVENT:
        match = _KILLED.search(event.message or "")
        return explain_signal(match[1] or "the run", int(match[2])) if match else None
    if event.event_type != DagsterEventType.STEP_FAILURE:
        return None
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description.strip()
    error = failure.error
    if error is None or error.cls_name == "ChildProcessCrashException":  # see ENGINE_EVENT
        return None
    # The outer error only says that the step failed.
    cause = error.cause or error
    fix = _MEMORY if (cause.cls_name or "").endswith("MemoryError") else ""
    fix = _DISK if "No space left on device" in cause.message else fix
    return f"{cause.message.strip()}{fix and ': '}{fix}"
