"""The source for a partitioned asset: the rows of all its partitions in one file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.csv_form import read_separator_line, recognise_delimiter
from batchrec_dagster.preparation.file_form import NO_HEADER, FileForm, PreparationError
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.sources.computed import ComputedRows
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    make_filename,
    require_unchanged,
)
from batchrec_dagster.storage.durable import compute_sha256, temporary_folder


@dataclass(frozen=True)
class PartitionedRows(RowSource):
    """The source of a file with the rows of all partitions, one partition after another.

    The file is Parquet. If a header or columns by position are declared, it is CSV in the declared
    form.
    """

    partitions: Mapping[str, RowSource]
    """The source of each partition's rows, by the partition's key."""

    form: FileForm
    """The declared form of text files."""

    has_names: bool = True
    """Whether no column is declared by its position."""

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return the file of all rows.

        Its version changes with each partition and with the declared form. Raises UserError.
        """
        files = {key: source.files(context) for key, source in self.partitions.items()}
        versions = [
            f"{key} {file.display_name} {file.fingerprint}"
            for key, listed_files in files.items()
            for file in listed_files
        ]
        parts = [*versions, repr((self.form, self.has_names))]
        version = compute_sha256(["\n".join(parts).encode()])
        filename = name_table(self.text, self.form, has_names=self.has_names)
        rows = ComputedRows(self.text, version, partial(self._write, files), filename)
        return rows.files(context)

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
                        table = scan_table(
                            raw_file, self.form, file_folder, reader, has_names=self.has_names
                        )
                        # Each table is written to the disk, because all tables together may not fit
                        # into the memory.
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
                rows = pl.concat(tables, how="diagonal_relaxed")
                write_table(rows, self.form, path, has_names=self.has_names)
            except pl.exceptions.PolarsError as error:
                raise FileError(str(error)) from error


@contextmanager
def _name_partition(key: str) -> Iterator[None]:
    try:
        yield
    except Retry as error:
        raise Retry(f"partition {key}: {error}") from error
    except (FileError, UserError) as error:
        raise FileError(f"partition {key}: {error}") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FileError(f"partition {key} cannot be read: {error}") from error


def scan_table(
    file: RawFile, form: FileForm, folder: Path, reader: ConfinedReader, *, has_names: bool
) -> pl.LazyFrame:
    """Return a lazy table of a file of any format; all columns of CSV are text.

    form: the declared form of text files.
    folder: a folder for unpacked or converted files. It must stay as long as the table is read.
    has_names: whether no column is declared by its position.

    Raises PreparationError.
    """
    opened = open_file(file, form.encoding, folder, reader)
    if opened.format == "csv" and opened.shift >= 0:
        return _scan_text(opened, form, has_names=has_names)
    if opened.format == "parquet":
        table = pl.scan_parquet(opened.path, glob=False)
    elif opened.format == "json":
        table = pl.scan_ndjson(opened.path, infer_schema_length=None)
    else:
        table = _scan_text(opened, replace(form, header=None), has_names=True)
    columns = table.collect_schema().names()
    # A partition without rows may have no columns either.
    if columns and not _is_parquet(form, has_names=has_names):
        fix = "omit header" if form.header is not None else f"give these, of {', '.join(columns)}"
        raise PreparationError(f"{file.name} is a table, whose columns have names: {fix}")
    return table


def _scan_text(opened: OpenedFile, form: FileForm, *, has_names: bool) -> pl.LazyFrame:
    """Return a lazy table of a file of CSV, with text in all columns.

    Raises PreparationError.
    """
    has_header = has_names and form.header != NO_HEADER
    skipped = _count_lines_before_header(form, has_header=has_header) - opened.shift
    if form.header is None:
        skipped = 1 if read_separator_line(opened) else 0
    delimiter = form.delimiter or recognise_delimiter(opened, {}, form.quoted, skipped)
    if len(delimiter) > 1:
        raise PreparationError(f"{opened.name} is separated by {delimiter}: write one character")
    return pl.scan_csv(
        opened.path,
        has_header=has_header,
        skip_lines=max(0, skipped),
        separator=delimiter,
        quote_char='"' if form.quoted else None,
        infer_schema=False,
        glob=False,
    )


def write_table(table: pl.LazyFrame, form: FileForm, path: Path, *, has_names: bool) -> None:
    """Write the rows to the path, as Parquet or as CSV of the declared form.

    The rows are written as CSV if a header is declared, or if columns are declared by position.
    Parquet has no lines before a header, and its columns have names.
    """
    if _is_parquet(form, has_names=has_names):
        table.sink_parquet(path)
        return
    has_header = has_names and form.header != NO_HEADER
    encoding = "utf-8" if form.encoding == "auto" else form.encoding
    with temporary_folder() as folder:
        rows = folder / "rows.csv"
        table.sink_csv(
            rows,
            include_header=has_header,
            separator=form.delimiter or ",",
            quote_style="necessary" if form.quoted else "never",
        )
        with (
            rows.open(encoding="utf-8", newline="") as lines,
            path.open("w", encoding=encoding, errors="replace", newline="") as file,
        ):
            file.write("\n" * _count_lines_before_header(form, has_header=has_header))
            shutil.copyfileobj(lines, file)


def name_table(text: str, form: FileForm, *, has_names: bool) -> str:
    """Return the name in the storage of the file that `write_table` writes for this source."""
    extension = "parquet" if _is_parquet(form, has_names=has_names) else "csv"
    return f"{make_filename(text)}.{extension}"


def _is_parquet(form: FileForm, *, has_names: bool) -> bool:
    return form.header is None and has_names


def _count_lines_before_header(form: FileForm, *, has_header: bool) -> int:
    """Return the number of lines before the header, or before the first row without a header."""
    lines = form.header if isinstance(form.header, int) else int(has_header)
    return lines - int(has_header)
