"""The asset recommendations: the lists of a batch inference job, published as a table."""

from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.assets.published_lists import (
    PublicationConfig,
    attribute_assets,
    describe_list_columns,
    describe_run,
    describe_table,
    list_checks,
    list_warnings,
    outcome_assets,
    published_metadata,
    roll_back,
    title_assets,
)
from batchrec_dagster.pipeline.declare_asset import (
    asset_options,
    build_cost_metadata,
    dataset_group_link,
    storage_links,
)
from batchrec_dagster.pipeline.run_endings import record_unchanged
from batchrec_dagster.pipeline.run_step import (
    asset_step,
    get_personalize_work,
    materialization_with_checks,
)
from batchrec_dagster.steps.batch_jobs import JobOutput, measure_job_seconds
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.work import PersonalizeWork

if TYPE_CHECKING:
    from batchrec_dagster.steps.infer import PublishedLists


CODE_VERSION = "1"


def recommendations(published: PublishedList) -> dg.AssetsDefinition:
    """The asset of the published lists."""
    pipeline, settings = published.pipeline, published.settings
    titles = title_assets(pipeline)
    experiment = [published.experiment] if published.experiment else []
    own_settings = [*experiment, *pipeline.popularity_settings]
    made_with = fingerprint(settings, *titles, *own_settings)
    without_seen = " Items that a user already had are left out."

    @dg.asset(
        **asset_options(
            published,
            "recommendations",
            description=f"{_describe_purpose(published)}The published table: the top"
            f" {settings.num_results} items for every user, as user_id, rank, item_id and score"
            f"{describe_list_columns(published)}{', and arm' if experiment else ''}."
            f"{without_seen if settings.excludes_all_seen else ''}",
            kinds={"personalize", "parquet"},
            inputs=["solution_version", "batch_users"],
            deps=[
                asset_key(pipeline, "interactions"),
                *titles,
                *attribute_assets(published),
                *outcome_assets(published),
            ],
            resources=["personalize"],
            storage_key=published.keys.table,
            code_version=f"{CODE_VERSION}-{made_with}",
            io_manager="published_io",
            checks=list_checks(published),
            warnings=list_warnings(published),
        )
    )
    @asset_step
    def recommendations(
        context: dg.AssetExecutionContext,
        config: PublicationConfig,
        solution_version: ModelRecord,
        batch_users: pl.LazyFrame,
    ) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.infer import infer_and_publish  # NumPy
        from batchrec_dagster.steps.retention import delete_unneeded

        work = get_personalize_work(pipeline, context)
        with work.list_lock(published, context.run.run_id) as lock:
            if config.roll_back_to:
                delete = partial(delete_unneeded, work)
                return roll_back(work, published, context, config.roll_back_to, lock, delete)
            run = describe_run(context, config)
            lists = infer_and_publish(work, published, solution_version, batch_users, run, lock)
            if lists.edition.root_run != run.root_run:
                record_unchanged(context)
        return materialization_with_checks(
            lists.checks,
            dg.MaterializeResult(
                data_version=dg.DataVersion(lists.edition.version),
                metadata=_lists_metadata(work, published, lists, solution_version),
            ),
        )

    return recommendations


def _describe_purpose(published: PublishedList) -> str:
    """What the list is for, as a sentence with a space after it; empty if that is not declared."""
    settings = published.pipeline.lists.get(published.name)
    if settings is None or not settings.description:
        return ""
    return f"{settings.description.rstrip('.')}. "


def _lists_metadata(
    work: PersonalizeWork,
    published: PublishedList,
    lists: "PublishedLists",
    model: ModelRecord,
) -> dict[str, Any]:
    """The metadata, of which Dagster's page shows the first ones at the top."""
    job = lists.job
    table = describe_table(published, lists.edition, lists.table)
    return {
        "preview": table.pop("preview"),
        "outcome": lists.outcome,
        **published_metadata(work.files_of(published), lists.edition),
        **table,
        "results_asked_for": lists.num_results,
        **dataset_group_link(model.dataset_group_arn, on_aws=work.ensure.on_aws),
        "batch_inference_job_arn": job.arn,
        "batch_inference_output": JobOutput(work.storage, job.description).folder,
        "inference_seconds": measure_job_seconds(job),
        **build_cost_metadata("cost_usd", lists.cost, on_aws=work.ensure.on_aws),
        **storage_links("table", work.storage, lists.edition.uri),
    }
