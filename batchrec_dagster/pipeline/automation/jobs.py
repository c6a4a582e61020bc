"""A pipeline's jobs (refresh, rollback, teardown), its schedule and its sensors."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.automation.runs import find_run_under_way
from batchrec_dagster.pipeline.automation.teardown import teardown_job
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.steps.publishing import PREVIOUS, build_rollback_config
from batchrec_dagster.steps.raw_files import RawRecord, digest_files, digest_source
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.paths import read_record
from batchrec_dagster.storage.resource import StorageResource

# Whether the code location has batchrec's console logger: a job uses it only if its config names
# it, and would not load in a location without it.
own_console: ContextVar[bool] = ContextVar("own_console", default=False)


def automation(
    pipeline: Pipeline,
    assets: Collection[dg.AssetKey],
    executor: dg.ExecutorDefinition | None = None,
) -> dg.Definitions:
    """`NAME_refresh` materializes the pipeline's assets; `NAME_schedule` runs it at the declared
    times, and `NAME_new_files` when a path or s3:// source has new files. `NAME_rollback` publishes
    older lists again, `NAME_teardown` deletes everything.

    executor: of the jobs, where it is not the code location's.
    """
    job = dg.define_asset_job(
        name=f"{pipeline.name}_refresh",
        selection=dg.AssetSelection.assets(*assets),
        config={"loggers": {"console": {}}} if own_console.get() else None,
        executor_def=executor,
        description="Updates every user's recommendations from the ratings. Unchanged data are"
        " neither imported nor trained on again.",
    )
    visible = pipeline.ratings.has_visible_files
    sensors = [new_files_sensor(pipeline, job)] if visible else []
    return dg.Definitions(
        jobs=[job, rollback_job(pipeline, assets, executor), teardown_job(pipeline, assets)],
        schedules=[refresh_schedule(pipeline, job)],
        sensors=[*sensors, *_automation_sensors(pipeline, assets)],
    )


def _automation_sensors(
    pipeline: Pipeline, assets: Collection[dg.AssetKey]
) -> list[dg.SensorDefinition]:
    """`NAME_automation` starts what declarative automation asks for: Dagster's own such sensor is
    off until somebody turns it on."""
    if pipeline.automation == "none":
        return []
    return [
        dg.AutomationConditionSensorDefinition(
            name=f"{pipeline.name}_automation",
            target=dg.AssetSelection.assets(*assets),
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=f"Refreshes {pipeline.name} by its automation: {pipeline.automation}.",
        )
    ]


def refresh_schedule(
    pipeline: Pipeline, job: dg.UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition:
    """`NAME_schedule`; skips a tick while a refresh is running, which runs would only wait for."""

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        run = find_run_under_way(context.instance, job.name)
        if run is not None:
            return dg.SkipReason(f"run {run} of {job.name} is still going: not started again")
        return dg.RunRequest()

    return dg.ScheduleDefinition(
        name=f"{pipeline.name}_schedule",
        job=job,
        cron_schedule=pipeline.schedule.cron,
        execution_timezone=pipeline.schedule.timezone,
        execution_fn=request,
        default_status=(
            dg.DefaultScheduleStatus.RUNNING
            if pipeline.schedule.enabled
            else dg.DefaultScheduleStatus.STOPPED
        ),
        description=f"Refreshes {pipeline.name}, unless a refresh is still going.",
    )


def rollback_job(
    pipeline: Pipeline,
    assets: Collection[dg.AssetKey],
    executor: dg.ExecutorDefinition | None = None,
) -> dg.UnresolvedAssetJobDefinition:
    """`NAME_rollback` publishes older lists again and updates what the pipeline makes from them."""
    lists = dg.AssetSelection.assets(pipeline.asset_key("recommendations"))
    return dg.define_asset_job(
        name=f"{pipeline.name}_rollback",
        selection=lists.downstream() & dg.AssetSelection.assets(*assets),
        config=build_rollback_config(pipeline.op_name("recommendations"), PREVIOUS),
        executor_def=executor,
        description="Publishes the previous lists again, or those of the edition that roll_back_to"
        " names, and updates what is made from them: the report, the sinks.",
    )


# If the source changes between all ticks, the refresh starts after this many ticks anyway.
MAX_TICKS_WAITED = 10


@dataclass(frozen=True)
class Cursor:
    """What the sensor of new files remembers from tick to tick."""

    seen: str = ""
    """The digest of the files at the last tick."""
    asked: str = ""
    """The digest of the files for which a refresh was last requested."""
    run_key: str = ""
    """A digest of all requests until now, by which Dagster ignores repeated ones."""
    waited: int = 0
    """How many ticks have found other files than the tick before, since the last request."""

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        """The cursor in the text; an empty one for None, and for text that is not a cursor."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def new_files_sensor(
    pipeline: Pipeline, job: dg.UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """`NAME_new_files`: requests a refresh when files of the ratings are new or changed."""
    settings = pipeline.on_new_files
    source = pipeline.ratings.rows

    @dg.sensor(
        name=f"{pipeline.name}_new_files",
        job=job,
        minimum_interval_seconds=settings.every_seconds,
        required_resource_keys={pipeline.resource_key("storage")},
        default_status=(
            dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED
        ),
        description=f"Refreshes {pipeline.name} when files of its ratings are new or changed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        storage: StorageResource = getattr(context.resources, pipeline.resource_key("storage"))
        before = Cursor.read(context.cursor)
        # Before the record is read, because a refresh that ends now writes it.
        running = find_run_under_way(context.instance, job.name)
        try:
            now = digest_source(source, storage, pipeline.project)
            record = RawRecord.from_json(
                read_record(storage, storage.uri(pipeline.storage_keys.record("raw_ratings")))
            )
        except (SourceError, StorageError) as error:
            return _skip(str(error), before)
        return decide_refresh(
            before, now, digest_files(record.files), refreshing=running is not None
        )

    return sensor


def decide_refresh(before: Cursor, now: str, used: str, *, refreshing: bool) -> dg.SensorResult:
    """A request for a refresh if there are new files and they are complete; else why there is none.

    `before` is the cursor of the last tick. `now` is the digest of the files as they are, and
    `used` that of the files that the last run used. `refreshing` says whether a refresh is running,
    which may or may not use the files as they are.
    """
    if now == before.asked:
        return _skip("nothing is new since a refresh was requested", before)
    if now == used:
        key = _digest(before.run_key, now)
        after = Cursor(seen=now, asked=now, run_key=key)
        return _skip("a run has already used these files", after)
    if refreshing:
        return _skip("files are new: waiting for the running refresh to end", before)
    if now != before.seen and before.waited < MAX_TICKS_WAITED:
        after = replace(before, seen=now, waited=before.waited + 1)
        return _skip("files are new: waiting until no more arrive", after)
    # The same key if this request is lost with the process; another one for the same files if
    # others were there in between.
    key = _digest(before.run_key, now)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=key)],
        cursor=Cursor(seen=now, asked=now, run_key=key).to_json(),
    )


def _skip(reason: str, cursor: Cursor) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.to_json())


def _digest(*parts: str) -> str:
    return sha256(" ".join(parts).encode()).hexdigest()[:32]
