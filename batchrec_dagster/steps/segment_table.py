"""Infers the users of each segment with a batch segment job, and writes them as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.personalize.ensure import ReadyResource
from batchrec_dagster.personalize.file_formats import read_segments
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.resource_kinds import BATCH_SEGMENT_JOB
from batchrec_dagster.steps.batch_jobs import (
    JobOutput,
    JobRequest,
    OutputTable,
    declare_filter,
    ensure_filter,
    prepare_batch_job,
    require_usable,
)
from batchrec_dagster.steps.checks import (
    check_every_segment_answered,
    check_no_duplicates,
    check_no_failed_segments,
)
from batchrec_dagster.steps.interactions import read_interactions_record
from batchrec_dagster.steps.items import add_item_columns, read_titles, read_titles_version
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.retention import delete_unneeded_segments
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.list_file import ListWriter

# Part of the table's version: raise it when the same output would become another table.
TABLE_VERSION = "1"


def _segment_name() -> pl.Expr:
    """An item's id, or an expression on items, whichever the job's line has."""
    return pl.coalesce("item_id", "item_attributes").alias("segment")


class SegmentTable(OutputTable):
    """Each user of each line as a row of segment, rank and user_id, in the lines' order."""

    def __init__(self, titles: pl.DataFrame | None = None) -> None:
        super().__init__(_segment_name(), titles)
        self.users = pl.Series(dtype=pl.String)
        # The columns segment and len, the number of its users, in order, without empty segments.
        self.sizes = pl.DataFrame()

    def _build_rows(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines.

        lines: the columns item_id or item_attributes, users (best first), and error.
        """
        table = (
            lines.filter(pl.col("users").list.len() > 0)
            .select(_segment_name(), user_id="users")
            .explode("user_id")
            .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("segment"))
            .select("segment", "rank", "user_id")
        )
        self._count(table)
        return (
            table
            if self.item_columns is None
            else add_item_columns(table, self.item_columns, of="segment")
        )

    def checks(self, queries: Sequence[str], setting: str) -> list[Finding]:
        """The verdicts.

        queries: the requested segments.
        setting: the setting that declares them.
        """
        counts = self._answers
        answered = pl.concat(counts.answered)
        return [
            check_every_segment_answered(queries, answered),
            check_no_failed_segments(
                counts.failed_lines, len(answered), counts.first_failure, setting
            ),
            check_no_duplicates(counts.repeated, "user"),
        ]

    def _count(self, table: pl.DataFrame) -> None:
        sizes = table.group_by("segment", maintain_order=True).agg(
            pl.len(), pl.col("user_id").n_unique().alias("users")
        )
        self._answers.repeated += table.height - int(sizes.get_column("users").sum())
        sizes = sizes.select("segment", "len")
        self.sizes = pl.concat([self.sizes, sizes]) if self.rows else sizes
        self.users = pl.concat([self.users, table.get_column("user_id")]).unique()


@dataclass(frozen=True)
class UserSegments:
    """The stored table, and the job that inferred it."""

    uri: str
    version: str
    table: SegmentTable
    job: ReadyResource
    cost: list[Cost]
    checks: list[Finding]


def segment_users(
    work: PersonalizeWork, published: PublishedList, segments: Segments, model: ModelRecord
) -> UserSegments:
    """Infer the users of each segment with the model, and store them if all checks pass.

    Raises Refused, UserError, PersonalizeError, UserError.
    """
    work = work.for_data(model.data_version)
    storage, keys = work.storage, work.pipeline.keys
    queries = pl.DataFrame({segments.query_field: segments.queries}).write_ndjson()
    storage.store.put(storage.uri(keys.job_input("batch_segments")), queries.encode())
    uri, setting = storage.uri(published.keys.table), "items" if segments.items else "attributes"
    has_titles = bool(segments.items) and work.pipeline.has_titles
    # Before the titles: if they change in between, the next run makes the table again.
    titles_version = [read_titles_version(work)] if has_titles else []
    titles = read_titles(work) if has_titles else None

    request = _prepare_job(work, segments, model, queries)
    (job,) = work.ensure.start_and_wait(BATCH_SEGMENT_JOB, lambda: [request.start()])
    output, table = JobOutput(storage, job.description), SegmentTable(titles)
    with temporary_folder() as folder:
        with ListWriter(folder / "user_segments.parquet") as writer:
            table.write(output.pieces(read_segments), writer)
        checks = table.checks(segments.queries, f"segments.{setting}")
        require_usable(output, checks)
        storage.store.put(uri, writer.path)
    delete_unneeded_segments(work, job.arn)
    cost = [request.cost] if job.created else []
    version = fingerprint(job.arn, queries, segments, TABLE_VERSION, *titles_version)
    return UserSegments(uri, version, table, job, cost, checks)


def _prepare_job(
    work: PersonalizeWork, segments: Segments, model: ModelRecord, queries: str
) -> JobRequest:
    """The job for these queries: a new one, or that of an earlier run."""
    keys = work.pipeline.keys
    request: dict[str, Any] = {
        "solutionVersionArn": model.solution_version_arn,
        "numResults": segments.users_per_segment,
        "jobInput": {"s3DataSource": {"path": work.storage.uri(keys.job_input("batch_segments"))}},
        "roleArn": work.ensure.role_arn,
    }
    if segments.filter:
        users_filter = declare_filter("segments.filter", segments.filter)
        request["filterArn"] = ensure_filter(work.ensure, model, users_filter)
    # Segments depend on the training data only, but a filter also reads newer data.
    filter_versions = [model.data_version] if segments.filter else []
    users = read_interactions_record(work).counts.users
    cost = work.prices.price_segments(len(segments.queries), users)
    return prepare_batch_job(
        work, BATCH_SEGMENT_JOB, request, "batch_segments", cost, queries, *filter_versions
    )
