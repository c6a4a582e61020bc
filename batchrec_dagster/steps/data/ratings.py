"""The inspection of the copied ratings files: their format, and whether their rows are readable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from pydantic import BaseModel

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import OpenedRatings, open_ratings
from batchrec_dagster.preparation.sources.file_formats import (
    PACKED,
    PARQUET,
    START,
    recognise_format,
)
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.checks import check_rows_readable, refuse_unreadable
from batchrec_dagster.steps.data.raw_files import CopiedFile, RawRecord, open_copies
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.erased import ErasedUsers

CODE_VERSION = "2"
# The name of the check that the rows are readable.
ROWS_READABLE = "rows_readable"


class RatingsFormat(BaseModel, frozen=True):
    """The format of files, as declared or recognised."""

    format: str
    delimiter: str
    encodings: tuple[str, ...]
    empty_files: tuple[str, ...]
    """The names of the files without rows."""
    types: dict[str, str]
    """The type of each column."""
    roles: dict[str, str]
    """The role of each column that has a role. A role names the use of a column."""
    recognised: dict[str, str]
    """The column of each role that was recognised and not declared, by role."""
    warnings: tuple[str, ...]
    timestamp_unit: str


class RatingsSeen(BaseModel, frozen=True):
    """The results of an inspection of the ratings files."""

    rows: int
    """The number of rows that were read."""
    bad_rows: int
    bytes: int
    """The size of the files that were read, in bytes."""
    is_whole: bool
    """Whether all rows were read. On AWS only the first rows are inspected, because Spark reads the
    files later."""
    format: RatingsFormat


RawRatings = RawRecord[RatingsSeen]


def fingerprint_inspection(pipeline: Pipeline) -> str:
    """Return a fingerprint of the settings and the code that an inspection depends on."""
    settings = fingerprint(pipeline.ratings, pipeline.rules, pipeline.preparation)
    return f"{CODE_VERSION}-{settings}"


def inspect_ratings(
    step: StepContext, copies: Sequence[CopiedFile], erased_users: ErasedUsers
) -> tuple[Finding, RatingsSeen]:
    """Read every row once, or on AWS only the first rows, and check that the rows are readable.

    erased_users: the users who were erased; the results show nothing about them.

    Raises UserError, and Refused if the files cannot be read.
    """
    pipeline, storage = step.pipeline, step.storage
    is_whole = not pipeline.preparation.on_aws
    with open_copies(copies, storage) if is_whole else open_first_file(copies, storage) as files:
        size = sum(file.path.stat().st_size for file in files)
        with (
            refuse_unreadable(ROWS_READABLE),
            open_declared_ratings(files, pipeline, erased_users) as opened,
        ):
            rows = opened.inspect_rows()
            ratings_format = _describe_format(opened, pipeline.ratings, rows.timestamp_unit)
    check = check_rows_readable(
        ROWS_READABLE, "ratings", rows.rows_read, rows.bad, pipeline.ratings.on_bad_rows
    )
    require_passed([check])
    seen = RatingsSeen(
        rows=rows.rows_read,
        bad_rows=rows.bad.total,
        bytes=size,
        is_whole=is_whole,
        format=ratings_format,
    )
    return check, seen


def open_declared_ratings(
    files: list[RawFile], pipeline: Pipeline, erased_users: ErasedUsers
) -> AbstractContextManager[OpenedRatings]:
    """Open the ratings files as the pipeline declares them.

    erased_users: the users who were erased.

    Raises the errors of `open_ratings`.
    """
    form, columns = pipeline.ratings.file_form, pipeline.ratings.file_columns
    return open_ratings(files, form, columns, pipeline.rules, erased_users)


def _describe_format(
    opened: OpenedRatings, declared: RatingsSettings, timestamp_unit: str
) -> RatingsFormat:
    """Return the format of the opened files, and the roles that were recognised, not declared."""
    recognised = opened.recognised
    declared_roles = declared.file_columns.roles
    names = list(recognised.types)
    roles = {
        names[column - 1] if isinstance(column, int) else column: role
        for role, column in recognised.columns.roles.items()
    }
    return RatingsFormat(
        format=recognised.form.format or "csv",
        delimiter=recognised.form.delimiter or ",",
        encodings=tuple(opened.encodings),
        empty_files=tuple(opened.empty),
        types=dict(recognised.types),
        roles=roles,
        recognised={
            role: str(column)
            for role, column in recognised.columns.roles.items()
            if role not in declared_roles
        },
        warnings=tuple(recognised.warnings),
        timestamp_unit=timestamp_unit,
    )


@contextmanager
def open_first_file(copies: Sequence[CopiedFile], storage: Storage) -> Iterator[list[RawFile]]:
    """Yield a local copy of the start of the first file that is not empty, to detect the format.

    If the file is not plain text, the whole file is downloaded. Raises UserError if there is no
    such file, or if the storage is not in S3.
    """
    if not storage.in_s3:
        raise UserError(
            "preparation.engine glue reads from S3: set BATCHREC_STORAGE=s3://bucket/prefix"
        )
    for copy in copies:
        start = next(storage.store.chunks(copy.stored.uri), b"")
        if not start:
            continue
        if start.startswith((PARQUET, *PACKED)) or recognise_format(start[:START]):
            with storage.local_file(copy.stored.uri) as path:
                yield [RawFile(path, copy.source)]
            return
        with temporary_folder() as folder:
            path = folder / "start"
            path.write_bytes(start[: start.rfind(b"\n") + 1] or start)
            yield [RawFile(path, copy.source)]
        return
    raise UserError("all files of ratings.source are empty")
