"""Rows of an upstream asset as a source of ratings or items: where Dagster says that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.preparation.sources.computed import AssetRows, ResultFile
from batchrec_dagster.preparation.sources.errors import FileError, SourceError
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.sources.query import FileQuery
from batchrec_dagster.preparation.sources.source import RatingsSource, SourceContext, safe_filename
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.storage.io_managers import to_polars

# The metadata that may name a file or a folder.
PATH_KEYS = ("dagster/uri", "path", "uri")


def _load_when_copied(text: str, version: str, load: Callable[[], Any]) -> ResultFile:
    """A source of an asset's rows, which its IO manager loads when they are copied.

    text: the asset as the setting names it.
    version: the version of its data.
    """

    def write(path: Path, context: SourceContext) -> None:
        try:
            _to_table(load()).write_parquet(path)
        except Exception as error:  # An IO manager can raise anything.
            raise FileError(
                f"its IO manager cannot load it as a table ({type(error).__name__}: {error}):"
                " return a frame, a table or a path, or let its metadata name the file: path"
            ) from error

    return ResultFile(text, version, f"{safe_filename(text)}.parquet", write)


def find_upstream(source: RatingsSource, context: dg.AssetExecutionContext) -> RatingsSource:
    """The source; for rows of an upstream asset, the source where these rows are now.

    They are at the path that the asset's metadata names, else as its IO manager loads them.
    Raises StepError if there are none.
    """
    if isinstance(source, FileQuery):
        tables = {name: find_upstream(table, context) for name, table in source.tables.items()}
        return replace(source, tables=tables)
    if not isinstance(source, AssetRows):
        return source
    key = dg.AssetKey(source.key)
    event = context.instance.get_latest_materialization_event(key)
    materialization = event.asset_materialization if event else None
    if event is None or materialization is None:
        raise StepError(
            f"{source.text} was never materialized: materialize it, then run this again. Without"
            " DAGSTER_HOME, Dagster's own commands do not remember it"
        )
    graph = context.repository_def.asset_graph
    # None for an asset of another code location.
    definition = graph.get(key).metadata if graph.has(key) else None
    # What Dagster's own IO managers store is not a table, though they report its path.
    is_stored = definition is not None and graph.get(key).is_materializable
    reported_keys = PATH_KEYS[:1] if is_stored else PATH_KEYS
    reported_paths = _find_paths(materialization.metadata, reported_keys)
    for path in (*_find_paths(definition or {}, PATH_KEYS), *reported_paths):
        try:
            return parse_source(path, source.table_format)
        except SourceError as error:
            raise StepError(
                f"{source.text}: its metadata names no file or folder: {error}"
            ) from error
    if definition is None:
        raise StepError(
            f"{source.text} is in another code location, and its metadata names no file: add it"
            f" here as an AssetSpec with an IO manager, or let its materialization report path"
        )
    version = (materialization.tags or {}).get("dagster/data_version") or event.run_id
    return _load_when_copied(source.text, version, lambda: context.load_asset_value(key))


def _to_table(value: Any) -> pl.DataFrame:
    if not isinstance(value, str | Path):
        return to_polars(value)
    if Path(value).suffix == ".parquet":
        return pl.read_parquet(value, glob=False)
    return pl.read_csv(value, infer_schema=False, glob=False)


def _find_paths(metadata: Mapping[str, Any], keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        value = metadata.get(key)
        text = getattr(value, "value", value)
        if isinstance(text, str) and text:
            yield text.removeprefix("file://")
