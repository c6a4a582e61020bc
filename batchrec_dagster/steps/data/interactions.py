"""Preparation of the interactions that Personalize imports from raw ratings, by Polars or Spark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.editions.edition import Finding
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
from batchrec_dagster.steps.context import RunHistory, StepContext
from batchrec_dagster.steps.data.checks import (
    SOURCE_WITHOUT_ERASED,
    check_enough_interactions,
    check_few_event_types,
    check_source_without_erased,
    check_timestamps_plausible,
)
from batchrec_dagster.steps.data.data_sizes import DataSize, SizeComparison
from batchrec_dagster.steps.data.interactions_record import ASSET, InteractionsRecord
from batchrec_dagster.steps.data.ratings import RawRatings, open_declared_ratings, open_first_file
from batchrec_dagster.steps.data.raw_files import (
    delete_copies,
    open_copies,
    require_copies,
    require_same_objects,
)
from batchrec_dagster.steps.data.stored_files import put_file
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.steps.records import Result, once
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.erased import ErasedUsers, read_erased_users
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore

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


def fingerprint_preparation(pipeline: Pipeline) -> str:
    """Return a fingerprint of the settings and the code that the interactions depend on."""
    ratings = pipeline.ratings
    return f"{CODE_VERSION}-{fingerprint(ratings.file_form, ratings.file_columns, pipeline.rules)}"


def prepare_interactions(
    step: StepContext,
    raw: RawRatings,
    comparison: SizeComparison,
    runs: RunHistory,
    run_spark: RunSpark | None = None,
) -> Result[InteractionsRecord]:
    """Prepare the interactions with the declared engine, unless an earlier run has done so.

    At the end, the copies of the ratings are deleted if they have rows of erased users. If the run
    is killed before that, the next run finds the interactions unchanged and deletes the copies.

    comparison: the comparison with the data behind the published lists.
    runs: the history of runs. The Spark files of runs that have ended are deleted.
    run_spark: the function that runs Spark; None with the Polars engine.
    Raises UserError, and Refused if a check blocks. After Refused, the earlier interactions stay.
    """
    erased_users = read_erased_users(step.files)
    made_of = {
        "raw_ratings": raw.version,
        "settings": fingerprint_preparation(step.pipeline),
        "erased": erased_users.version or "",
    }

    def make() -> InteractionsRecord:
        require_copies(raw, "raw_ratings")
        with temporary_folder() as folder:
            csv = folder / "interactions.csv"
            if run_spark is None:
                rows, job = _prepare_here(step, raw, erased_users, csv)
            else:
                remove_dead_work(step.files, step.run.id, runs)
                rows, job = _prepare_on_spark(step, raw, erased_users, csv, run_spark)
            types = choose_csv_types(step.pipeline.interactions_columns)
            counts = count_rows(pl.scan_csv(csv, schema=types, glob=False))
            findings, size = _check(step.pipeline, rows, counts), _measure(rows, counts)
            require_passed([*findings, comparison.check(size)])
            file = put_file(step.storage.store, step.files.interactions, csv)
        return InteractionsRecord(
            made_of=made_of,
            version=counts.digest,
            findings=findings,
            file=file,
            rows=rows,
            counts=counts,
            size=size,
            engine=step.pipeline.preparation.engine,
            job=dict(job),
        )

    result = once(step, step.files.record_uri(ASSET), InteractionsRecord, made_of, make)
    result = result.with_check(comparison.check(result.record.size))
    has_erased = any(
        check.name == SOURCE_WITHOUT_ERASED and not check.passed for check in result.findings
    )
    if has_erased and not raw.copies_deleted:
        delete_copies(step, "raw_ratings", step.pipeline.ratings.rows, raw)
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


def _prepare_here(
    step: StepContext, raw: RawRatings, erased_users: ErasedUsers, csv: Path
) -> Prepared:
    """Prepare the interactions in this process, and write them to the file."""
    with (
        open_copies(raw.files, step.storage) as files,
        open_declared_ratings(files, step.pipeline, erased_users) as ratings,
    ):
        return ratings.write_interactions(csv), {}


def _prepare_on_spark(
    step: StepContext,
    raw: RawRatings,
    erased_users: ErasedUsers,
    csv: Path,
    run_spark: RunSpark,
) -> Prepared:
    """Prepare the interactions with Spark, and write them to the file.

    On AWS, Spark reads and writes in S3, and this function then downloads the result.
    """
    pipeline = step.pipeline
    on_aws = pipeline.preparation.on_aws
    store = step.storage.store if on_aws else ObjectStore({HERE: csv.parent})
    folder = step.files.uri(f"{pipeline.keys.work}{step.run.id}") if on_aws else f"s3://{HERE}/work"
    local_folder = store.local_path(folder)
    opened = (open_first_file if on_aws else open_copies)(raw.files, step.storage)
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
            require_same_objects(raw.files, step.storage.store)
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
