"""The titles of items, for the tables that people read."""

from __future__ import annotations

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.resource import StorageResource


def titles_of(pipeline: Pipeline) -> list[dg.AssetKey]:
    """The asset of the titles, for `deps`; empty if none are declared."""
    declared = pipeline.items is not None and pipeline.items.layout.title is not None
    return [dg.AssetKey([pipeline.name, "item_titles"])] if declared else []


def titles_versions(pipeline: Pipeline, storage: StorageResource) -> list[str]:
    """The version of the titles, empty if none are declared. Raises StorageError."""
    uri = storage.uri(pipeline.places.item_titles)
    return [storage.version(uri)] if titles_of(pipeline) else []


def read_titles(pipeline: Pipeline, storage: StorageResource) -> pl.DataFrame | None:
    """item_id and title; None if no titles are declared. Raises dg.Failure."""
    if not titles_of(pipeline):
        return None
    try:
        return pl.read_parquet(storage.store.get(storage.uri(pipeline.places.item_titles)))
    except StorageError as error:
        raise dg.Failure(f"item_titles: {error}", allow_retries=False) from error


def with_titles(
    table: pl.DataFrame, titles: pl.DataFrame | None, of: str = "item_id"
) -> pl.DataFrame:
    """The table with the title after its column of item ids, if there are titles."""
    if titles is None:
        return table
    joined = table.join(titles.rename({"item_id": of}), on=of, how="left", maintain_order="left")
    after = table.columns.index(of) + 1
    return joined.select([*table.columns[:after], "title", *table.columns[after:]])
