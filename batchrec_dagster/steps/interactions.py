"""Turns raw ratings into the interactions that Personalize imports, by Polars or Spark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.formats import choose_csv_types
from batchrec_dagster.personalize.schemas import EVENT_VALUE
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import OpenedRatings, open_ratings
from batchrec_dagster.preparation.recognition import Recognised
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    ERASED_USER,
    InteractionCounts,
    PreparationResult,
)
from batchrec_dagster.preparation.spark.task import SourceFile, SparkTask, SparkTaskResult
from batchrec_dagster.steps.checks import (
    SOURCE_WITHOUT_ERASED,
    check_enough_interactions,
    check_few_event_types,
    check_source_without_erased,
    check_timestamps_plausible,
    require_passed,
)
from batchrec_dagster.steps.data_sizes import DataSize, SizeComparison
from batchrec_dagster.steps.ratings import RawRatings, open_first_file
from batchrec_dagster.steps.raw_files import delete_copies, open_copies, require_copies
from batchrec_dagster.steps.runs import RunHistory
from batchrec_dagster.steps.stored_files import PreparedRecord, StoredFile, put_file
from batchrec_dagster.steps.work import Result, Work, once
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers, read_erased_users
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore
from batchrec_dagster.storage.records import load

ASSET = "interactions"
CODE_VERSION = "2"
# A run that has written nothing for this long is dead: no job runs so long.
DEAD_AFTER = timedelta(days=2)

SparkResult = tuple[SparkTaskResult, Mapping[str, Any]]
"""What a task in Spark reports, and metadata of its job."""

RunSpark = Callable[[SparkTask], SparkResult]
"""Runs a task in the declared Spark. Raises UserError, and what fails the asset as it is."""


class InteractionsRecord(PreparedRecord, frozen=True):
    """The interactions, and what is known of them without reading them."""

    rows: PreparationResult
    """How many rows were read, kept and left out."""
    counts: InteractionCounts
    """The counts of what is kept."""
    size: DataSize
    """How much there is, as the next editions compare theirs with."""
    engine: str
    """What prepared them."""
    job: Mapping[str, Any]
    """The metadata of the Spark job; empty without one."""


def read_interactions_record(work: Work) -> InteractionsRecord:
    """What is known of the interactions, without reading them. Raises UserError without any."""
    uri = work.files.record_uri(ASSET)
    record = load(work.storage.store, uri, InteractionsRecord)
    if record is None:
        raise UserError(f"there is no {work.storage.where(uri)}: materialize interactions first")
    return record


def describe_settings(pipeline: Pipeline) -> str:
    """A fingerprint of what the interactions depend on besides the ratings: settings and code."""
    ratings = pipeline.ratings
    return f"{CODE_VERSION}-{fingerprint(ratings.file_form, ratings.file_columns, pipeline.rules)}"


def prepare_interactions(
    work: Work,
    raw: RawRatings,
    comparison: SizeComparison,
    run_spark: RunSpark | None = None,
    *,
    run: str,
    runs: RunHistory,
) -> Result[InteractionsRecord]:
    """The interactions, prepared by the declared engine unless an earlier run has done so.

    The copies of the ratings are deleted in the end if they have rows of users who were erased. If
    the run is killed before that, the next one finds the interactions unchanged, and does it then.

    comparison: with what the published lists were made from.
    run_spark: None where the engine is Polars.
    run: the id of this run.
    runs: says which other runs have ended, whose files of Spark are then deleted.
    Raises UserError, and Refused if a check blocks. Then the interactions of before stay.
    """
    suppressed = read_erased_users(work.files)
    made_of = {
        "raw_ratings": raw.version,
        "settings": describe_settings(work.pipeline),
        "erased": suppressed.version or "",
    }

    def make() -> InteractionsRecord:
        require_copies(raw, "raw_ratings")
        with temporary_folder() as folder:
            if run_spark is not None and work.pipeline.preparation.on_aws:
                remove_dead_work(work.files, run, runs)
                prepared = _prepare_on_aws(work, raw, suppressed, run_spark, run)
            else:
                prepared = _prepare_here(work, raw, suppressed, run_spark, folder)
            findings, size = _check(work.pipeline, prepared), _measure(prepared)
            try:
                require_passed([*findings, comparison.check(size)])
                file = prepared.put(work.storage.store, work.files.interactions)
            finally:
                prepared.discard(work.storage.store)
        return InteractionsRecord(
            made_of=made_of,
            version=file.version,
            findings=findings,
            file=file,
            rows=prepared.rows,
            counts=prepared.counts,
            size=size,
            engine=work.pipeline.preparation.engine,
            job=dict(prepared.job),
        )

    result = once(work, work.files.record_uri(ASSET), InteractionsRecord, made_of, make)
    result = result.with_check(comparison.check(result.record.size))
    has_erased = any(
        check.name == SOURCE_WITHOUT_ERASED and not check.passed for check in result.findings
    )
    if has_erased and not raw.copies_deleted:
        delete_copies(work, "raw_ratings", work.pipeline.ratings.rows, raw)
    return result


@dataclass(frozen=True)
class _Prepared:
    """Interactions that are not yet in their place."""

    content: Path | str
    """A file on this machine, or the URI of an object that Spark wrote."""
    rows: PreparationResult
    counts: InteractionCounts
    job: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    """Of an object that Spark wrote."""

    def put(self, store: ObjectStore, uri: str) -> StoredFile:
        """Put them in their place, atomically. Raises UserError."""
        if isinstance(self.content, Path):
            return put_file(store, uri, self.content)
        etag = store.copy(self.content, uri)
        info = store.head(uri)
        return StoredFile(uri=uri, size=info.size if info else 0, sha256=self.sha256, etag=etag)

    def discard(self, store: ObjectStore) -> None:
        """Delete an object that Spark wrote, of which nobody needs a second copy."""
        if isinstance(self.content, str):
            with suppress(UserError):
                store.delete(self.content)


def _check(pipeline: Pipeline, prepared: _Prepared) -> tuple[Finding, ...]:
    """The verdicts on what would be published."""
    rows, counts = prepared.rows, prepared.counts
    return (
        check_enough_interactions(
            rows.rows_kept,
            counts.users,
            counts.users_with_two,
            rows.left_out.get(BELOW_MIN_RATING, 0),
        ),
        check_timestamps_plausible(
            counts.earliest, counts.latest, rows.timestamp_unit, datetime.now(UTC)
        ),
        check_few_event_types(counts.event_types, has_event_values=pipeline.event_value),
        check_source_without_erased(rows.left_out.get(ERASED_USER, 0), rows.erased_users),
    )


def _measure(prepared: _Prepared) -> DataSize:
    rows, counts = prepared.rows, prepared.counts
    return DataSize(
        rows=rows.rows_kept,
        distinct={"users": counts.users, "items": counts.items},
        events=counts.events,
        values={} if counts.event_values is None else {EVENT_VALUE: counts.event_values},
    )


def _prepare_here(
    work: Work,
    raw: RawRatings,
    suppressed: ErasedUsers,
    run_spark: RunSpark | None,
    folder: Path,
) -> _Prepared:
    """Prepare on this machine, into the folder."""
    pipeline, csv = work.pipeline, folder / "interactions.csv"
    rows: PreparationResult
    job: Mapping[str, Any] = {}
    with open_copies(raw.files, work.storage) as files:
        if run_spark is None:
            with _open_ratings(files, pipeline, suppressed) as ratings:
                rows = ratings.write_interactions(csv)
        else:
            suppressed_file = folder / "erased_users.json"
            suppressed_file.write_bytes(suppressed.encode())
            recognised = _recognise(files, pipeline)
            task = SparkTask(
                [SourceFile(f"file://{file.path.absolute()}", file.name) for file in files],
                recognised.form,
                recognised.columns,
                pipeline.rules,
                destination=f"file://{csv}",
                work=f"file://{folder}/work",
                suppressed=f"file://{suppressed_file}" if suppressed else None,
            )
            rows, job = run_spark(task)
    types = choose_csv_types(pipeline.interactions_columns)
    counts = count_rows(pl.scan_csv(csv, schema=types, glob=False))
    return _Prepared(csv, rows, counts, job)


def _prepare_on_aws(
    work: Work, raw: RawRatings, suppressed: ErasedUsers, run_spark: RunSpark, run: str
) -> _Prepared:
    """Prepare with Spark on AWS, from S3 to S3."""
    pipeline, storage = work.pipeline, work.storage
    with open_first_file(raw.files, storage) as files:
        recognised = _recognise(files, pipeline)
    folder = work.files.uri(f"{pipeline.keys.work}{run}")
    task = SparkTask(
        [SourceFile(file.stored.uri, file.source) for file in raw.files],
        recognised.form,
        recognised.columns,
        pipeline.rules,
        destination=f"{folder}/interactions.csv",
        work=f"{folder}/parts",
    )
    if suppressed:
        # Too large for the parameters of a job. The job removes the folder.
        suppressed_uri = f"{task.work}/erased_users.json"
        storage.store.put(suppressed_uri, suppressed.encode())
        task = replace(task, suppressed=suppressed_uri)
    result, job = run_spark(task)
    return _Prepared(task.destination, result, result, job, result.sha256)


def remove_dead_work(pipeline_files: PipelineFiles, run: str, runs: RunHistory) -> None:
    """Delete what Spark was writing for killed runs: those that are known to have ended, and others
    that wrote nothing for two days.

    run: the id of this run, whose files stay.
    """
    storage = pipeline_files.storage
    folder = pipeline_files.uri(pipeline_files.keys.work)
    files_of_runs: dict[str, list[ObjectInfo]] = {}
    for file in storage.store.list(folder):
        writer = file.uri.removeprefix(folder).partition("/")[0]
        files_of_runs.setdefault(writer, []).append(file)
    files_of_runs.pop(run, None)
    for writer, files in files_of_runs.items():
        last_written = max(file.last_modified for file in files)
        if runs.has_ended(writer) or last_written < datetime.now(UTC) - DEAD_AFTER:
            for file in files:
                storage.store.delete(file.uri)


def _recognise(files: list[RawFile], pipeline: Pipeline) -> Recognised:
    with _open_ratings(files, pipeline) as ratings:
        return ratings.recognised


def _open_ratings(
    files: list[RawFile], pipeline: Pipeline, suppressed: ErasedUsers = NOBODY
) -> AbstractContextManager[OpenedRatings]:
    ratings = pipeline.ratings
    return open_ratings(files, ratings.file_form, ratings.file_columns, pipeline.rules, suppressed)
