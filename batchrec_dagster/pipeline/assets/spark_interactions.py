"""interactions by Spark: the same file, made where the data are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.preparation.polars.decoding import GZIP, PARQUET, ZSTD, RawFile
from batchrec_dagster.preparation.polars.prepare import opened
from batchrec_dagster.preparation.spark.task import Done, SourceFile, Task
from batchrec_dagster.steps.checks import Checked, enough, plausible
from batchrec_dagster.steps.raw_files import RawRecord
from batchrec_dagster.steps.spark_jobs import Ran, SparkEngine
from batchrec_dagster.storage.resource import StorageResource

SAMPLE = 5


def prepare_here(
    context: dg.AssetExecutionContext,
    engine: SparkEngine,
    pipeline: Pipeline,
    storage: StorageResource,
    files: list[RawFile],
    written: Path,
    users: Path,
) -> Ran:
    """Prepare files of this machine by a Spark on it; the interactions and their users are written
    there. Raises PreparationError, dg.Failure."""
    with opened(files, pipeline.ratings.reading, pipeline.rules) as read:
        layout = read.layout
    task = Task(
        [SourceFile(f"file://{file.path.absolute()}", file.name) for file in files],
        layout,
        pipeline.rules,
        f"file://{written}",
        f"file://{users}",
        f"file://{written.parent}/work",
    )
    return engine.run(context, storage, task)


def prepare_on_aws(
    context: dg.AssetExecutionContext,
    engine: SparkEngine,
    pipeline: Pipeline,
    storage: StorageResource,
    record: RawRecord,
) -> tuple[Ran, str, str]:
    """Prepare files in S3 by a Spark on AWS: the URIs of the interactions, and of their users,
    until they are published.

    Raises PreparationError, StorageError, dg.Failure.
    """
    with (
        first_at_hand(record, storage) as files,
        opened(files, pipeline.ratings.reading, pipeline.rules) as read,
    ):
        layout = read.layout
    work = storage.uri(f"{pipeline.name}/work/{context.run.run_id}")
    task = Task(
        [SourceFile(uri, uri) for uri in uris(record, storage)],
        layout,
        pipeline.rules,
        f"{work}/interactions.csv",
        f"{work}/users.parquet",
        f"{work}/parts",
    )
    return engine.run(context, storage, task), task.destination, task.users


def uris(record: RawRecord, storage: StorageResource) -> list[str]:
    """Where a Spark on AWS finds the files. Raises dg.Failure when they are not in S3."""
    found = [file.uri or file.source for file in record.files]
    if not storage.in_s3 or not all(uri.startswith("s3://") and "!/" not in uri for uri in found):
        raise dg.Failure(
            "preparation.engine glue and emr_serverless read from S3: set"
            " BATCHREC_STORAGE=s3://bucket/prefix, and leave ratings.copy on for other sources",
            allow_retries=False,
        )
    return found


@contextmanager
def first_at_hand(record: RawRecord, storage: StorageResource) -> Iterator[list[RawFile]]:
    """The start of the first file that is not empty, on this machine: enough to see how the files
    are read. A compressed one, or Parquet, is there whole."""
    for uri in uris(record, storage):
        start = next(storage.store.chunks(uri), b"")
        if not start:
            continue
        if start.startswith((GZIP, ZSTD, PARQUET)):
            with storage.local_file(uri) as path:
                yield [RawFile(path, uri)]
            return
        with TemporaryDirectory() as folder:
            path = Path(folder) / "start"
            path.write_bytes(start[: start.rfind(b"\n") + 1] or start)
            yield [RawFile(path, uri)]
        return
    raise dg.Failure("all files of ratings.source are empty", allow_retries=False)


def checks(done: Done, now: Any) -> list[Checked]:
    """What holds of interactions that are not on this machine, by the job's own numbers."""
    return [
        enough(done.rows_kept, done.users, done.users_with_two),
        plausible(done.earliest, done.latest, done.timestamp_unit, now),
    ]


def first_rows(uri: str, storage: StorageResource) -> pl.DataFrame:
    """The first few interactions, for people."""
    start = next(storage.store.chunks(uri), b"")
    lines = start.split(b"\n")[: SAMPLE + 1]
    return pl.read_csv(b"\n".join(lines), infer_schema=False)
