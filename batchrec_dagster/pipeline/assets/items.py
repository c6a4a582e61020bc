"""items and item_titles: what Personalize learns of the items, and what people read."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP, ITEM_ID
from batchrec_dagster.pipeline.assets.raw import column_name, raw_items
from batchrec_dagster.pipeline.declare_asset import PREPARED, asset, preview, sample, table_facts
from batchrec_dagster.pipeline.run_step import PREPARED_BEFORE, MadeOf
from batchrec_dagster.preparation.items import ItemsLayout, ItemsRead
from batchrec_dagster.reporting.markdown import format_table as markdown_table
from batchrec_dagster.steps.items import read_items
from batchrec_dagster.steps.raw_files import RawRecord
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.paths import StoredObject

CODE_VERSION = "1"

TITLES = {
    "item_id": ("string", "The item's id."),
    "title": ("string", "Its title; null where the file has none."),
    "image": ("string", "The address of its picture; null where the file has none."),
    "link": ("string", "The address of its page; null where the file has none."),
}


def item_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """The declared ones."""
    declared = pipeline.items
    if declared is None:
        return []
    layout = replace(declared.layout, null_values=pipeline.ratings.all_null_values)
    assets = [raw_items(pipeline, declared, layout)]
    if layout.schema is not None:
        assets.append(items(pipeline, layout))
    if layout.title is not None:
        assets.append(item_titles(pipeline, layout))
    return assets


def items(pipeline: Pipeline, layout: ItemsLayout) -> dg.AssetsDefinition:

    def shown(table: pl.DataFrame) -> dict[str, Any]:
        empty = {column: table.get_column(column).null_count() for column in layout.columns[1:]}
        return {
            "preview": preview(
                f"**{table.height:,} items**. Missing values:",
                markdown_table(["column", "items without"], empty.items()),
            ),
            "empty": empty,
        }

    return _prepared(
        pipeline,
        layout,
        "items",
        description="What Personalize learns about each item, such as its genres and when it"
        " came out: the CSV file that it imports, for models and filters.",
        kind="csv",
        storage_key=pipeline.places.items,
        io_manager="items_io",
        part=lambda read: read.metadata,
        stored_version=lambda stored: fingerprint(stored.decode()),
        columns=_columns(layout),
        shown=shown,
    )


def item_titles(pipeline: Pipeline, layout: ItemsLayout) -> dg.AssetsDefinition:

    def shown(titles: pl.DataFrame) -> dict[str, Any]:
        without = titles.get_column("title").null_count()
        return {
            "preview": preview(f"**{titles.height:,} items**, {without:,} without a title."),
            "without_title": without,
        }

    return _prepared(
        pipeline,
        layout,
        "item_titles",
        description="Each item's title, for the people who read the tables and the report."
        " Personalize does not get them.",
        kind="parquet",
        storage_key=pipeline.places.item_titles,
        io_manager="parquet_io",
        part=lambda read: read.titles,
        stored_version=_titles_version,
        columns=TITLES,
        shown=shown,
    )


def _prepared(
    pipeline: Pipeline,
    layout: ItemsLayout,
    name: str,
    *,
    description: str,
    kind: str,
    storage_key: str,
    io_manager: str,
    part: Callable[[ItemsRead], pl.DataFrame],
    stored_version: Callable[[bytes], str | None],
    columns: dict[str, tuple[str, str]],
    shown: Callable[[pl.DataFrame], dict[str, Any]],
) -> dg.AssetsDefinition:
    """The asset of a part of the file. stored_version: of the stored content; shown: metadata."""

    @asset(
        pipeline,
        name=name,
        description=description,
        kinds={kind},
        stage=PREPARED,
        storage_key=storage_key,
        code_version=f"{CODE_VERSION}-{fingerprint(layout)}",
        io_manager=io_manager,
    )
    def prepared(
        context: dg.AssetExecutionContext, raw_items: dict[str, Any], work: Work
    ) -> dg.MaterializeResult[Any]:
        raw, uri = RawRecord.from_json(raw_items), work.storage.uri(storage_key)
        made_of = MadeOf(context, (raw.version,))
        if same := made_of.earlier(
            lambda: stored_version(bytes(work.storage.store.get(uri))),
            StoredObject(uri),
            PREPARED_BEFORE,
        ):
            return same
        table = part(read_items(raw, work.storage, layout))
        version = fingerprint(table.write_csv())
        return dg.MaterializeResult(
            value=table,
            data_version=dg.DataVersion(version),
            metadata={
                **shown(table),
                **table_facts(pipeline, table.height, columns, _lineage(layout), table.columns),
                "sample": sample(table.head(5)),
                **made_of.metadata(version),
            },
        )

    return prepared


def _titles_version(stored: bytes) -> str | None:
    """The version of titles that are stored as batchrec writes them, to the byte."""
    titles, written = pl.read_parquet(stored), io.BytesIO()
    titles.write_parquet(written)
    return fingerprint(titles.write_csv()) if written.getvalue() == stored else None


def _lineage(layout: ItemsLayout) -> dict[str, list[tuple[str, str]]]:
    names = {"item": (ITEM_ID, "item_id"), "title": ("title",), "created": (CREATION_TIMESTAMP,)}
    return {
        name: [("raw_items", column_name(column))]
        for role, column in layout.roles.items()
        for name in names.get(role, (role.partition(".")[2],))
    }


def _columns(layout: ItemsLayout) -> dict[str, tuple[str, str]]:
    return {
        ITEM_ID: ("string", "The item's id, as in the ratings."),
        **dict.fromkeys(
            layout.categories, ("string", "Its values; several stand side by side with | between.")
        ),
        **dict.fromkeys(layout.numbers, ("double", "A number.")),
        CREATION_TIMESTAMP: ("long", "When the item came out, in epoch seconds."),
    }
