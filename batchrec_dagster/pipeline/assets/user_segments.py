"""user_segments: the users of each segment, from a batch segment job to one table."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.pipeline.declare_asset import asset
from batchrec_dagster.pipeline.run_step import exclusive_step, published, run_step
from batchrec_dagster.pipeline.ui import (
    dataset_group,
    preview,
    sample,
    stored,
    table_facts,
)
from batchrec_dagster.reporting.markdown import table as markdown_table
from batchrec_dagster.steps.batch_jobs import job_seconds, outcome, output_folder
from batchrec_dagster.steps.cost import cost_metadata
from batchrec_dagster.steps.items import titles_of
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.segment_table import UserSegments, segment_users
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "1"
MOST_SHOWN = 10
COLUMNS = {
    "segment": ("string", "What the users belong to: an item's id, or an expression on items."),
    "title": ("string", "The item's title; null where the items file has none."),
    "rank": ("int", "1 is the user who belongs to the segment most."),
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

    @asset(
        pipeline,
        description=f"The {segments.users_per_segment:,} users who belong most to each of"
        f" {len(segments.queries):,} segments, as one table of {', '.join(_columns(titles))}.",
        kinds={"personalize", "parquet"},
        storage_key=pipeline.places.user_segments,
        code_version=f"{CODE_VERSION}-{fingerprint(segments, *titles)}",
        io_manager="parquet_io",
        deps=titles,
        checks={
            "every_segment_answered": "Every requested segment has exactly one result.",
            "no_failed_segments": "No segment has an error instead of users.",
            "no_duplicates": "No segment contains a user twice.",
        },
    )
    @exclusive_step(pipeline)
    def user_segments(
        context: dg.AssetExecutionContext,
        segment_solution_version: dict[str, Any],
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> Iterator[Any]:
        model = ModelRecord.from_json(segment_solution_version)
        ensure = personalize.ensure(context.log, pipeline.tags)
        found = yield from run_step(
            lambda: segment_users(pipeline, segments, storage, ensure, model)
        )
        result = dg.MaterializeResult(
            value=found.stored,
            data_version=dg.DataVersion(found.version),
            metadata={
                **_metadata(pipeline, segments, found),
                **stored("table", storage, found.stored.uri),
                **dataset_group(personalize, model.dataset_group_arn),
                **cost_metadata("cost_usd", found.cost, on_aws=personalize.on_aws),
            },
        )
        yield from published(found.checks, result)

    return user_segments


def _metadata(pipeline: Pipeline, segments: Segments, found: UserSegments) -> dict[str, Any]:
    table, job = found.table, found.job
    columns = table.sample.columns
    return {
        "preview": preview(
            f"**{len(table.sizes):,} segments** have users. The first:",
            markdown_table(["segment", "users"], table.sizes.head(MOST_SHOWN).iter_rows()),
        ),
        **table_facts(pipeline, table.rows, COLUMNS, MADE_OF, columns),
        "segments": len(table.sizes),
        "empty_segments": len(segments.queries) - len(table.sizes),
        "users": len(table.users),
        "batch_segment_job_arn": job.arn,
        "batch_segment_output": output_folder(job.description),
        "outcome": outcome(job, "segmented"),
        "inference_seconds": job_seconds(job),
        "sample": sample(table.sample),
    }


def _columns(titles: list[dg.AssetKey]) -> list[str]:
    return [name for name in COLUMNS if titles or name != "title"]
