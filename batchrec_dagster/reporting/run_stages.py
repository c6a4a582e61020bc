"""The stages of a Dagster run, from its event log, as `batchrec run` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from rich.table import Table
from rich.text import Text

from batchrec_dagster.reporting.failure_reasons import find_failure_reason
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
# The names of Personalize's resources in log messages are too long for a line.
ARN = re.compile(r"\s?\barn:\S+")
RECORDS_AT_ONCE = 1000
# The columns of the terminal between two columns of the table of stages.
COLUMN_GAP = 2


def name_stage(step: str) -> str:
    """What a step is called where the pipeline is known: interactions, or home/recommendations.

    step: its key, which starts with the pipeline's prefix.
    """
    return "/".join(step.split("__")[1:]) or step


@dataclass
class Stage:
    """An asset of the run. Times are in seconds since the epoch."""

    name: str
    last_duration: float | None = None
    """How many seconds it took in the last successful run; None if there was none."""
    status: str = "waiting"
    start_time: float | None = None
    """None until it starts."""
    end_time: float | None = None
    """None until it ends."""
    details: str = ""
    """What it does or did, in a line."""

    def measure_seconds(self, now: float) -> float | None:
        """How many seconds it has run, or ran; None if it has not started."""
        if self.start_time is None:
            return None
        return max(0.0, (self.end_time or now) - self.start_time)


@dataclass
class RunStages:
    """The stages of a pipeline's run. All names and messages are safe for a terminal."""

    instance: dg.DagsterInstance
    run: dg.DagsterRun
    stages: dict[str, Stage] = field(init=False)
    """The stages by the key of their step."""
    errors: list[str] = field(default_factory=list)
    """Why the run failed, each reason in a line."""
    warnings: list[str] = field(default_factory=list)
    """The warnings of checks, each in a line."""
    _cursor: str | None = None
    """How far the event log has been read."""

    def __post_init__(self) -> None:
        assert self.run.execution_plan_snapshot_id is not None
        plan = self.instance.get_execution_plan_snapshot(self.run.execution_plan_snapshot_id)
        times = _read_last_durations(self.instance, self.run.job_name)
        keys = plan.step_keys_to_execute
        self.stages = {
            key: Stage(escape_invisible(name), times.get(key))
            for key, name in zip(keys, _shorten_keys(keys), strict=True)
        }

    def update(self) -> Iterator[Stage]:
        """Read what is new in the event log.

        Yields the stages that have ended since, or that wait for another try.
        """
        has_more = True
        while has_more:
            page = self.instance.get_records_for_run(
                self.run.run_id, self._cursor, limit=RECORDS_AT_ONCE
            )
            self._cursor = page.cursor
            has_more = page.has_more
            for record in page.records:
                stage = self._process(record.event_log_entry)
                if stage is not None and stage.status in {*ENDED, "retrying"}:
                    yield stage

    def _process(self, entry: EventLogEntry) -> Stage | None:
        """Note what the entry says, and return its stage if the stage's status changed."""
        event = entry.dagster_event
        stage = self.stages.get(entry.step_key or "")
        if event is None:
            # A message that the stage logs.
            if stage is not None and stage.status == "running":
                stage.details = _make_line(ARN.sub("", entry.user_message))
        elif stage is None:
            self._process_event_of_run(event)
        elif event.event_type in STATUS:
            self._change_status(stage, event, entry.timestamp)
            return stage
        else:
            self._process_event_of_stage(stage, event)
        return None

    def _process_event_of_run(self, event: DagsterEvent) -> None:
        if event.event_type != DagsterEventType.RUN_FAILURE:
            self._add_failure_reason(event)
        elif not self.errors:
            # No stage says why, for example because the run's process was killed.
            error = getattr(event.event_specific_data, "error", None)
            message = (error.cause or error).message if error else event.message
            self.errors = [_make_line(message or "the run failed")]

    def _process_event_of_stage(self, stage: Stage, event: DagsterEvent) -> None:
        if event.event_type == DagsterEventType.ENGINE_EVENT:
            self._add_failure_reason(event)
        elif event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            metadata = event.step_materialization_data.materialization.metadata
            values = {key: value.value for key, value in metadata.items()}
            stage.details = summarize_metadata(values)
        elif event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.WARN:
                name = f"{check.check_name} of {stage.name}"
                self.warnings.append(_make_line(f"{name}: {check.description or 'failed'}"))

    def _add_failure_reason(self, event: DagsterEvent) -> None:
        failure_reason = find_failure_reason(event)
        if failure_reason:
            self.errors.append(_make_line(failure_reason))

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
            return
        failure_reason = find_failure_reason(event)
        if failure_reason:
            # Each check that failed has a line.
            self.errors += [
                f"{stage.name}: {_make_line(line)}" for line in failure_reason.splitlines() if line
            ]

    @property
    def reasons(self) -> list[str]:
        """Why the run failed, with the names of all stages that failed for the same reason."""
        names = {stage.name for stage in self.stages.values()}
        stages_by_reason: dict[str, list[str]] = {}
        for error in self.errors:
            stage, separator, reason = error.partition(": ")
            if separator and stage in names:
                stages_by_reason.setdefault(reason, []).append(stage)
            else:
                stages_by_reason.setdefault(error, [])
        return [
            f"{', '.join(stages)}: {reason}" if stages else reason
            for reason, stages in stages_by_reason.items()
        ]

    @property
    def running(self) -> list[str]:
        """The names of the stages that are running."""
        return [stage.name for stage in self.stages.values() if stage.status == "running"]

    def finish(self) -> None:
        """Mark the stages that have not ended as stopped, or as not run. Call it after the run."""
        for stage in self.stages.values():
            if stage.status not in ENDED:
                stage.status = "not run" if stage.start_time is None else "stopped"

    def build_table(self, now: float, width: int) -> Table:
        """The stages, a line each.

        now: in seconds since the epoch.
        width: the columns of the terminal.
        """
        headings = ["stage", "status", "time"]
        timed = any(stage.last_duration is not None for stage in self.stages.values())
        table = Table(box=None, pad_edge=False, expand=True, show_header=timed, header_style="dim")
        if timed:
            headings.append("last run")
        for heading in headings:
            is_time = heading in ("time", "last run")
            table.add_column(heading, justify="right" if is_time else "left", no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
        rows = []
        for stage in self.stages.values():
            cells = [Text(stage.name), Text(stage.status, style=STYLES.get(stage.status, "dim"))]
            cells.append(Text(format_duration(stage.measure_seconds(now))))
            if timed:
                cells.append(Text(format_duration(stage.last_duration), style="dim"))
            # What a stage waits for has no room here, and is below the table.
            rows.append((cells, "" if stage.status == "retrying" else stage.details))
        columns = zip(headings, *(cells for cells, _ in rows), strict=True)
        taken = sum(max(map(len, column)) + COLUMN_GAP for column in columns)
        for cells, details in rows:
            # Of "unchanged: not trained again", the first word is what matters.
            text = details if taken + len(details) <= width else details.partition(": ")[0]
            table.add_row(*cells, Text(text, no_wrap=True, overflow="ellipsis"))
        return table

    @property
    def retries(self) -> list[str]:
        """Why stages wait for another try, and for how long: a line for each such stage."""
        return [
            f"{stage.name}: {stage.details}"
            for stage in self.stages.values()
            if stage.status == "retrying"
        ]

    def format_line(self, stage: Stage) -> str:
        """A line about a stage that has ended or waits for another try, for a pipe."""
        width = max(len(other.name) for other in self.stages.values())
        time = format_duration(stage.measure_seconds(stage.end_time or 0.0))
        return f"{stage.name:<{width}}  {stage.status:<8}  {time:>9}  {stage.details}".rstrip()


def _shorten_keys(keys: Sequence[str]) -> list[str]:
    """The keys of steps without the parts that all of them start with, such as the pipeline."""
    parts = [key.split("__") for key in keys]
    shared = 0
    while all(len(own) > shared + 1 and own[shared] == parts[0][shared] for own in parts):
        shared += 1
    return ["/".join(own[shared:]) for own in parts]


def summarize_metadata(metadata: Mapping[str, Any]) -> str:
    """What an asset did, by its metadata, in a few words."""
    outcome = str(metadata.get("outcome", ""))
    rows: Any = metadata.get("dagster/row_count")
    users: Any = metadata.get("users")
    # An outcome with a reason, such as "unchanged: not trained again", says more than numbers.
    if ": " in outcome or (rows is None and users is None):
        return _make_line(outcome)
    if "rows_read" in metadata:
        return f"{rows:,} of {metadata['rows_read']:,} rows kept"
    # The outcomes have no rows until somebody has used the lists.
    if rows == 0 and users is None:
        return "nothing yet"
    if rows is None or rows == users:
        return _format_number(users, "user")
    if users is None:
        return _format_number(rows, "row")
    return f"{_format_number(rows, 'row')} for {_format_number(users, 'user')}"


def _format_number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def format_duration(seconds: float | None) -> str:
    """The duration as `0.4 s`, `12 s`, `3 min 05 s` or `2 h 10 min`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remaining_seconds:02} s" if minutes else f"{remaining_seconds} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _read_last_durations(instance: dg.DagsterInstance, job: str) -> dict[str, float]:
    """The seconds that each step took in the last successful run of the job."""
    succeeded = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS])
    for run in instance.get_runs(succeeded, limit=1):
        return {
            step.step_key: step.end_time - step.start_time
            for step in instance.get_run_step_stats(run.run_id)
            if step.start_time is not None and step.end_time is not None
        }
    return {}


def _describe_retry(event: DagsterEvent) -> str:
    """When a step is tried again, and why."""
    retry = event.step_retry_data
    cause = retry.error.cause or retry.error
    # The name of the error's class tells a user nothing.
    message = re.sub(rf"^[\w.]*{cause.cls_name}: ", "", cause.message).strip()
    if "trying again" in message:
        return message
    pause = f"in {format_duration(retry.seconds_to_wait)}" if retry.seconds_to_wait else "now"
    return f"{message}, trying again {pause}"


def _make_line(text: str) -> str:
    return escape_invisible(" ".join(text.split()))
