"""The asset user_segments: the users of a batch segment job, as a table."""

from typing import Any

import dagster as dg

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.pipeline.assets.published_lists import title_assets
from batchrec_dagster.pipeline.declare_asset import (
    asset_options,
    build_cost_metadata,
    dataset_group_link,
    preview_metadata,
    storage_links,
    table_metadata,
)
from batchrec_dagster.pipeline.run_step import (
    asset_step,
    get_personalize_work,
    materialization_with_checks,
)
from batchrec_dagster.reporting.markdown import format_table as markdown_table
from batchrec_dagster.steps.batch_jobs import JobOutput, describe_outcome, measure_job_seconds
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.segment_table import UserSegments, segment_users
from batchrec_dagster.steps.work import PersonalizeWork

CODE_VERSION = "1"

MAX_SEGMENTS_SHOWN = 10
SEGMENT_COLUMNS = {
    "segment": ("string", "What the users belong to: an item's id, or an expression on items."),
    "title": ("string", "The item's title; null where the items file has none."),
    "rank": ("int", "1 is the user who belongs to the segment most."),
    "user_id": ("string", "The user's id."),
}


def user_segments(published: PublishedList, segments: Segments) -> dg.AssetsDefinition:
    """The asset of the users who belong to each segment."""
    pipeline = published.pipeline
    titles = title_assets(pipeline) if segments.items else []
    columns = ", ".join(name for name in SEGMENT_COLUMNS if titles or name != "title")

    @dg.asset(
        **asset_options(
            published,
            published.asset,
            description=f"The {segments.users_per_segment:,} users who belong most to each of"
            f" {len(segments.queries):,} segments, as one table of {columns}.",
            kinds={"personalize", "parquet"},
            inputs=["segment_solution_version"],
            deps=titles,
            resources=["personalize"],
            storage_key=published.keys.table,
            code_version=f"{CODE_VERSION}-{fingerprint(segments, *titles)}",
            io_manager="parquet_io",
            checks={
                "every_segment_answered": "Every requested segment has exactly one result.",
                "no_failed_segments": "No segment has an error instead of users.",
                "no_duplicates": "No segment contains a user twice.",
            },
        )
    )
    @asset_step
    def user_segments(
        context: dg.AssetExecutionContext, segment_solution_version: ModelRecord
    ) -> dg.MaterializeResult[Any]:
        work = get_personalize_work(pipeline, context)
        with work.lock(published.asset, context.run.run_id):
            segmentation = segment_users(work, published, segments, segment_solution_version)
        return materialization_with_checks(
            segmentation.checks,
            dg.MaterializeResult(
                data_version=dg.DataVersion(segmentation.version),
                metadata=_segments_metadata(work, segments, segmentation, segment_solution_version),
            ),
        )

    return user_segments


def _segments_metadata(
    work: PersonalizeWork, segments: Segments, segmentation: UserSegments, model: ModelRecord
) -> dict[str, Any]:
    table, job = segmentation.table, segmentation.job
    columns = table.sample.columns
    return {
        "preview": preview_metadata(
            f"**{len(table.sizes):,} segments** have users. The first:",
            markdown_table(["segment", "users"], table.sizes.head(MAX_SEGMENTS_SHOWN).iter_rows()),
        ),
        **table_metadata(table.rows, SEGMENT_COLUMNS, columns),
        "segments": len(table.sizes),
        "empty_segments": len(segments.queries) - len(table.sizes),
        "users": len(table.users),
        "batch_segment_job_arn": job.arn,
        "batch_segment_output": JobOutput(work.storage, job.description).folder,
        "outcome": describe_outcome(job, "segmented"),
        "inference_seconds": measure_job_seconds(job),
        "dagster/uri": segmentation.uri,
        **storage_links("table", work.storage, segmentation.uri),
        **dataset_group_link(model.dataset_group_arn, on_aws=work.ensure.on_aws),
        **build_cost_metadata("cost_usd", segmentation.cost, on_aws=work.ensure.on_aws),
    }
