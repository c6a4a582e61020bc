"""Turns raw ratings into Personalize's interactions, by Polars or Spark.

Both are inspected: the ratings before, the interactions after.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.file_formats import choose_csv_types
from batchrec_dagster.personalize.schemas import EVENT_VALUE
from batchrec_dagster.preparation.counting import count_rows
from batchrec_dagster.preparation.layout import Layout, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import RecognisedLayout
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    ERASED_USER,
    InteractionCounts,
    PreparationResult,
)
from batchrec_dagster.preparation.sources.formats import PACKED, PARQUET, START, recognise_format
from batchrec_dagster.preparation.spark.task import SourceFile, SparkTask, SparkTaskResult
from batchrec_dagster.steps.checks import (
    check_enough_interactions,
    check_few_event_types,
    check_rows_readable,
    check_source_without_erased,
    check_timestamps_plausible,
)
from batchrec_dagster.steps.data_sizes import DataSize
from batchrec_dagster.steps.raw_files import RawRecord, open_raw_files, require_copies
from batchrec_dagster.steps.runs import RunHistory
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.durable import compute_version, read_pieces, temporary_folder
from batchrec_dagster.storage.editions import Finding
from batchrec_dagster.storage.hashed_users import SuppressedUsers
from batchrec_dagster.storage.layout import PipelineFiles, PreparedFiles
from batchrec_dagster.storage.objects import ObjectInfo


@dataclass(frozen=True)
class RatingsFormat:
    """How the files are read, as declared or recognised."""

    recognised_layout: RecognisedLayout
    timestamp_unit: str
    encodings: Sequence[str]
    empty_files: Sequence[str]
    """The names of the files without rows."""

    @property
    def columns(self) -> dict[str, str]:
        """The name of the column of each role."""
        names = list(self.recognised_layout.types)
        return {
            role: names[column - 1] if isinstance(column, int) else column
            for role, column in self.recognised_layout.layout.columns.items()
        }


@dataclass(frozen=True)
class RatingsInspection:
    """The verdict on raw ratings, and the counts behind it."""

    check: Finding
    bytes: int
    """The size of the files that were read."""
    whole: bool
    """Whether all rows were read. On AWS only the first rows are, as Spark reads the others."""
    format: RatingsFormat | None = None
    """How the files are read; None if they cannot be read."""

    @property
    def rows(self) -> float:
        """How many rows were read."""
        return self.check.numbers.get("rows", 0)


def inspect_ratings(work: Work, raw: RawRecord, suppressed: SuppressedUsers) -> RatingsInspection:
    """Read every row once, or on AWS the first rows.

    suppressed: the users who were erased, of whom nothing is shown.
    Raises UserError, UserError, UserError.
    """
    pipeline, storage = work.pipeline, work.storage
    ratings, whole = pipeline.ratings, not pipeline.preparation.on_aws
    with open_raw_files(raw, storage) if whole else open_first_file(raw, storage) as files:
        size = sum(file.path.stat().st_size for file in files)
        try:
            with open_ratings(
                files, pipeline.ratings.reading, pipeline.rules, suppressed
            ) as opened:
                rows = opened.inspect_rows()
                check = check_rows_readable(
                    "rows_readable", "ratings", rows.rows_read, rows.bad, ratings.on_bad_rows
                )
                ratings_format = RatingsFormat(
                    opened.recognised_layout,
                    rows.timestamp_unit,
                    opened.encodings,
                    opened.empty,
                )
                return RatingsInspection(check, size, whole, ratings_format)
        except PreparationError as error:
            return RatingsInspection(Finding("rows_readable", False, str(error)), size, whole)


@contextmanager
def open_first_file(raw: RawRecord, storage: StorageResource) -> Iterator[list[RawFile]]:
    """The start of the first file that is not empty, on this machine: enough to see the format.

    A file that is not plain text is downloaded whole. Raises UserError, UserError.
    """
    require_copies(raw)
    if not storage.in_s3:
        raise UserError(
            "preparation.engine glue reads from S3: set BATCHREC_STORAGE=s3://bucket/prefix"
        )
    for file in raw.files:
        start = next(storage.store.chunks(file.uri), b"")
        if not start:
            continue
        if start.startswith((PARQUET, *PACKED)) or recognise_format(start[:START]):
            with storage.local_file(file.uri) as path:
                yield [RawFile(path, file.source)]
            return
        with temporary_folder() as folder:
            path = folder / "start"
            path.write_bytes(start[: start.rfind(b"\n") + 1] or start)
            yield [RawFile(path, file.source)]
        return
    raise UserError("all files of ratings.source are empty")


CheckSize = Callable[[DataSize], Finding]
"""Compares how much there is with what the published lists were made from."""

# A run that has written nothing for this long is dead: no job runs so long.
DEAD_AFTER = timedelta(days=2)


@dataclass(frozen=True)
class PreparedInteractions:
    """The interactions before publication, and what is known of them."""

    value: Path | PreparedFiles
    """What the IO manager publishes."""
    version: str
    """16 hexadecimal digits of the SHA-256 of the CSV file."""
    result: PreparationResult
    """How many rows were read, kept and left out."""
    counts: InteractionCounts
    """The counts of what is kept."""
    has_event_values: bool
    """Whether they have the column EVENT_VALUE."""
    job: Mapping[str, Any]
    """The metadata of the Spark job; empty without one."""
    check_size: CheckSize

    @property
    def size(self) -> DataSize:
        """How much there is, as the next editions compare theirs with."""
        counts = self.counts
        values = {} if counts.event_values is None else {EVENT_VALUE: counts.event_values}
        return DataSize(
            self.result.rows_kept, {"users": counts.users, "items": counts.items}, values
        )

    @cached_property
    def checks(self) -> tuple[Finding, ...]:
        """The verdicts on what would be published."""
        unit, now = self.result.timestamp_unit, datetime.now(UTC)
        return (
            check_enough_interactions(
                self.result.rows_kept,
                self.counts.users,
                self.counts.users_with_two,
                self.result.left_out.get(BELOW_MIN_RATING, 0),
            ),
            check_timestamps_plausible(self.counts.earliest, self.counts.latest, unit, now),
            check_few_event_types(self.counts.event_types, has_event_values=self.has_event_values),
            check_source_without_erased(
                self.result.left_out.get(ERASED_USER, 0), self.result.erased_users
            ),
            self.check_size(self.size),
        )


SparkResult = tuple[SparkTaskResult, Mapping[str, Any]]
"""What a task in Spark reports, and metadata of its job."""

RunSpark = Callable[[SparkTask], SparkResult]
"""Runs a task in the declared Spark. Raises UserError, and what fails the asset as it is."""


@contextmanager
def prepare_interactions(
    work: Work,
    raw: RawRecord,
    suppressed: SuppressedUsers,
    run_spark: RunSpark | None,
    check_size: CheckSize,
    *,
    run: str,
    runs: RunHistory,
) -> Iterator[PreparedInteractions]:
    """Prepare the interactions with the declared engine. Local files exist until the block ends.

    suppressed: the users who were erased, whose rows are left out.
    run_spark: None where the engine is Polars.
    check_size: compares how much there is with what the published lists were made from.
    run: the id of this run.
    runs: says which other runs have ended, whose files of Spark are then deleted.
    Raises PreparationError, UserError, UserError, UserError.
    """
    pipeline = work.pipeline
    with temporary_folder() as folder:
        if run_spark is not None and pipeline.preparation.on_aws:
            remove_dead_work(work.files, run, runs)
            prepared = _prepare_on_aws(work, raw, suppressed, run_spark, check_size, run)
        else:
            with open_raw_files(raw, work.storage) as files:
                prepared = _prepare_here(work, files, suppressed, folder, run_spark, check_size)
        yield prepared


def _prepare_here(
    work: Work,
    files: list[RawFile],
    suppressed: SuppressedUsers,
    folder: Path,
    run_spark: RunSpark | None,
    check_size: CheckSize,
) -> PreparedInteractions:
    pipeline = work.pipeline
    csv, users = folder / "interactions.csv", folder / "users.parquet"
    result: PreparationResult
    job: Mapping[str, Any] = {}
    if run_spark is None:
        with open_ratings(files, pipeline.ratings.reading, pipeline.rules, suppressed) as ratings:
            result = ratings.write_interactions(csv)
    else:
        suppressed_file = folder / "suppressed_users.json"
        suppressed_file.write_bytes(_encode(suppressed))
        task = SparkTask(
            [SourceFile(f"file://{file.path.absolute()}", file.name) for file in files],
            _find_layout(files, pipeline),
            pipeline.rules,
            destination=f"file://{csv}",
            users=f"file://{users}",
            work=f"file://{folder}/work",
            suppressed=f"file://{suppressed_file}" if suppressed else None,
        )
        result, job = run_spark(task)
    types = choose_csv_types(pipeline.interactions_columns)
    interactions = pl.scan_csv(csv, schema=types, glob=False)
    version = compute_version(read_pieces(csv))
    value = csv if run_spark is None else PreparedFiles(csv, users, version)
    counts = count_rows(interactions)
    return PreparedInteractions(
        value, version, result, counts, pipeline.event_value, job, check_size
    )


def _prepare_on_aws(
    work: Work,
    raw: RawRecord,
    suppressed: SuppressedUsers,
    run_spark: RunSpark,
    check_size: CheckSize,
    run: str,
) -> PreparedInteractions:
    """Prepare with Spark on AWS, from S3 to S3."""
    pipeline, storage = work.pipeline, work.storage
    with open_first_file(raw, storage) as files:
        layout = _find_layout(files, pipeline)
    folder = work.files.uri(f"{pipeline.keys.work}{run}")
    task = SparkTask(
        [SourceFile(file.uri, file.source) for file in raw.files],
        layout,
        pipeline.rules,
        destination=f"{folder}/interactions.csv",
        users=f"{folder}/users.parquet",
        work=f"{folder}/parts",
    )
    if suppressed:
        # Too large for the parameters of a job. The job removes the folder.
        suppressed_uri = f"{task.work}/suppressed_users.json"
        storage.store.put(suppressed_uri, _encode(suppressed))
        task = replace(task, suppressed=suppressed_uri)
    result, job = run_spark(task)
    version = result.sha256[:16]
    value = PreparedFiles(task.destination, task.users, version)
    prepared = PreparedInteractions(
        value, version, result, result, pipeline.event_value, job, check_size
    )
    if any(check.blocks for check in prepared.checks):
        # They will not be published, so no copy stays.
        with suppress(UserError):
            for uri in (task.destination, task.users):
                storage.store.delete(uri)
    return prepared


def _encode(suppressed: SuppressedUsers) -> bytes:
    return json.dumps(suppressed.to_json()).encode()


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


def _find_layout(files: list[RawFile], pipeline: Pipeline) -> Layout:
    with open_ratings(files, pipeline.ratings.reading, pipeline.rules) as ratings:
        return ratings.layout
