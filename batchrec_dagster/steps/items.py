"""Reads and checks the copied items file, and reads what lists have of the items."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.config import Pipeline, PublishedList, fingerprint
from batchrec_dagster.config.list_columns import FOR_PEOPLE, REASONS, name_published_column
from batchrec_dagster.personalize.schemas import CREATION_TIMESTAMP, ITEM_ID, ITEMS, parse_schema
from batchrec_dagster.preparation.items import ItemsLayout, ItemsResult, parse_items
from batchrec_dagster.preparation.layout import PreparationError
from batchrec_dagster.steps.checks import check_rows_readable
from batchrec_dagster.steps.data_sizes import DataSize, FileInspection
from batchrec_dagster.steps.raw_files import RawRecord, open_copy
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.editions import Finding


def read_items(raw: RawRecord, storage: StorageResource, layout: ItemsLayout) -> ItemsResult:
    """The rows of the copied file.

    Raises UserError, and PreparationError unless `inspect_items` has passed it.
    """
    (file,) = raw.files
    with open_copy(file, storage) as raw_file:
        return parse_items(raw_file, layout)


def inspect_items(
    raw: RawRecord, storage: StorageResource, layout: ItemsLayout, on_bad_rows: str
) -> FileInspection:
    """The verdict on the copied file. Raises UserError."""
    try:
        items = read_items(raw, storage, layout)
    except PreparationError as error:
        check = Finding("items_readable", passed=False, text=str(error))
        return FileInspection(check, DataSize(0))
    check = check_rows_readable("items_readable", "items", items.rows, items.bad, on_bad_rows)
    return FileInspection(check, _measure_items(items, layout))


def _measure_items(items: ItemsResult, layout: ItemsLayout) -> DataSize:
    """How many items there are, and how many have a value in each declared column."""
    values = {}
    for role in layout.roles:
        table = items.titles if role in items.titles.columns else items.metadata
        # A category or a number has its name in its role, such as categories.GENRES.
        column = CREATION_TIMESTAMP if role == "created" else role.rpartition(".")[2]
        if role != "item":
            values[f"items.columns.{role}"] = table.get_column(column).count()
    return DataSize(items.titles.height, values=values)


def list_categories(pipeline: Pipeline) -> list[str]:
    """The names of the items' categories, which the report counts."""
    return [*pipeline.items.layout.categories] if pipeline.items else []


def has_item_table(pipeline: Pipeline) -> bool:
    """Whether the items have something that the report counts: categories, or times of creation."""
    layout = pipeline.items.layout if pipeline.items else None
    return layout is not None and (bool(layout.categories) or layout.created is not None)


def list_optional_tables(pipeline: Pipeline) -> list[str]:
    """The assets of this pipeline that not every pipeline has, and whose tables the report
    shows."""
    is_declared = {
        "item_titles": pipeline.has_titles,
        "items": has_item_table(pipeline),
        "user_segments": pipeline.segments is not None,
    }
    return [name for name, declared in is_declared.items() if declared]


def read_titles_version(work: Work) -> str:
    """The version of the titles, which the pipeline must declare. Raises UserError."""
    return work.storage.version(work.files.uri(work.pipeline.keys.item_titles))


def read_titles(work: Work) -> pl.DataFrame:
    """The columns item_id and title of the titles, which the pipeline must declare.

    Raises UserError.
    """
    return _read_titles_table(work, ["title"])


def _read_titles_table(work: Work, columns: Sequence[str]) -> pl.DataFrame:
    """The column item_id and these of the titles' table, which may have image and link too."""
    uri = work.files.uri(work.pipeline.keys.item_titles)
    return pl.read_parquet(work.storage.store.get(uri), columns=["item_id", *columns])


def read_item_ids(work: Work) -> pl.Series:
    """The column of ids in the items file, which the pipeline must declare. Raises UserError."""
    if work.pipeline.has_titles:
        return read_titles(work).get_column("item_id")
    content = work.storage.store.get(work.storage.uri(work.pipeline.keys.items))
    return pl.read_csv(content, columns=[ITEM_ID], infer_schema=False).to_series()


def read_attributes(work: Work) -> pl.DataFrame | None:
    """The items as Personalize's Items dataset has them; None if the pipeline declares none.

    Raises UserError.
    """
    schema = work.pipeline.schemas.get(ITEMS)
    if schema is None:
        return None
    types = {field.name: _TYPES[field.type] for field in parse_schema(schema).fields}
    content = work.storage.store.get(work.storage.uri(work.pipeline.keys.items))
    return pl.read_csv(content, schema=types)


_TYPES: dict[str, type[pl.DataType]] = {"string": pl.String, "double": pl.Float64, "long": pl.Int64}


def list_item_columns(published: PublishedList) -> list[str]:
    """The columns of the items that lists have, as they are declared."""
    return [name for name in published.columns if name not in REASONS]


def list_attribute_columns(published: PublishedList) -> list[str]:
    """Those of them that Personalize gets too: categories and numbers."""
    return [name for name in list_item_columns(published) if name not in FOR_PEOPLE]


def read_item_columns(work: Work, published: PublishedList) -> pl.DataFrame | None:
    """The column item_id, and those that lists have of the items; None if they have none.

    Raises UserError.
    """
    columns = list_item_columns(published)
    if not columns:
        return None
    selected = [pl.col(name).alias(name_published_column(name)) for name in columns]
    in_titles = [name for name in columns if name in FOR_PEOPLE]
    if in_titles:
        items = _read_titles_table(work, in_titles)
    if len(in_titles) < len(columns):
        attributes = read_attributes(work)
        assert attributes is not None, "the declaration has categories or numbers"
        attributes = attributes.rename({ITEM_ID: "item_id"})
        # Both are made of the same rows.
        items = items.join(attributes, on="item_id", how="left") if in_titles else attributes
    return items.select("item_id", *selected)


def read_item_columns_versions(work: Work, published: PublishedList) -> list[str]:
    """A list of the version of what lists have of the items; empty if they have nothing of them.

    Raises UserError.
    """
    pipeline = work.pipeline
    if published.settings.columns is None and not pipeline.has_addresses:
        # The version of the titles is known without reading them.
        return [read_titles_version(work)] if pipeline.has_titles else []
    items = read_item_columns(work, published)
    return [] if items is None else [fingerprint(items.write_csv())]


def add_item_columns(table: pl.DataFrame, items: pl.DataFrame, of: str = "item_id") -> pl.DataFrame:
    """The table with the columns of each item after its id.

    items: the column item_id, and others.
    of: the table's column of item ids.
    """
    columns = [name for name in items.columns if name != "item_id"]
    joined = table.join(items.rename({"item_id": of}), on=of, how="left", maintain_order="left")
    after = table.columns.index(of) + 1
    return joined.select([*table.columns[:after], *columns, *table.columns[after:]])
