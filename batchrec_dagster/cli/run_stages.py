"""The stages of a Dagster run, read from its event log, as `batchrec run` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, EventLogEntry

from batchrec_dagster.pipeline.failure_reasons import find_failure_reason
from batchrec_dagster.reporting.insight.numbers import format_duration
from batchrec_dagster.reporting.insight.stages import (
    ENDED,
    Stage,
    StageStatus,
    name_stage,
    summarize_metadata,
)

STATUS: Mapping[DagsterEventType, StageStatus] = {
    DagsterEventType.STEP_START: "running",
    DagsterEventType.STEP_RESTARTED: "running",
    DagsterEventType.STEP_UP_FOR_RETRY: "retrying",
    DagsterEventType.STEP_SUCCESS: "done",
    DagsterEventType.STEP_FAILURE: "failed",
    DagsterEventType.STEP_SKIPPED: "skipped",
}
# The stage that carries out each option. When the stage is done, the command that continues the run
# does not need the option any more.
STAGES_OF_OPTIONS = {"--import": "personalize_dataset", "--train": "solution_version"}
# The ARNs of Personalize's resources in log messages are too long for a line.
ARN = re.compile(r"\s?\barn:\S+")
RECORDS_AT_ONCE = 1000


@dataclass
class RunStages:
    """The stages of a pipeline's run."""

    instance: dg.DagsterInstance
    run: dg.DagsterRun
    stages: dict[str, Stage] = field(init=False)
    """The stages by step key."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """The reasons for the run's failure, each with the name of its stage.

    The name is empty if the reason concerns the whole run.
    """
    warnings: list[str] = field(default_factory=list)
    """The warnings of asset checks, one line each."""
    _cursor: str | None = None
    """The position in the event log from which to read on."""

    def __post_init__(self) -> None:
        assert self.run.execution_plan_snapshot_id is not None
        plan = self.instance.get_execution_plan_snapshot(self.run.execution_plan_snapshot_id)
        self.stages = {key: Stage(name_stage(key)) for key in plan.step_keys_to_execute}

    def update(self) -> Iterator[Stage]:
        """Read the new entries of the event log.

        Yields the stages that have ended, or wait for a retry, since the last call.
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
                if stage is not None and stage.status in (*ENDED, "retrying"):
                    yield stage

    def _process(self, entry: EventLogEntry) -> Stage | None:
        """Apply a log entry, and return its stage if the entry changed the stage's status."""
        event = entry.dagster_event
        stage = self.stages.get(entry.step_key or "")
        if event is None:
            # An entry without an event is a message that the stage logged.
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
            # No stage has given a reason, for example because the run's process was killed.
            error = getattr(event.event_specific_data, "error", None)
            message = (error.cause or error).message if error else event.message
            self.errors = [("", _make_line(message or "the run failed"))]

    def _process_event_of_stage(self, stage: Stage, event: DagsterEvent) -> None:
        if event.event_type == DagsterEventType.ENGINE_EVENT:
            self._add_failure_reason(event)
        elif event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            metadata = event.step_materialization_data.materialization.metadata
            values = {key: value.value for key, value in metadata.items()}
            stage.details = _make_line(summarize_metadata(values))
        elif event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.WARN:
                name = f"{check.check_name} of {stage.name}"
                self.warnings.append(_make_line(f"{name}: {check.description or 'failed'}"))

    def _add_failure_reason(self, event: DagsterEvent) -> None:
        failure_reason = find_failure_reason(event)
        if failure_reason:
            self.errors.append(("", _make_line(failure_reason)))

    def _change_status(self, stage: Stage, event: DagsterEvent, timestamp: float) -> None:
        stage.status = STATUS[event.event_type]
        if stage.status == "running":
            stage.start_time = stage.start_time or timestamp
        if stage.status == "retrying":
            stage.details = _make_line(_describe_retry(event))
        stage.end_time = timestamp if stage.status in (*ENDED, "retrying") else None
        if stage.status != "failed":
            return
        error = event.step_failure_data.error
        stage.details = ""
        if error is not None and error.cls_name == "DagsterExecutionInterruptedError":
            stage.status = "stopped"
            return
        failure_reason = find_failure_reason(event)
        if failure_reason:
            # The reason has a line for each failed check.
            self.errors += [
                (stage.name, _make_line(line)) for line in failure_reason.splitlines() if line
            ]

    @property
    def reasons(self) -> list[str]:
        """The reasons for the run's failure, each with the names of the stages that it stopped."""
        stages: dict[str, list[str]] = {}
        for stage, reason in self.errors:
            stages.setdefault(reason, []).extend([stage] if stage else [])
        return [
            f"{', '.join(names)}: {reason}" if names else reason for reason, names in stages.items()
        ]

    @property
    def under_way(self) -> list[Stage]:
        """The stages that are running, or wait for a retry."""
        return [stage for stage in self.stages.values() if stage.is_under_way]

    def drop_done_options(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments of `batchrec run` without the options that are carried out."""
        done_stages = {stage.name for stage in self.stages.values() if stage.status == "done"}
        return [part for part in arguments if STAGES_OF_OPTIONS.get(part) not in done_stages]

    def describe_published(self) -> str:
        """Return a sentence about the lists that readers have after a failed run.

        The sentence is empty if the run was not going to publish any lists.
        """
        publishing = [
            stage
            for stage in self.stages.values()
            if stage.name.split("/")[-1] == "recommendations"
        ]
        published = [stage for stage in publishing if stage.status == "done"]
        if not publishing:
            return ""
        if not published:
            return "Nothing was published: what readers have stays."
        if len(published) == len(publishing):
            return "The lists are published."
        names = ", ".join(stage.name.removesuffix("/recommendations") for stage in published)
        return f"Done: {names}. Of the others, readers keep the lists that they have."


def _describe_retry(event: DagsterEvent) -> str:
    """Return why a step failed, and when Dagster tries it again."""
    retry = event.step_retry_data
    cause = retry.error.cause or retry.error
    # The name of the error's class tells a user nothing.
    message = re.sub(rf"^[\w.]*{cause.cls_name}: ", "", cause.message).strip()
    if "trying again" in message:
        return message
    pause = f"in {format_duration(retry.seconds_to_wait)}" if retry.seconds_to_wait else "now"
    return f"{message}, trying again {pause}"


def _make_line(text: str) -> str:
    return " ".join(text.split())
