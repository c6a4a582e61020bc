"""Reads the raw files of ratings before they are used: their format, columns and bad rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.preparation.layout import Layout, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import BadRows, Ratings, opened
from batchrec_dagster.preparation.sources.formats import PACKED, START, format_of
from batchrec_dagster.preparation.sources.limits import PARQUET
from batchrec_dagster.steps.checks import Checked, rows_readable
from batchrec_dagster.steps.raw_files import RawRecord, open_raw_files
from batchrec_dagster.steps.spark_jobs import spark_engine
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.resource import StorageResource


@dataclass(frozen=True)
class RatingsFormat:
    """How the files are read, as declared or recognised.

    `types`: of every column by its name. `columns`: the name of the column of each role.
    """

    layout: Layout
    timestamp_unit: str
    encodings: tuple[str, ...]
    types: Mapping[str, str]
    columns: Mapping[str, str]
    recognised: Mapping[str, str]
    empty_files: tuple[str, ...]
    first_lines: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RatingsInspection:
    """The verdict on raw ratings and the counts behind it; `format` is None if they are unreadable.

    `whole` is False if only the first file's first rows were read, as Spark reads the rest on AWS.
    """

    check: Checked
    bytes: int
    whole: bool
    rows: int = 0
    bad_rows: int = 0
    format: RatingsFormat | None = None


def inspect_ratings(
    raw: RawRecord, pipeline: Pipeline, storage: StorageResource, project: Path
) -> RatingsInspection:
    """Read every row once. Raises SourceError, StorageError, dg.Failure."""
    ratings, spark = pipeline.ratings, spark_engine(pipeline.preparation)
    whole = spark is None or not spark.on_aws
    with (
        open_raw_files(raw, ratings.rows, storage, project)
        if whole
        else open_first_file(raw, storage)
    ) as files:
        size = sum(file.path.stat().st_size for file in files)
        try:
            with opened(files, ratings.reading, pipeline.rules) as read:
                rows, bad, unit = read.look()
                check = rows_readable("rows_readable", "ratings", rows, bad, ratings.on_bad_rows)
                if _has_comma_decimals(bad, read):
                    check = replace(check, found=f"{check.found}. Or set ratings.decimal: ','")
                return RatingsInspection(check, size, whole, rows, bad.total, _format(read, unit))
        except PreparationError as error:
            return RatingsInspection(Checked("rows_readable", False, str(error)), size, whole)


def s3_uris(raw: RawRecord, storage: StorageResource) -> list[str]:
    """Where Spark on AWS reads the files. Raises dg.Failure if they are not in S3."""
    uris = [file.uri or file.source for file in raw.files]
    if not storage.in_s3 or not all(map(_is_object, uris)):
        raise dg.Failure(
            "preparation.engine glue and emr_serverless read from S3: set"
            " BATCHREC_STORAGE=s3://bucket/prefix, and keep ratings.copy on for other sources",
            allow_retries=False,
        )
    return uris


def _is_object(uri: str) -> bool:
    # Not a file in an archive, nor a table, which is a folder.
    return uri.startswith("s3://") and "!/" not in uri and not uri.endswith("/")


@contextmanager
def open_first_file(raw: RawRecord, storage: StorageResource) -> Iterator[list[RawFile]]:
    """The start of the first file that is not empty, on this machine: enough to see the format. A
    file that is no plain text is downloaded whole. Raises StorageError, dg.Failure."""
    for uri in s3_uris(raw, storage):
        start = next(storage.store.chunks(uri), b"")
        if not start:
            continue
        if start.startswith((PARQUET, *PACKED)) or format_of(start[:START]):
            with storage.local_file(uri) as path:
                yield [RawFile(path, uri)]
            return
        with temporary_folder() as folder:
            path = folder / "start"
            path.write_bytes(start[: start.rfind(b"\n") + 1] or start)
            yield [RawFile(path, uri)]
        return
    raise dg.Failure("all files of ratings.source are empty", allow_retries=False)


def _format(read: Ratings, timestamp_unit: str) -> RatingsFormat:
    return RatingsFormat(
        layout=read.layout,
        timestamp_unit=timestamp_unit,
        encodings=tuple(read.encodings),
        types=dict(read.found.types),
        columns=_columns(read),
        recognised=dict(read.found.recognised),
        empty_files=tuple(read.empty),
        first_lines=read.first_lines(),
        warnings=tuple(read.found.warnings),
    )


def _columns(read: Ratings) -> dict[str, str]:
    names = list(read.found.types)
    return {
        role: names[column - 1] if isinstance(column, int) else column
        for role, column in read.layout.columns.items()
    }


def _has_comma_decimals(bad: BadRows, read: Ratings) -> bool:
    """Whether bad rows have numbers such as 4,5 in a csv whose delimiter is not a comma."""
    layout = read.layout
    return (
        layout.format == "csv"
        and "," not in (layout.delimiter, layout.decimal)
        and any(re.search(r"is not a number.*[0-9],[0-9]", row) for row in bad.examples)
    )
