"""Rows of an upstream Dagster asset as a source of ratings, items or users.

The asset is a dependency, and its IO manager loads its rows in the step, one partition after
another. If the asset were an input, every run would load all of its rows at once, even if nothing
has changed. And if the asset's metadata names a file with the rows, there is nothing to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import polars as pl

from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.table_kinds import to_polars
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.sources.computed import AssetRows, ComputedRows
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.parsing import SCHEMES, parse_source
from batchrec_dagster.preparation.sources.partitioned import (
    PartitionedRows,
    name_table,
    scan_table,
    write_table,
)
from batchrec_dagster.preparation.sources.query import FileQuery
from batchrec_dagster.preparation.sources.source import RowSource
from batchrec_dagster.storage.durable import temporary_folder

# The metadata that may name a file or a folder.
PATH_KEYS = ("dagster/uri", "path", "uri")
EVENTS_AT_ONCE = 1000


def find_upstream(source: RowSource, context: dg.AssetExecutionContext) -> RowSource:
    """Return the source, with every upstream asset in it replaced by the asset's current rows.

    The rows are at the path that the asset's metadata names, else its IO manager loads them. For a
    partitioned asset, the rows of all materialized partitions are combined.
    Raises UserError if there are no rows.
    """
    if isinstance(source, FileQuery):
        tables = {name: find_upstream(table, context) for name, table in source.tables.items()}
        return replace(source, tables=tables)
    if not isinstance(source, AssetRows):
        return source
    key = dg.AssetKey(source.key)
    definition = _find_definition(key, context)
    asset = _UpstreamAsset(source, key, definition, context)
    spec = definition.get_asset_spec(key) if definition is not None else None
    path = _find_path(spec.metadata, PATH_KEYS) if spec is not None else None
    if path is not None:
        # Without a materialization, the path may hold nothing yet, or something old.
        asset.require_materialization()
        return asset.parse_path(path)
    if spec is not None and spec.partitions_def is not None:
        return asset.find_partitions(spec.partitions_def)
    materialization = asset.require_materialization()
    if definition is None and materialization.partition:
        raise UserError(
            f"{source.text} is in another code location, and has partitions: add it here as an"
            " AssetSpec with its partitions_def"
        )
    return asset.find_rows(materialization)


def _find_definition(
    key: dg.AssetKey, context: dg.AssetExecutionContext
) -> dg.AssetsDefinition | None:
    """Return the definition of an asset in this code location; None if another location has it.

    The definition is read from the job, because `execute_in_process` and `dg.materialize` know no
    code location.
    """
    graph = context.job_def.asset_layer.asset_graph
    # A job's graph has the assets that the job selects, and their direct neighbours, which the job
    # does not make. If the job is a part of another job, its graph was selected from the other
    # job's graph.
    while graph.source_asset_graph is not graph:
        graph = graph.source_asset_graph
    return graph.get(key).assets_def if graph.has(key) else None


class _Materialization(NamedTuple):
    """Dagster's record of a materialization of an asset."""

    metadata: Mapping[str, Any]
    version: str
    """The data version; if there is none, the run's id."""
    partition: str | None
    """The key of the partition; None if the asset has none."""


def _read_materialization(event: dg.EventLogEntry | None) -> _Materialization | None:
    """Return the materialization that the event records; None if there is none."""
    recorded = None if event is None else event.asset_materialization
    if event is None or recorded is None:
        return None
    version = (recorded.tags or {}).get("dagster/data_version") or event.run_id
    return _Materialization(recorded.metadata, version, recorded.partition)


@dataclass(frozen=True)
class _UpstreamAsset:
    """An upstream asset that is a source of rows."""

    source: AssetRows
    key: dg.AssetKey
    definition: dg.AssetsDefinition | None
    """The asset's definition; None if only another code location defines it."""
    context: dg.AssetExecutionContext

    def require_materialization(self) -> _Materialization:
        """Return the last materialization. Raises UserError if there is none."""
        instance: dg.DagsterInstance = self.context.instance
        materialization = _read_materialization(instance.get_latest_materialization_event(self.key))
        if materialization is None:
            raise UserError(
                f"{self.source.text} was never materialized: materialize it, then run this again."
                " Without DAGSTER_HOME, Dagster's own commands do not remember it"
            )
        return materialization

    def find_partitions(self, definition: dg.PartitionsDefinition[str]) -> PartitionedRows:
        """Return the rows of all materialized partitions. Raises UserError if there are none."""
        text, log, instance = self.source.text, self.context.log, self.context.instance
        materializations = self._read_partitions()
        all_keys = [*definition.get_partition_keys(dynamic_partitions_store=instance)]
        keys = [key for key in all_keys if key in materializations]
        if not keys:
            self.require_materialization()
            raise UserError(f"{text}: none of its partitions was materialized: materialize them")
        log.info(
            f"{text}: {len(keys):,} partition{'s' if len(keys) > 1 else ''}, from {keys[0]} to"
            f" {keys[-1]}"
        )
        between = all_keys[all_keys.index(keys[0]) : all_keys.index(keys[-1])]
        gaps = [key for key in between if key not in materializations]
        if gaps and isinstance(definition, dg.TimeWindowPartitionsDefinition):
            log.warning(
                f"{text}: {len(gaps):,} of the partitions between were never materialized, such as"
                f" {gaps[0]}: their rows are missing"
            )
        partitions = {key: self.find_rows(materializations[key], key) for key in keys}
        return PartitionedRows(text, partitions, self.source.form, self.source.has_names)

    def _read_partitions(self) -> dict[str, _Materialization]:
        """Return the last materialization of each partition, by the partition's key."""
        materializations: dict[str, _Materialization] = {}
        cursor, has_more = None, True
        while has_more:
            page = self.context.instance.fetch_materializations(self.key, EVENTS_AT_ONCE, cursor)
            for record in page.records:
                materialization = _read_materialization(record.event_log_entry)
                if materialization is not None and materialization.partition is not None:
                    materializations.setdefault(materialization.partition, materialization)
            cursor, has_more = page.cursor, page.has_more
        return materializations

    def find_rows(
        self, materialization: _Materialization, partition: str | None = None
    ) -> RowSource:
        """Return the source with the rows of the asset. Raises UserError.

        materialization: the last materialization of these rows.
        partition: the key of the only partition to read; None for all rows.
        """
        # Dagster's own IO managers report `path` too, but the stored value there is not a table. So
        # if this location can materialize the asset, only `dagster/uri` counts.
        is_stored = self.definition is not None and self.definition.is_materializable
        path = _find_path(materialization.metadata, PATH_KEYS[:1] if is_stored else PATH_KEYS)
        if path is not None:
            return self.parse_path(path)
        if self.definition is None:
            raise UserError(
                f"{self.source.text} is in another code location, and its metadata names no file:"
                " add it here as an AssetSpec with an IO manager, or let its materialization report"
                f" path. {self._database_fix}"
            )
        write = partial(self._write_rows, partition)
        text, form, has_names = self.source.text, self.source.form, self.source.has_names
        version = f"{materialization.version} {(form, has_names)!r}"
        return ComputedRows(text, version, write, name_table(text, form, has_names=has_names))

    @property
    def _database_fix(self) -> str:
        """The fix for an asset that is a table of a database."""
        key = "/".join(self.source.key)
        return (
            "For a table of a database, write source: sql+env://VARIABLE, a query, and deps:"
            f" [{key}]"
        )

    def parse_path(self, path: str) -> RowSource:
        """Return the source at a path from the metadata. Raises UserError."""
        try:
            return parse_source(path, is_delta=self.source.is_delta)
        except UserError as error:
            raise UserError(
                f"{self.source.text}: its metadata names no file or folder: {error}"
            ) from error

    def _write_rows(self, partition: str | None, path: Path) -> None:
        """Load rows with the asset's IO manager, and write them to the path as Parquet.

        Raises FileError.
        """
        try:
            value = self.context.load_asset_value(self.key, partition_key=partition)
            # A partition may have no rows, such as a day without orders.
            has_no_rows = value is None and partition is not None
            self._write_table(pl.DataFrame() if has_no_rows else value, path)
        except Exception as error:  # An IO manager can raise anything.
            raise FileError(
                f"its IO manager cannot load it as a table ({type(error).__name__}: {error}):"
                " return a frame, a table or a path, or let its metadata name the file: path, as a"
                " path of this machine, s3://… or https://…."
                f" {self._database_fix}"
            ) from error

    def _write_table(self, value: Any, path: Path) -> None:
        """Write an IO manager's value, which is a table or the path of a table, as Parquet."""
        if not isinstance(value, str | Path):
            to_polars(value).write_parquet(path)
            return
        with temporary_folder() as folder, ConfinedReader() as reader:
            file = RawFile(Path(value), self.source.text)
            form, has_names = self.source.form, self.source.has_names
            table = scan_table(file, form, folder, reader, has_names=has_names)
            write_table(table, form, path, has_names=has_names)


def _find_path(metadata: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Return the first path that the metadata has under the keys; None if there is none.

    A URI with a scheme that no source has is skipped, except under the key `path`.
    """
    for key in keys:
        value = metadata.get(key)
        text = getattr(value, "value", value)
        if not isinstance(text, str) or not text:
            continue
        path = text.removeprefix("file://")
        scheme, is_address, _ = path.partition("://")
        # A URI may be any address, such as the address of a table in a warehouse.
        if key == "path" or not is_address or scheme in SCHEMES:
            return path
    return None
