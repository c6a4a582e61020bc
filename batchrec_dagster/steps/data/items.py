"""The tables of items, and the columns of items that lists show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from batchrec_dagster.config import ListTable, Pipeline, fingerprint
from batchrec_dagster.config.items_and_users import ItemIds
from batchrec_dagster.config.list_columns import (
    FOR_PEOPLE,
    REASON_TITLE,
    REASONS,
    name_published_column,
)
from batchrec_dagster.personalize.schemas import ITEM_ID, ITEMS, parse_schema
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.preparation.counting import list_distinct
from batchrec_dagster.preparation.id_lists import read_ids
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.attributes import fingerprint_layout, read_attribute_rows
from batchrec_dagster.steps.data.data_sizes import RawAttributes
from batchrec_dagster.steps.data.raw_files import open_source
from batchrec_dagster.steps.data.stored_files import TableRecord, put_table
from batchrec_dagster.steps.records import Result, once

# The number of rows in the sample of a table that its record keeps.
SAMPLE_ROWS = 5
# The Polars types of a schema's field types.
_TYPES: dict[str, type[pl.DataType]] = {"string": pl.String, "double": pl.Float64, "long": pl.Int64}


def prepare_items(
    step: StepContext, raw: RawAttributes, layout: AttributesLayout
) -> Result[TableRecord]:
    """Prepare the items table for Personalize, unless an earlier run has done so.

    Raises UserError.
    """
    key = step.pipeline.keys.items
    return _prepare_table(step, "items", key, raw, layout, {name: name for name in layout.columns})


def prepare_item_titles(
    step: StepContext, raw: RawAttributes, layout: AttributesLayout
) -> Result[TableRecord]:
    """Prepare the table of item titles that people read, unless an earlier run has done so.

    The table also has the items' images and links, if the declaration has them. Raises UserError.
    """
    key = step.pipeline.keys.item_titles
    names = ["title", *layout.addresses]
    columns = {"item_id": layout.id_name, **{name: name for name in names}}
    return _prepare_table(step, "item_titles", key, raw, layout, columns)


def _prepare_table(
    step: StepContext,
    asset: str,
    key: str,
    raw: RawAttributes,
    layout: AttributesLayout,
    columns: Mapping[str, str],
) -> Result[TableRecord]:
    """Store a table of the good rows, unless an earlier run has done so.

    columns: for each column of the table, the name of the column in the file's rows.
    """
    made_of = {"raw_items": raw.version, "settings": fingerprint_layout(layout)}

    def make() -> TableRecord:
        items = read_attribute_rows(raw.files, step.storage, layout)
        table = items.good.select(**columns)
        record = put_table(step, key, table, made_of)
        sample = tuple(table.head(SAMPLE_ROWS).to_dicts())
        return record.model_copy(update={"sample": sample})

    return once(step, step.files.record_uri(asset), TableRecord, made_of, make)


def list_categories(pipeline: Pipeline) -> list[str]:
    """Return the names of the items' categories, for the report to count."""
    return [*pipeline.items.layout.categories] if pipeline.items else []


def read_titles_version(step: StepContext) -> str:
    """Return the version of the titles table. The pipeline must declare titles.

    Raises UserError.
    """
    return step.files.asset_version("item_titles")


def read_titles(step: StepContext) -> pl.DataFrame:
    """Return the columns item_id and title of the titles table. The pipeline must declare titles.

    Raises UserError.
    """
    return _read_titles_table(step, ["title"])


def _read_titles_table(step: StepContext, columns: Sequence[str]) -> pl.DataFrame:
    """Return item_id and the given columns of the titles table: title, image or link."""
    uri = step.files.uri(step.pipeline.keys.item_titles)
    return pl.read_parquet(step.storage.store.get(uri), columns=["item_id", *columns])


def read_item_ids(step: StepContext) -> pl.Series:
    """Return the ids in the items file. The pipeline must declare an items file.

    Raises UserError.
    """
    if step.pipeline.has_titles:
        return read_titles(step).get_column("item_id")
    content = step.storage.store.get(step.files.uri(step.pipeline.keys.items))
    return pl.read_csv(content, columns=[ITEM_ID], infer_schema=False).to_series()


def read_item_list(step: StepContext, declared: ItemIds, setting: str) -> pl.Series:
    """Return the distinct ids of a declared list of items. Raises UserError.

    setting: the name of the list's block in the declaration, such as similar_items.items.
    """
    null_values = step.pipeline.ratings.all_null_values
    column_setting, header = f"{setting}.column", declared.file_header
    with open_source(declared.rows, step.storage, step.pipeline.project) as files:
        return read_ids(files, "item", declared.column, column_setting, null_values, header)


def read_attributes(step: StepContext) -> pl.DataFrame | None:
    """Return the rows of Personalize's Items dataset; None if the pipeline declares no items.

    Raises UserError.
    """
    schema = step.pipeline.schemas.get(ITEMS)
    if schema is None:
        return None
    types = {field.name: _TYPES[field.type] for field in parse_schema(schema).fields}
    content = step.storage.store.get(step.files.uri(step.pipeline.keys.items))
    return pl.read_csv(content, schema=types)


def list_item_columns(published: ListTable) -> list[str]:
    """Return the columns of items that the list declares, in the declared order."""
    return [name for name in published.columns if name not in REASONS]


def list_attribute_columns(published: ListTable) -> list[str]:
    """Return the list's columns of items that Personalize also gets: categories and numbers."""
    return [name for name in list_item_columns(published) if name not in FOR_PEOPLE]


def find_titled_items(
    step: StepContext, published: ListTable, interactions: pl.LazyFrame
) -> pl.Series | None:
    """Return the ids of the items with a title if the list must leave out all other items.

    Returns None if no items must be left out: the list shows no titles, or all items have a title.
    If no item of the interactions has a title, the result is None too: the items file then
    writes ids differently, and a check warns of that. Raises UserError.
    """
    if "title" not in published.columns:
        return None
    titles = read_titles(step)
    titled = titles.filter(pl.col("title").fill_null("") != "").get_column("item_id")
    items = list_distinct(interactions, ITEM_ID)
    has_title = items.is_in(titled.implode())
    are_all_titled = len(titled) == titles.height and has_title.all()
    return None if are_all_titled or not has_title.any() else titled


def read_item_columns(step: StepContext, published: ListTable) -> pl.DataFrame | None:
    """Return item_id and the list's columns of items; None if the list has no such columns.

    Raises UserError.
    """
    columns = list_item_columns(published)
    if not columns:
        return None
    selected = [pl.col(name).alias(name_published_column(name)) for name in columns]
    in_titles = [name for name in columns if name in FOR_PEOPLE]
    if in_titles:
        items = _read_titles_table(step, in_titles)
    if len(in_titles) < len(columns):
        item_columns = read_attributes(step)
        assert item_columns is not None, "the declaration has categories or numbers"
        item_columns = item_columns.rename({ITEM_ID: "item_id"})
        # Both tables are made from the same rows.
        items = items.join(item_columns, on="item_id", how="left") if in_titles else item_columns
    return items.select("item_id", *selected)


def read_item_columns_versions(step: StepContext, published: ListTable) -> list[str]:
    """Return the versions of the list's columns of items; empty without such columns.

    Raises UserError.
    """
    pipeline = step.pipeline
    if published.settings.columns is None and not pipeline.has_addresses:
        # The version of the titles is known without reading them.
        return [read_titles_version(step)] if pipeline.has_titles else []
    items = read_item_columns(step, published)
    versions = [] if items is None else [fingerprint(items.write_csv())]
    return [*versions, read_titles_version(step)] if REASON_TITLE in published.columns else versions


def add_item_columns(table: pl.DataFrame, items: pl.DataFrame, of: str = "item_id") -> pl.DataFrame:
    """Insert the columns of items into the table, after its column of item ids.

    items: the column item_id, and the columns to insert.
    of: the name of the table's column of item ids.
    """
    columns = [name for name in items.columns if name != "item_id"]
    joined = table.join(items.rename({"item_id": of}), on=of, how="left", maintain_order="left")
    after = table.columns.index(of) + 1
    return joined.select([*table.columns[:after], *columns, *table.columns[after:]])
