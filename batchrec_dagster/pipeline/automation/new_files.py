"""The sensor that starts a refresh when files of the ratings are new or changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.asset_keys import resource_key
from batchrec_dagster.steps.data.ratings import RawRatings
from batchrec_dagster.steps.data.raw_files import digest_files, digest_source
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.records import load

# If the source changes before every tick, the refresh starts after this many ticks anyway.
MAX_TICKS_WAITED = 10


@dataclass(frozen=True)
class Cursor:
    """The state that the sensor of new files keeps from tick to tick."""

    seen: str = ""
    """The digest of the files at the last tick."""
    asked: str = ""
    """The digest of the files that were last settled.

    Files are settled once a refresh was requested for them, or a run was found to have used them.
    """
    run_key: str = ""
    """A digest of all values of `asked` until now, by which Dagster ignores repeated requests."""
    waited: int = 0
    """The number of ticks, since the last request, at which the files had changed again."""

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        """Return the cursor in the text; an empty one if the text is None or not a cursor."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def new_files_sensor(
    pipeline: Pipeline, job: dg.UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """Return `NAME_new_files`, which requests a refresh if files of ratings are new or changed."""
    settings = pipeline.on_new_files
    source = pipeline.ratings.rows
    name = f"{pipeline.name}_new_files"

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=settings.every_seconds,
        required_resource_keys={resource_key("storage")},
        default_status=(
            dg.DefaultSensorStatus.RUNNING if settings.enabled else dg.DefaultSensorStatus.STOPPED
        ),
        description=f"Refreshes {pipeline.name} when files of its ratings are new or changed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        storage: Storage = context.resources.batchrec_storage.opened
        before = Cursor.read(context.cursor)
        try:
            current = digest_source(source, storage, pipeline.project)
            uri = storage.uri(pipeline.keys.record("raw_ratings"))
            record = load(storage.store, uri, RawRatings)
        except UserError as error:
            return _skip(str(error), before)
        return decide_refresh(before, current, digest_files(record.files if record else ()))

    return sensor


def decide_refresh(before: Cursor, current: str, last_used: str) -> dg.SensorResult:
    """Return a request for a refresh if there are new, complete files; else the reason to skip.

    before: the cursor of the last tick.
    current: the digest of the files as they are now.
    last_used: the digest of the files that the last run used.
    """
    if current == before.asked:
        return _skip("nothing is new since a refresh was requested", before)
    if current == last_used:
        key = _digest(before.run_key, current)
        after = Cursor(seen=current, asked=current, run_key=key)
        return _skip("a run has already used these files", after)
    if current != before.seen and before.waited < MAX_TICKS_WAITED:
        after = replace(before, seen=current, waited=before.waited + 1)
        return _skip("files are new: waiting until no more arrive", after)
    # If the process dies before the cursor is saved, the next tick repeats the request with the
    # same key. If the files change and later change back, their key is new, so a refresh starts.
    key = _digest(before.run_key, current)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=key)],
        cursor=Cursor(seen=current, asked=current, run_key=key).to_json(),
    )


def _skip(reason: str, cursor: Cursor) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.to_json())


def _digest(*parts: str) -> str:
    return sha256(" ".join(parts).encode()).hexdigest()[:32]
