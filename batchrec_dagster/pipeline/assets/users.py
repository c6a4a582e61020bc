"""The asset users: the attributes of users, which Personalize imports."""

from dataclasses import replace
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.pipeline.assets.raw import describe_attribute_columns, raw_attributes
from batchrec_dagster.pipeline.declare_asset import PREPARED, PipelineAsset, asset_of
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import build_table_metadata, result_to_dagster
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.steps.data.attributes import fingerprint_layout
from batchrec_dagster.steps.data.checks import SOURCE_WITHOUT_ERASED
from batchrec_dagster.steps.data.data_sizes import RawAttributes
from batchrec_dagster.steps.data.user_attributes import prepare_users


def user_assets(pipeline: Pipeline) -> list[PipelineAsset]:
    """Return the assets of users' attributes; none if the pipeline declares no users."""
    settings = pipeline.users
    if settings is None:
        return []
    layout = replace(settings.layout, null_values=pipeline.ratings.all_null_values)
    description = "What is known about the users, such as country and consent"
    return [raw_attributes(pipeline, settings, layout, description), users(pipeline, layout)]


def users(pipeline: Pipeline, layout: AttributesLayout) -> PipelineAsset:
    """Declare the asset of user attributes for Personalize, filters and conditions."""
    key = pipeline.keys.users

    @asset_of(
        pipeline,
        "users",
        description="What is known of each user, such as country and consent: the CSV file that"
        " Personalize imports, for models and filters, and that conditions on users read.",
        kinds={"polars", "csv"},
        inputs=["raw_users"],
        stage=PREPARED,
        storage_key=key,
        code_version=fingerprint_layout(layout),
        io_manager="attributes_io",
        warnings={SOURCE_WITHOUT_ERASED: "The source has no rows of people who were erased."},
    )
    def users(
        context: dg.AssetExecutionContext, raw_users: RawAttributes
    ) -> dg.MaterializeResult[Any]:
        step = open_step(pipeline, context)
        result = prepare_users(step, raw_users, layout)
        table = result.record
        return result_to_dagster(
            result,
            step.files.uri(key),
            {
                "empty": table.missing,
                "frequent_values": table.frequent_values,
                **build_table_metadata(table.rows, _describe_columns(layout)),
                "erased_users_in_source": table.erased or None,
            },
        )

    return users


def _describe_columns(layout: AttributesLayout) -> dict[str, tuple[str, str]]:
    """Return the type and the description of each column."""
    return {
        USER_ID: ("string", "The user's id, as in the ratings."),
        **describe_attribute_columns(layout),
    }
