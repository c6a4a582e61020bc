"""user_segments: the users who belong to an item, from a batch segment job to one table."""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.personalize.batch_segment import read_output
from batchrec_dagster.personalize.datasets import ITEM_ID, USER_ID
from batchrec_dagster.personalize.ensure import BATCH_SEGMENT_JOB
from batchrec_dagster.pipeline.checks import published, specs, stopped
from batchrec_dagster.pipeline.exclusive_step import exclusive_step
from batchrec_dagster.pipeline.resources import PersonalizeResource
from batchrec_dagster.pipeline.ui import (
    asset_args,
    column_lineage,
    column_schema,
    dataset_group,
    preview,
    sample,
    stored,
)
from batchrec_dagster.pipeline.ui import table as markdown_table
from batchrec_dagster.steps.batch_jobs import (
    filter_arn,
    has_output,
    lasted,
    output_folder,
    output_pieces,
)
from batchrec_dagster.steps.cost import cost_metadata, count_users, segments_cost
from batchrec_dagster.steps.items import (
    read_titles,
    titles_of,
    titles_versions,
)
from batchrec_dagster.steps.publishing import storage_errors
from batchrec_dagster.steps.segment_table import SegmentTable
from batchrec_dagster.storage.io_managers import Stored
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "1"
MOST_SHOWN = 10
COLUMNS = {
    "segment": ("string", "What the users belong to: an item's id, or an expression on items."),
    "title": ("string", "The item's title; null where the items file has none."),
    "rank": ("int", "1 is the user who belongs to it most."),
    "user_id": ("string", "The user's id."),
}


MADE_OF: dict[str, list[tuple[str, str]]] = {
    "segment": [],
    "title": [("item_titles", "title")],
    "rank": [("interactions", USER_ID), ("interactions", ITEM_ID)],
    "user_id": [("interactions", USER_ID)],
}


def user_segments(pipeline: Pipeline, segments: Segments) -> dg.AssetsDefinition:
    """The asset."""
    titles = titles_of(pipeline) if segments.items else []
    setting = "items" if segments.items else "attributes"

    @dg.asset(
        **asset_args(
            pipeline,
            description="Whom to tell of an item: the"
            f" {segments.users_per_segment:,} users who belong most to each of"
            f" {len(segments.queries):,} segments, as one table of {', '.join(_columns(titles))}.",
            kinds={"personalize", "parquet"},
            storage_key=pipeline.places.user_segments,
            code_version=f"{CODE_VERSION}-{fingerprint(segments, *titles)}",
            io_manager="parquet_io",
        ),
        deps=titles,
        check_specs=specs(
            "user_segments",
            pipeline.name,
            every_segment_answered="Every requested segment has exactly one result.",
            no_failed_segments="No segment has an error instead of users.",
            no_duplicates="No segment contains a user twice.",
        ),
    )
    @exclusive_step(pipeline)
    def user_segments(
        context: dg.AssetExecutionContext,
        segment_solution_version: dict[str, Any],
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> Iterator[Any]:
        started = time.monotonic()
        places = pipeline.places
        version_arn = segment_solution_version["solution_version_arn"]
        ensure = personalize.ensure(
            context.log,
            {**pipeline.tags, "batchrec:data-version": segment_solution_version["data_version"]},
        )
        queries = pl.DataFrame({segments.query_field: segments.queries}).write_ndjson()
        with storage_errors():
            storage.store.put(storage.uri(places.segment_queries), queries.encode())
        request: dict[str, Any] = {
            "solutionVersionArn": version_arn,
            "numResults": segments.users_per_segment,
            "jobInput": {"s3DataSource": {"path": storage.uri(places.segment_queries)}},
            "roleArn": personalize.role_arn,
        }
        if segments.filter:
            request["filterArn"] = filter_arn(
                ensure,
                segment_solution_version,
                fingerprint(segments.filter)[:8],
                segments.filter,
                "segments.filter",
            )

        # Personalize's segments are of the model's data; only a filter looks at newer ones.
        filtered = [segment_solution_version["data_version"]] if segments.filter else []

        def output(job: str) -> str:
            return storage.uri(places.batch_segments(job))

        job = ensure.ready(
            BATCH_SEGMENT_JOB,
            ensure.start_numbered(
                BATCH_SEGMENT_JOB,
                f"{pipeline.name}-{fingerprint(request, queries, *filtered)[:12]}",
                lambda name: {
                    **request,
                    "jobOutput": {"s3DataDestination": {"path": output(name)}},
                },
                usable=partial(has_output, storage),
                solutionVersionArn=version_arn,
            ),
        )
        paid = (
            [segments_cost(len(segments.queries), count_users(pipeline, storage))]
            if job.created
            else []
        )
        table = SegmentTable(read_titles(pipeline, storage) if titles else None)
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "user_segments.parquet"
            table.write(output_pieces(storage, job.description, read_output), written)
            checks = table.checks(segments.queries, f"segments.{setting}")
            yield from stopped(checks)
            uri = storage.uri(places.user_segments)
            with storage_errors():
                storage.store.put(uri, written)
            result = dg.MaterializeResult(
                value=Stored(uri),
                data_version=dg.DataVersion(
                    fingerprint(
                        job.arn,
                        queries,
                        segments,
                        CODE_VERSION,
                        *(titles_versions(pipeline, storage) if titles else []),
                    )
                ),
                metadata={
                    "preview": preview(
                        f"**{len(table.sizes):,} segments** have users, the first of them:",
                        markdown_table(
                            ["segment", "users"], table.sizes.head(MOST_SHOWN).iter_rows()
                        ),
                    ),
                    "dagster/row_count": table.rows,
                    "dagster/column_schema": column_schema(COLUMNS, table.sample.columns),
                    "dagster/column_lineage": column_lineage(
                        pipeline, MADE_OF, table.sample.columns
                    ),
                    "segments": len(table.sizes),
                    "empty_segments": len(segments.queries) - len(table.sizes),
                    "users": len(table.users),
                    **stored("table", storage, uri),
                    **dataset_group(personalize, segment_solution_version["dataset_group_arn"]),
                    "batch_segment_job_arn": job.arn,
                    "batch_segment_output": output_folder(job.description),
                    "status": job.description["status"],
                    "outcome": "segmented" if job.created else "unchanged: not segmented again",
                    "inference_seconds": lasted(job),
                    **cost_metadata("cost_usd", paid, on_aws=personalize.on_aws),
                    "sample": sample(table.sample),
                    "seconds": time.monotonic() - started,
                },
            )
            yield from published(checks, result)

    return user_segments


def _columns(titles: list[dg.AssetKey]) -> list[str]:
    return [name for name in COLUMNS if titles or name != "title"]
