"""Infers the users of each segment with a batch segment job, and writes them as one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.recommendations import Segments
from batchrec_dagster.personalize.batch_files import read_segments
from batchrec_dagster.personalize.ensure import BATCH_SEGMENT_JOB, Ensure, Ensured
from batchrec_dagster.steps.batch_jobs import (
    filter_arn,
    has_output,
    output_pieces,
    require_output,
)
from batchrec_dagster.steps.checks import (
    Checked,
    every_segment_answered,
    no_duplicates,
    no_failed_lines,
)
from batchrec_dagster.steps.cost import Cost, count_users, segments_cost
from batchrec_dagster.steps.items import read_titles, titles_versions, with_titles
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.paths import Stored
from batchrec_dagster.storage.published_table import TableWriter
from batchrec_dagster.storage.resource import StorageResource, storage_errors

# Part of the table's version: raise it when the same output would become another table.
TABLE_VERSION = "1"


class SegmentTable:
    """Builds the table, and counts what its checks need.

    The table has each user of each line as a row of segment, rank and user_id, in the lines' order.
    titles: item_id, title; None: the table has no titles.
    """

    def __init__(self, titles: pl.DataFrame | None = None) -> None:
        self.titles = titles
        self.rows = 0
        self.users = pl.Series(dtype=pl.String)
        # segment, len: the number of users of each, in order, without empty segments.
        self.sizes = pl.DataFrame()
        self.sample = pl.DataFrame()
        self._answered: list[pl.DataFrame] = []
        self._failed = self._repeated = 0
        self._first_failure: tuple[str, str] | None = None

    def write(self, pieces: Iterable[pl.DataFrame], path: Path) -> None:
        """Write the table as Parquet. pieces: at least one, as `batch_files.read_segments`
        reads them."""
        with TableWriter(path) as writer:
            for lines in pieces:
                writer.write(self.add(lines).to_arrow(compat_level=pl.CompatLevel.oldest()))

    def add(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines. lines: item_id or item_attributes, users (best first), error."""
        lines = lines.select("users", "error", segment=pl.coalesce("item_id", "item_attributes"))
        self._answered.append(lines.select("segment"))
        failed = lines.filter(pl.col("error").is_not_null())
        if failed.height and self._first_failure is None:
            self._first_failure = failed.select("segment", "error").row(0)
        self._failed += failed.height
        table = (
            lines.filter(pl.col("users").list.len() > 0)
            .select("segment", user_id="users")
            .explode("user_id")
            .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("segment"))
            .select("segment", "rank", "user_id")
        )
        self._count(table)
        table = with_titles(table, self.titles, of="segment")
        self.sample = (
            pl.concat([self.sample, table.head(5)]).head(5) if self.rows else table.head(5)
        )
        self.rows += table.height
        return table

    def checks(self, queries: Sequence[str], setting: str) -> list[Checked]:
        """The verdicts. queries: the requested segments, declared by `setting`."""
        answered = pl.concat(self._answered)
        return [
            every_segment_answered(queries, answered.get_column("segment")),
            no_failed_lines(
                self._failed, answered.height, self._first_failure, "segment", f"; fix {setting}"
            ),
            no_duplicates(self._repeated, "user"),
        ]

    def _count(self, table: pl.DataFrame) -> None:
        sizes = table.group_by("segment", maintain_order=True).agg(
            pl.len(), pl.col("user_id").n_unique().alias("users")
        )
        self._repeated += table.height - int(sizes.get_column("users").sum())
        sizes = sizes.select("segment", "len")
        self.sizes = pl.concat([self.sizes, sizes]) if self.rows else sizes
        self.users = pl.concat([self.users, table.get_column("user_id")]).unique()


@dataclass(frozen=True)
class UserSegments:
    """The stored table and its version, what is in it, and the job that inferred it."""

    stored: Stored
    version: str
    table: SegmentTable
    job: Ensured
    cost: list[Cost]
    checks: list[Checked]


def segment_users(
    pipeline: Pipeline,
    segments: Segments,
    storage: StorageResource,
    ensure: Ensure,
    model: ModelRecord,
) -> UserSegments:
    """Infer the users of each segment with the model, and store them as one table, if all checks
    pass. Raises FailedChecksError, dg.Failure."""
    ensure = ensure.for_data(model.data_version)
    queries = pl.DataFrame({segments.query_field: segments.queries}).write_ndjson()
    with storage_errors():
        storage.store.put(storage.uri(pipeline.places.segment_queries), queries.encode())
    job = _run_job(pipeline, segments, storage, ensure, model, queries)
    cost = []
    if job.created:
        cost.append(segments_cost(len(segments.queries), count_users(pipeline, storage)))
    titles = read_titles(pipeline, storage) if segments.items else None
    titles_version = titles_versions(pipeline, storage) if segments.items else []
    table = SegmentTable(titles)
    uri = storage.uri(pipeline.places.user_segments)
    with temporary_folder() as folder:
        path = folder / "user_segments.parquet"
        table.write(output_pieces(storage, job.description, read_segments), path)
        setting = "items" if segments.items else "attributes"
        checks = table.checks(segments.queries, f"segments.{setting}")
        require_output(storage, job.description, checks)
        with storage_errors():
            storage.store.put(uri, path)
    version = fingerprint(job.arn, queries, segments, TABLE_VERSION, *titles_version)
    return UserSegments(Stored(uri), version, table, job, cost, checks)


def _run_job(
    pipeline: Pipeline,
    segments: Segments,
    storage: StorageResource,
    ensure: Ensure,
    model: ModelRecord,
    queries: str,
) -> Ensured:
    """The finished job for these queries: a new one, or that of an earlier run."""
    places = pipeline.places
    request: dict[str, Any] = {
        "solutionVersionArn": model.solution_version_arn,
        "numResults": segments.users_per_segment,
        "jobInput": {"s3DataSource": {"path": storage.uri(places.segment_queries)}},
        "roleArn": ensure.role_arn,
    }
    if segments.filter:
        name = fingerprint(segments.filter)[:8]
        request["filterArn"] = filter_arn(ensure, model, name, segments.filter, "segments.filter")
    # Segments depend on the training data only; a filter also reads newer data.
    filtered = [model.data_version] if segments.filter else []

    def create(name: str) -> dict[str, Any]:
        output = storage.uri(places.batch_segments(name))
        return {**request, "jobOutput": {"s3DataDestination": {"path": output}}}

    job = ensure.start_numbered(
        BATCH_SEGMENT_JOB,
        f"{pipeline.name}-{fingerprint(request, queries, *filtered)[:12]}",
        create,
        usable=partial(has_output, storage),
        solutionVersionArn=model.solution_version_arn,
    )
    return ensure.ready(BATCH_SEGMENT_JOB, job)
