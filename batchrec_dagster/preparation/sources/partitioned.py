"""The rows of a partitioned asset: those of its partitions, one after another, in one file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.preparation.sources.computed import ResultFile
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RatingsSource,
    SourceContext,
    safe_filename,
)
from batchrec_dagster.storage.durable import temporary_folder


@dataclass(frozen=True)
class PartitionedRows(RatingsSource):
    """The source of one Parquet file: the rows of all these partitions, in their order."""

    text: str
    """The asset, as the setting names it."""

    partitions: Mapping[str, RatingsSource]
    """Where the rows of each partition are, by its key."""

    @property
    def display_name(self) -> str:
        return self.text

    def files(self, context: SourceContext) -> list[ListedFile]:
        """The file of all rows, whose version changes with each partition. Raises UserError."""
        files = {key: source.files(context) for key, source in self.partitions.items()}
        versions = [
            f"{key} {file.file.display_name} {file.fingerprint}"
            for key, listed in files.items()
            for file in listed
        ]
        version = hashlib.sha256("\n".join(versions).encode()).hexdigest()
        filename = f"{safe_filename(self.text)}.parquet"
        write = partial(_write_rows, files)
        return ResultFile(self.text, version, filename, write).files(context)


def read_table(path: Path) -> pl.DataFrame:
    """The table in a file of Parquet, JSON Lines or CSV, by its name.

    All columns of CSV are text.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".parquet" in suffixes:
        return pl.read_parquet(path, glob=False)
    if {".json", ".jsonl", ".ndjson"} & {*suffixes}:
        return pl.read_ndjson(path)
    return pl.read_csv(path, infer_schema=False, glob=False)


def _write_rows(
    files: Mapping[str, Sequence[ListedFile]], path: Path, context: SourceContext
) -> None:
    """Write the rows of all partitions to the path. Raises FileError.

    files: those of each partition, by its key.
    """
    with temporary_folder() as folder:
        tables: dict[str, pl.LazyFrame] = {}
        for key, listed_files in files.items():
            for listed in listed_files:
                # On the disk, because all partitions together may not fit into the memory.
                table_path = folder / f"{len(tables)}.parquet"
                try:
                    _write_table(listed, table_path, context)
                except FileError as error:
                    raise FileError(f"partition {key}: {error}") from error
                except (OSError, pl.exceptions.PolarsError) as error:
                    raise FileError(f"partition {key} cannot be read: {error}") from error
                name = key if len(listed_files) == 1 else f"{key} ({listed.filename})"
                tables[name] = pl.scan_parquet(table_path, glob=False)
        if not any(table.collect_schema() for table in tables.values()):
            raise FileError(
                "none of its partitions has a table: return one, or let the metadata of each"
                " materialization name its file: dagster/uri"
            )
        try:
            pl.concat(tables.values(), how="diagonal_relaxed").sink_parquet(path)
        except pl.exceptions.PolarsError as error:
            raise FileError(str(error)) from error


def _write_table(listed: ListedFile, path: Path, context: SourceContext) -> None:
    """Write the rows of a file to the path, as Parquet."""
    file: Any = listed.file
    if isinstance(file, ResultFile):
        file.write(path, context)
        return
    with file.open_locally(context) as local_path:
        read_table(local_path).write_parquet(path)
