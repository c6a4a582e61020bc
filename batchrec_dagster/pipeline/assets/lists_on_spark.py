"""The table of everyone's list by Spark: the same rows, made where the lines are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec_dagster.formats.interactions import USER_ID
from batchrec_dagster.pipeline.assets.batch_output import output_files
from batchrec_dagster.pipeline.assets.items import titles_of
from batchrec_dagster.pipeline.assets.new_table import NewTable, interactions_of
from batchrec_dagster.pipeline.assets.publishing import Publishing, storage_errors
from batchrec_dagster.pipeline.checks import (
    Checked,
    lines_failed,
    lists_full,
    none_seen,
    repeated,
    users_answered,
)
from batchrec_dagster.pipeline.settings.recommendations import Recommendations
from batchrec_dagster.preparation.spark.task import SourceFile
from batchrec_dagster.preparation.spark.way_back_task import Returned, WayBack
from batchrec_dagster.published_table import Edition
from batchrec_dagster.resources import StorageResource
from batchrec_dagster.resources.ensure import Description
from batchrec_dagster.resources.spark import SparkEngine
from batchrec_dagster.table_files import TableFiles
from batchrec_dagster.users_files import UsersFiles
from batchrec_dagster.users_of_interactions import UsersOfInteractions

# Rows that are copied at once.
PIECE = 1_000_000

Publish = Callable[[Mapping[str, Any]], Edition]
# What gives the URI by which Spark reaches a file, a folder's URI for what it writes, and what
# publishes the table in there.
Place = tuple[Callable[[str], str], str, Publish]


@contextmanager
def made_on_spark(
    context: dg.AssetExecutionContext,
    engine: SparkEngine,
    publishing: Publishing,
    job: Description,
    users: int,
) -> Iterator[NewTable]:
    """Make it of what the job answered; users: how many were asked for. Raises dg.Failure."""
    pipeline, storage = publishing.pipeline, publishing.storage
    made = _in_s3 if engine.on_aws else _on_this_machine
    with storage_errors(), made(publishing, context.run.run_id) as (reached, folder, publish):
        places = pipeline.places
        seen = pipeline.recommendations.exclude_seen
        task = WayBack(
            [SourceFile(reached(uri), storage.where(uri)) for uri in output_files(storage, job)],
            [
                SourceFile(reached(uri), storage.where(uri))
                for uri in UsersFiles(storage.store, storage.uri(places.batch_users)).files()
            ],
            reached(storage.uri(places.interactions)) if seen else None,
            reached(storage.uri(places.item_titles)) if titles_of(pipeline) else None,
            pipeline.recommendations.num_results,
            f"{folder}/table",
            f"{folder}/work",
        )
        done, told = engine.run(context, storage, task)
        yield _table(publishing, done, users, publish, told)


@contextmanager
def _on_this_machine(publishing: Publishing, _: str) -> Iterator[Place]:
    """In passing files, also for what lies in S3."""
    storage = publishing.storage
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))

        def reached(uri: str) -> str:
            return f"file://{stack.enter_context(storage.local_file(uri)).absolute()}"

        def publish(about: Mapping[str, Any]) -> Edition:
            parts = sorted(folder.glob("table/part-*.parquet"))
            return _publish_from_here(publishing, parts, folder, about)

        yield reached, f"file://{folder}", publish


@contextmanager
def _in_s3(publishing: Publishing, run: str) -> Iterator[Place]:
    """In the storage, from where no more comes here than one file of the table may have."""
    storage = publishing.storage
    store, folder = storage.store, storage.uri(f"{publishing.pipeline.name}/work/{run}-lists")

    def publish(about: Mapping[str, Any]) -> Edition:
        parts = store.list(f"{folder}/table/part-")
        if sum(part.size for part in parts) > publishing.pipeline.publication.max_file_bytes:
            return publishing.publish_stored([part.uri for part in parts], about)
        # What is one file says in its own footer what it is, and cannot be copied.
        with TemporaryDirectory() as here:

            def fetched() -> Iterator[Path]:
                for part in parts:
                    store.download(part.uri, Path(here) / "part")
                    yield Path(here) / "part"

            return _publish_from_here(publishing, fetched(), Path(here), about)

    try:
        yield str, folder, publish
    finally:
        for left in store.list(f"{folder}/"):
            store.delete(left.uri)


def _publish_from_here(
    publishing: Publishing, parts: Iterable[Path], folder: Path, about: Mapping[str, Any]
) -> Edition:
    with TableFiles(folder, publishing.pipeline.publication.max_file_bytes) as files:
        for rows in copied(parts):
            files.write(rows)
        files.end(about)
    return publishing.publish(files.paths)


def refuse_to_leave_s3(engine: SparkEngine, storage: StorageResource) -> None:
    """Before anything is paid for. Raises dg.Failure."""
    if engine.on_aws and not storage.in_s3:
        raise dg.Failure(
            "preparation.engine glue and emr_serverless write to S3: set"
            " BATCHREC_STORAGE=s3://bucket/prefix",
            allow_retries=False,
        )


def copied(parts: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of the files, some at a time, without what Spark says of itself."""
    for part in parts:
        with pq.ParquetFile(part) as file:
            schema = file.schema_arrow.remove_metadata()
            if not file.metadata.num_rows:
                yield schema.empty_table()
            for rows in file.iter_batches(PIECE):
                yield pa.Table.from_batches([rows.cast(schema)])


def _table(
    publishing: Publishing, done: Returned, users: int, publish: Publish, told: Mapping[str, Any]
) -> NewTable:
    checks = checks_of(done, users, publishing.pipeline.recommendations)
    title = {"title": pl.String} if titles_of(publishing.pipeline) else {}
    ids = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
    sample = pl.DataFrame(done.sample, {**ids, **title, "score": pl.Float64})
    return NewTable(done.rows, done.users, done.items, done.dropped, sample, checks, publish, told)


def checks_of(done: Returned, users: int, wanted: Recommendations) -> list[Checked]:
    """What was found, by the job's own numbers; users: how many were asked for."""
    first = None if done.first_failure is None else (done.first_failure[0], done.first_failure[1])
    return [
        users_answered(users, done.lines, done.repeated_lines, done.missing, done.first_missing),
        lines_failed(done.failed, done.lines, first),
        repeated(done.repeated),
        *([none_seen(done.seen)] if wanted.exclude_seen else []),
        lists_full(done.full, users, wanted.num_results, filtered=wanted.filter is not None),
    ]


def longest_history(publishing: Publishing, users: pl.Series) -> int:
    """How many interactions the user with the most has: as Spark has written beside them, so that
    they need not come to this machine; else by themselves. Raises dg.Failure."""
    storage = publishing.storage
    with storage_errors():
        uri = storage.uri(publishing.pipeline.places.interactions)
        counts = UsersOfInteractions(storage.store, uri).table()
        if counts is None:
            with interactions_of(publishing) as interactions:
                counted = interactions.group_by(USER_ID).agg(INTERACTIONS=pl.len())
                counts = counted.collect(engine="streaming")
        asked = counts.join(users.to_frame(USER_ID), on=USER_ID, how="semi")
        longest: int = asked.select(pl.col("INTERACTIONS").max().fill_null(0)).item()
        return longest
