"""The sensor that sees new or changed files in the source, and asks for one refresh with them.

Its cursor holds digests only, however many files there are. What raw_ratings has taken in, by
whomever it was run, stands in its record, so that nothing is asked for that is there already.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.source import SourceError
from batchrec_dagster.steps.raw_files import RawRecord, files_digest, source_digest
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.paths import read_record
from batchrec_dagster.storage.resource import StorageResource

# Looks at a source that changes between any two of them, before a refresh takes what is there.
PATIENCE = 10

# Not those that are not started: one that a killed daemon left so is launched by asking again.
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# A run whose process was killed stays under way until somebody says that it is not.
DEAD_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class Cursor:
    """Digests: of the files last looked at, of those last asked for, and of all that were asked for
    one after the other, by which Dagster knows a request that it has had; looks waited."""

    seen: str = ""
    asked: str = ""
    run_key: str = ""
    waited: int = 0

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        """An empty one for None and for what is none of ours."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()

    def text(self) -> str:
        return json.dumps(asdict(self))


def watched(source: str) -> bool:
    """Whether a look is cheap, and what is there may change: a local path or s3://."""
    return "://" not in source or source.startswith("s3://")


def new_files_sensor(
    pipeline: Pipeline, job: dg.UnresolvedAssetJobDefinition, project: Path = Path()
) -> dg.SensorDefinition:
    """The sensor; a relative path of the source starts at the project's folder."""
    declared, source = pipeline.on_new_files, parse_source(pipeline.ratings.source)

    @dg.sensor(
        name=f"{pipeline.name}_new_files",
        job=job,
        minimum_interval_seconds=declared.every_seconds,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if declared.enabled else dg.DefaultSensorStatus.STOPPED
        ),
        description=f"Refreshes {pipeline.name} once when files of its ratings are new or changed.",
    )
    def sensor(context: dg.SensorEvaluationContext, storage: StorageResource) -> dg.SensorResult:
        before = Cursor.read(context.cursor)
        # Before the record is read, which a refresh that ends now has written.
        running = context.instance.get_runs_count(
            dg.RunsFilter(
                job_name=job.name,
                statuses=UNDER_WAY,
                created_after=datetime.now(UTC) - DEAD_AFTER,
            )
        )
        try:
            now = source_digest(source, storage, project)
            record = RawRecord.from_json(
                read_record(storage, pipeline.places.record("raw_ratings"))
            )
        except (SourceError, StorageError) as error:
            return _skip(str(error), before)
        return look(before, now, files_digest(record.files), busy=running > 0)

    return sensor


def look(before: Cursor, now: str, taken: str, *, busy: bool) -> dg.SensorResult:
    """What follows from a look at the source: `now` is there, `taken` was taken in last; `busy`:
    a refresh is under way, which may or may not take in what is there now."""
    if now == before.asked:
        return _skip("there is nothing new since a refresh was asked for", before)
    if now == taken:
        key = _digest(before.run_key, now)
        after = Cursor(seen=now, asked=now, run_key=key)
        return _skip("what is there was taken in already", after)
    if busy:
        return _skip("there is something new: waiting for the refresh under way to end", before)
    if now != before.seen and before.waited < PATIENCE:
        after = replace(before, seen=now, waited=before.waited + 1)
        return _skip("there is something new: waiting until nothing more comes", after)
    # The same request again, should this one be lost with the process; another one for the same
    # files, should others have been there between.
    key = _digest(before.run_key, now)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=key)],
        cursor=Cursor(seen=now, asked=now, run_key=key).text(),
    )


def _skip(reason: str, cursor: Cursor) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.text())


def _digest(*parts: str) -> str:
    return sha256(" ".join(parts).encode()).hexdigest()[:32]
