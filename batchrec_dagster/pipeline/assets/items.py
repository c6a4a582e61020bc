"""The asset items, which Personalize imports, and the asset item_titles, which people read."""

from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP, ITEM_ID
from batchrec_dagster.pipeline.assets.raw import describe_attribute_columns, raw_attributes
from batchrec_dagster.pipeline.declare_asset import PREPARED, PipelineAsset, asset_of
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import (
    build_sample,
    build_table_metadata,
    result_to_dagster,
)
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.steps.data.attributes import fingerprint_layout
from batchrec_dagster.steps.data.data_sizes import RawAttributes
from batchrec_dagster.steps.data.items import prepare_item_titles, prepare_items
from batchrec_dagster.steps.data.stored_files import TableRecord

TITLES = {
    "item_id": ("string", "The item's id."),
    "title": ("string", "Its title; null where the file has none."),
    "image": ("string", "The address of its picture; null where the file has none."),
    "link": ("string", "The address of its page; null where the file has none."),
}


def item_assets(pipeline: Pipeline) -> list[PipelineAsset]:
    """Return the assets of the items; none if the pipeline declares no items."""
    item_settings = pipeline.items
    if item_settings is None:
        return []
    layout = replace(item_settings.layout, null_values=pipeline.ratings.all_null_values)
    description = "What is known about the items, such as titles and genres"
    assets = [raw_attributes(pipeline, item_settings, layout, description)]
    if layout.schema is not None:
        assets.append(items(pipeline, layout))
    if layout.title is not None:
        assets.append(item_titles(pipeline, layout))
    return assets


def items(pipeline: Pipeline, layout: AttributesLayout) -> PipelineAsset:
    """Declare the asset of the item attributes that Personalize learns from."""
    key = pipeline.keys.items

    @asset_of(
        pipeline,
        "items",
        description="What Personalize learns about each item, such as its genres and when it"
        " came out: the CSV file that it imports, for models and filters.",
        kinds={"polars", "csv"},
        inputs=["raw_items"],
        stage=PREPARED,
        storage_key=key,
        code_version=fingerprint_layout(layout),
        io_manager="attributes_io",
    )
    def items(
        context: dg.AssetExecutionContext, raw_items: RawAttributes
    ) -> dg.MaterializeResult[Any]:
        step = open_step(pipeline, context)
        result = prepare_items(step, raw_items, layout)
        table = result.record
        return result_to_dagster(
            result,
            step.files.uri(key),
            {
                "empty": table.missing,
                **_build_table_metadata(table, _describe_columns(layout)),
            },
        )

    return items


def item_titles(pipeline: Pipeline, layout: AttributesLayout) -> PipelineAsset:
    """Declare the asset of the items' titles."""
    key = pipeline.keys.item_titles

    @asset_of(
        pipeline,
        "item_titles",
        description="Each item's title, for the people who read the tables and the report."
        " Personalize does not get them.",
        kinds={"polars", "parquet"},
        inputs=["raw_items"],
        stage=PREPARED,
        storage_key=key,
        code_version=fingerprint_layout(layout),
        io_manager="parquet_io",
    )
    def item_titles(
        context: dg.AssetExecutionContext, raw_items: RawAttributes
    ) -> dg.MaterializeResult[Any]:
        step = open_step(pipeline, context)
        result = prepare_item_titles(step, raw_items, layout)
        return result_to_dagster(
            result,
            step.files.uri(key),
            {
                "without_title": result.record.missing["title"],
                **_build_table_metadata(result.record, TITLES),
            },
        )

    return item_titles


def _build_table_metadata(
    table: TableRecord, columns: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """Return the metadata of a table without personal data, including its first rows."""
    return {
        **build_table_metadata(table.rows, columns, table.columns),
        "sample": build_sample(pl.DataFrame(table.sample)),
    }


def _describe_columns(layout: AttributesLayout) -> dict[str, tuple[str, str]]:
    """Return the type and the description of each column that the items can have."""
    return {
        ITEM_ID: ("string", "The item's id, as in the ratings."),
        **describe_attribute_columns(layout),
        CREATION_TIMESTAMP: ("long", "When the item came out, in epoch seconds."),
    }
