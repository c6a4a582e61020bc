"""The asset of a list about what people bought last."""

from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.pipeline.assets.published_lists import (
    PublicationConfig,
    attribute_assets,
    describe_list_columns,
    describe_run,
    describe_table,
    drop_absent_users_everywhere,
    list_checks,
    list_warnings,
    load_own_value,
    published_metadata,
    roll_back,
    title_assets,
)
from batchrec_dagster.pipeline.declare_asset import PUBLISHED_IO, asset_options, storage_links
from batchrec_dagster.pipeline.run_endings import record_unchanged
from batchrec_dagster.pipeline.run_step import (
    asset_step,
    get_personalize_work,
    materialization_with_checks,
)
from batchrec_dagster.steps.lists_declaration import describe_lists

CODE_VERSION = "1"


def after_order_lists(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset of the published lists of what goes with each person's last order.

    pipeline: narrowed to this list.
    """
    settings, titles = pipeline.recommendations, title_assets(pipeline)
    declaration = describe_lists(pipeline)
    made_with = fingerprint(
        settings, *pipeline.order_settings.fingerprint_parts, *pipeline.own_popularity, *titles
    )

    @dg.asset(
        **asset_options(
            pipeline,
            "recommendations",
            description=f"The published table: up to {settings.num_results} items that go with what"
            " each user bought last, by similar_items, as user_id, rank, item_id and score"
            f"{describe_list_columns(pipeline)}.",
            kinds={"parquet"},
            inputs=["batch_users"],
            deps=[
                pipeline.asset_key("interactions"),
                pipeline.asset_key("similar_items"),
                *titles,
                *attribute_assets(pipeline),
            ],
            resources=["personalize"],
            storage_key=pipeline.storage_keys.recommendations,
            code_version=f"{CODE_VERSION}-{made_with}",
            io_manager=PUBLISHED_IO,
            checks=list_checks(pipeline),
            warnings=list_warnings(pipeline),
        )
    )
    @asset_step
    def after_order_lists(
        context: dg.AssetExecutionContext, config: PublicationConfig, batch_users: pl.LazyFrame
    ) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.after_order import publish_after_order  # NumPy

        work = get_personalize_work(pipeline, context)
        with work.step_lease("recommendations", context.run.run_id):
            if config.roll_back_to:
                # No job made these lists, so nothing of one is to be deleted.
                return roll_back(work, context, config.roll_back_to, lambda work, jobs: None)
            run = describe_run(context, config)
            with drop_absent_users_everywhere(work, context):
                lists = publish_after_order(work, declaration, batch_users, run)
            if lists.edition.about.get("root_run") != run.root_run:
                record_unchanged(context)
        return materialization_with_checks(
            lists.checks,
            dg.MaterializeResult(
                value=load_own_value(work),
                data_version=dg.DataVersion(lists.edition.version),
                metadata={
                    **describe_table(work.pipeline, lists.table),
                    "outcome": lists.outcome,
                    **published_metadata(work, lists.edition, run.root_run),
                    **storage_links("table", work.storage, lists.edition.uri),
                },
            ),
        )

    return after_order_lists
