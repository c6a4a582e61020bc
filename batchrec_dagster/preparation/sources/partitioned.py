"""The source for a partitioned asset: the rows of all its partitions in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.csv_form import recognise_delimiter
from batchrec_dagster.preparation.file_form import FileForm, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile, open_file
from batchrec_dagster.preparation.sources.computed import ComputedRows
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    require_unchanged,
)
from batchrec_dagster.storage.durable import compute_sha256, temporary_folder


@dataclass(frozen=True)
class PartitionedRows(RowSource):
    """The source of a Parquet file with the rows of all partitions, one partition after another."""

    partitions: Mapping[str, RowSource]
    """The source of each partition's rows, by the partition's key."""

    form: FileForm
    """The declared form of text files."""

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return the file of all rows.

        Its version changes with each partition. Raises UserError.
        """
        files = {key: source.files(context) for key, source in self.partitions.items()}
        versions = [
            f"{key} {file.display_name} {file.fingerprint}"
            for key, listed_files in files.items()
            for file in listed_files
        ]
        version = compute_sha256(["\n".join(versions).encode()])
        return ComputedRows(self.text, version, partial(self._write, files)).files(context)

    def _write(self, files: Mapping[str, Sequence[ListedFile]], path: Path) -> None:
        """Write the rows of all partitions to the path.

        files: the files of each partition, by the partition's key.

        Raises FileError.
        """
        tables: list[pl.LazyFrame] = []
        with temporary_folder() as folder, ConfinedReader() as reader:
            for key, listed_files in files.items():
                for file in listed_files:
                    file_folder = folder / str(len(tables))
                    file_folder.mkdir()
                    with _name_partition(key):
                        raw_file = RawFile(file.provide(file_folder), file.filename)
                        table = scan_table(raw_file, self.form, file_folder, reader)
                        # The tables are on the disk, because all may not fit into the memory.
                        table.sink_parquet(file_folder / "table.parquet")
                    tables.append(pl.scan_parquet(file_folder / "table.parquet", glob=False))
            if not any(table.collect_schema() for table in tables):
                raise FileError(
                    "none of its partitions has a table: return one, or let the metadata of each"
                    " materialization name its file: dagster/uri"
                )
            for listed_files in files.values():
                require_unchanged(listed_files, "this run")
            try:
                pl.concat(tables, how="diagonal_relaxed").sink_parquet(path)
            except pl.exceptions.PolarsError as error:
                raise FileError(str(error)) from error


@contextmanager
def _name_partition(key: str) -> Iterator[None]:
    try:
        yield
    except (FileError, UserError) as error:
        raise FileError(f"partition {key}: {error}") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FileError(f"partition {key} cannot be read: {error}") from error


def scan_table(file: RawFile, form: FileForm, folder: Path, reader: ConfinedReader) -> pl.LazyFrame:
    """Return a lazy table of a file of any format; all columns of CSV are text.

    folder: a folder for unpacked or converted files. It must stay as long as the table is read.

    Raises PreparationError.
    """
    opened = open_file(file, form.encoding, folder, reader)
    if opened.format == "parquet":
        return pl.scan_parquet(opened.path, glob=False)
    if opened.format == "json":
        return pl.scan_ndjson(opened.path, infer_schema_length=None)
    delimiter = form.delimiter or recognise_delimiter(opened, {}, form.quoted, 0)
    if len(delimiter) > 1:
        raise PreparationError(f"{file.name} is separated by {delimiter}: write one character")
    quote = '"' if form.quoted else None
    return pl.scan_csv(
        opened.path, separator=delimiter, quote_char=quote, infer_schema=False, glob=False
    )
