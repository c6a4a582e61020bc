"""Preparation of the interactions that Personalize imports from raw ratings, by Polars or Spark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.formats import choose_csv_types
from batchrec_dagster.personalize.schemas import EVENT_VALUE
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.row_rules import (
    BELOW_MIN_RATING,
    ERASED_USER,
    InteractionCounts,
    PreparationResult,
)
from batchrec_dagster.preparation.spark.task import ERASED_USERS_FILE, PARTS, SparkTask
from batchrec_dagster.steps.checks import (
    SOURCE_WITHOUT_ERASED,
    check_enough_interactions,
    check_few_event_types,
    check_source_without_erased,
    check_timestamps_plausible,
    require_passed,
)
from batchrec_dagster.steps.data_sizes import DataSize, SizeComparison
from batchrec_dagster.steps.ratings import RawRatings, open_declared_ratings, open_first_file
from batchrec_dagster.steps.raw_files import (
    delete_copies,
    open_copies,
    require_copies,
    require_same_objects,
)
from batchrec_dagster.steps.run_facts import RunHistory
from batchrec_dagster.steps.stored_files import PreparedRecord, put_file
from batchrec_dagster.steps.work import Result, Work, once
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.erased import ErasedUsers, read_erased_users
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore
from batchrec_dagster.storage.records import load

ASSET = "interactions"
CODE_VERSION = "2"
# A run that has written nothing for this long is dead, because no job takes so long.
DEAD_AFTER = timedelta(days=2)

# The made-up bucket name for the folder that Spark on this machine writes to.
HERE = "here"

Prepared = tuple[PreparationResult, Mapping[str, Any]]
"""Row counts by outcome, and the metadata of the Spark job (empty without a Spark job)."""

RunSpark = Callable[[SparkTask], Prepared]
"""A function that runs a task in the declared Spark.

Raises UserError. Other exceptions are not caught, so they fail the asset.
"""


class InteractionsRecord(PreparedRecord, frozen=True):
    """The record of the prepared interactions, with their counts."""

    rows: PreparationResult
    """The numbers of rows that were read, kept and left out."""
    counts: InteractionCounts
    """The counts of the kept rows."""
    size: DataSize
    """The size of the interactions, which an edition keeps for comparison with later data."""
    engine: str
    """The engine that prepared the interactions."""
    job: Mapping[str, Any]
    """The metadata of the Spark job; empty without a Spark job."""


def read_interactions_record(work: Work) -> InteractionsRecord:
    """Read the record of the interactions. Raises UserError if there is no record."""
    uri = work.files.record_uri(ASSET)
    record = load(work.storage.store, uri, InteractionsRecord)
    if record is None:
        raise UserError(f"there is no {work.storage.where(uri)}: materialize interactions first")
    return record


def fingerprint_preparation(pipeline: Pipeline) -> str:
    """Return a fingerprint of the settings and the code that the interactions depend on."""
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
    """Prepare the interactions with the declared engine, unless an earlier run has done so.

    At the end, the copies of the ratings are deleted if they have rows of erased users. If the run
    is killed before that, the next run finds the interactions unchanged and deletes the copies.

    comparison: the comparison with the data behind the published lists.
    run_spark: the function that runs Spark; None with the Polars engine.
    run: the id of this run.
    runs: the history of runs. The Spark files of runs that have ended are deleted.
    Raises UserError, and Refused if a check blocks. After Refused, the earlier interactions stay.
    """
    erased_users = read_erased_users(work.files)
    made_of = {
        "raw_ratings": raw.version,
        "settings": fingerprint_preparation(work.pipeline),
        "erased": erased_users.version or "",
    }

    def make() -> InteractionsRecord:
        require_copies(raw, "raw_ratings")
        with temporary_folder() as folder:
            csv = folder / "interactions.csv"
            if run_spark is None:
                rows, job = _prepare_here(work, raw, erased_users, csv)
            else:
                remove_dead_work(work.files, run, runs)
                rows, job = _prepare_on_spark(work, raw, erased_users, csv, run_spark, run)
            types = choose_csv_types(work.pipeline.interactions_columns)
            counts = count_rows(pl.scan_csv(csv, schema=types, glob=False))
            findings, size = _check(work.pipeline, rows, counts), _measure(rows, counts)
            require_passed([*findings, comparison.check(size)])
            file = put_file(work.storage.store, work.files.interactions, csv)
        return InteractionsRecord(
            made_of=made_of,
            version=counts.digest,
            findings=findings,
            file=file,
            rows=rows,
            counts=counts,
            size=size,
            engine=work.pipeline.preparation.engine,
            job=dict(job),
        )

    result = once(work, work.files.record_uri(ASSET), InteractionsRecord, made_of, make)
    result = result.with_check(comparison.check(result.record.size))
    has_erased = any(
        check.name == SOURCE_WITHOUT_ERASED and not check.passed for check in result.findings
    )
    if has_erased and not raw.copies_deleted:
        delete_copies(work, "raw_ratings", work.pipeline.ratings.rows, raw)
    return result


def _check(
    pipeline: Pipeline, rows: PreparationResult, counts: InteractionCounts
) -> tuple[Finding, ...]:
    """Return the checks of the prepared interactions."""
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
        check_few_event_types(counts.event_types, has_event_values=pipeline.has_event_values),
        check_source_without_erased(rows.left_out.get(ERASED_USER, 0), rows.erased_users),
    )


def _measure(rows: PreparationResult, counts: InteractionCounts) -> DataSize:
    return DataSize(
        rows=rows.rows_kept,
        distinct={"users": counts.users, "items": counts.items},
        events=counts.events,
        values={} if counts.event_values is None else {EVENT_VALUE: counts.event_values},
    )


def _prepare_here(work: Work, raw: RawRatings, erased_users: ErasedUsers, csv: Path) -> Prepared:
    """Prepare the interactions in this process, and write them to the file."""
    with (
        open_copies(raw.files, work.storage) as files,
        open_declared_ratings(files, work.pipeline, erased_users) as ratings,
    ):
        return ratings.write_interactions(csv), {}


def _prepare_on_spark(
    work: Work,
    raw: RawRatings,
    erased_users: ErasedUsers,
    csv: Path,
    run_spark: RunSpark,
    run: str,
) -> Prepared:
    """Prepare the interactions with Spark, and write them to the file.

    On AWS, Spark reads and writes in S3, and this function then downloads the result.
    """
    pipeline = work.pipeline
    on_aws = pipeline.preparation.on_aws
    store = work.storage.store if on_aws else ObjectStore({HERE: csv.parent})
    folder = work.files.uri(f"{pipeline.keys.work}{run}") if on_aws else f"s3://{HERE}/work"
    local_folder = store.local_path(folder)
    opened = (open_first_file if on_aws else open_copies)(raw.files, work.storage)
    with opened as files:
        uris = {file.name: f"file://{file.path.absolute()}" for file in files}
        if on_aws:
            uris = {file.source: file.stored.uri for file in raw.files}
        with open_declared_ratings(files, pipeline, erased_users) as ratings:
            form, columns, unit = ratings.recognised.form, ratings.columns, ratings.unit
        spark_folder = folder if local_folder is None else f"file://{local_folder}"
        task = SparkTask(uris, form, columns, pipeline.rules, unit, spark_folder)
        try:
            # The erased users go through a file: a job's parameters have no room for them.
            store.put(f"{folder}/{ERASED_USERS_FILE}", erased_users.encode())
            result, job = run_spark(task)
            require_same_objects(raw.files, work.storage.store)
            with csv.open("wb") as file:
                file.write(f"{','.join(pipeline.interactions_columns)}\n".encode())
                for part in store.list(f"{folder}/{PARTS}/part-"):
                    file.writelines(store.chunks(part.uri))
        finally:
            for written in store.list(f"{folder}/"):
                store.delete(written.uri)
    return result, job


def remove_dead_work(pipeline_files: PipelineFiles, run: str, runs: RunHistory) -> None:
    """Delete the temporary files that killed Spark runs left behind.

    A run counts as killed if it is known to have ended, or if it has written nothing for two days.

    run: the id of this run. Its files stay.
    runs: the history of runs.
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
