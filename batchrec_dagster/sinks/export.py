"""A file of the lists for a mailing tool: CSV or JSON Lines, put in place once it is complete.

Spreadsheets run a cell that begins with =, +, -, @, a tab or a line break as a formula, so a title
such as =HYPERLINK(…) would run on the reader's computer. In CSV an apostrophe goes before such a
cell, ids included, which tells a spreadsheet that it is text. One goes into a;=1+1;b too, because
spreadsheets of many countries end a cell at a semicolon. JSON Lines stay as they are.
"""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import dagster as dg
import polars as pl
from pydantic import Field, field_validator

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.layout import StorageKeys
from batchrec_dagster.storage.list_subjects import ITEMS, USERS, find_subject
from batchrec_dagster.storage.objects import ObjectStore, split_uri

# The last four are the full-width forms, the same to spreadsheets in East Asian settings.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
FORMULA = f"^[{_SIGNS}\t\r\n]"
# Programs that split at another delimiter ignore quotes, so for them a line break ends a cell too.
FORMULA_WITHIN = f'([;|\t\r\n]"*)([{_SIGNS}])'


class ExportSink(dg.Model):
    """A file, for example for a mailing tool."""

    asset: ClassVar[str] = "recommendations_export"

    format: Literal["csv", "jsonl"] = Field(
        default="csv", description="csv, or jsonl (JSON Lines: an object a line)."
    )
    rows: Literal["per_user", "per_item"] = Field(
        default="per_user",
        description="per_user: a row for each user, with item_1, title_1, item_2 … (csv) or a list"
        " of items (jsonl), which have all columns of the table; per_item: a row for each user and"
        " item, as in the table.",
    )
    path: str | None = Field(
        default=None,
        description="A path or s3://bucket/key; a relative path starts at the project's folder."
        " Default: NAME/curated/exports/recommendations.csv (or .jsonl) in the storage.",
        examples=["s3://mailing/lists.csv"],
    )

    @field_validator("path")
    @classmethod
    def _path_is_possible(cls, path: str | None) -> str | None:
        if path is None or "{{" in path:
            return path
        if path.startswith("s3://"):
            try:
                _, key = split_uri(path)
            except UserError as error:
                raise ValueError(str(error)) from error
        elif "://" in path:
            raise ValueError(f"{path}: write a path or s3://bucket/key")
        else:
            key = path
        if not key or key.endswith("/"):
            raise ValueError(f"{path} is a folder: add the file's name")
        return path

    def describe(self, project: Path) -> sink.SinkDescription:
        path = self._resolve_path(project)
        return sink.SinkDescription(
            text=f"The lists in one file ({self.format}, {self.rows.replace('_', ' ')}), for"
            " example for a mailing tool.",
            kind="csv" if self.format == "csv" else "json",
            place=path and f"sinks.export.path: {path}",
            removal=path and f"the export {self.path}: delete the file",
        )

    def check(self, context: sink.SinkContext) -> sink.SinkCheck:
        path = self._resolve_path(context.project)
        if path is None:
            return sink.SinkCheck("it is written into the pipeline's storage")
        store, uri = _locate_file(_in_existing_folder(path), context.storage)
        require_writable(store, uri)
        return sink.SinkCheck(f"{path} can be written")

    def write(self, lists: pl.LazyFrame, context: sink.SinkContext) -> sink.SinkResult:
        store, uri = self.locate(context)
        return write_export(lists, self, store, uri)

    def count_users(self, users: Collection[str], context: sink.SinkContext) -> int:
        store, uri = self.locate(context)
        with _raise_as_sink_errors(uri):
            return len({user for user, _ in _iterate_records(self, store, uri, users) if user})

    def erase_users(self, users: Collection[str], context: sink.SinkContext) -> int:
        store, uri = self.locate(context)
        users_erased = set()
        with _raise_as_sink_errors(uri), temporary_folder() as folder:
            path = folder / self.filename
            with path.open("wb") as file:
                for user, record in _iterate_records(self, store, uri, users):
                    if user is None:
                        file.write(record)
                    else:
                        users_erased.add(user)
            if users_erased:
                store.put(uri, path)
        return len(users_erased)

    def locate(self, context: sink.SinkContext) -> tuple[ObjectStore, str]:
        """The store of the file, and its URI there."""
        path = self._resolve_path(context.project)
        if path is None:
            keys = StorageKeys(context.pipeline)
            path = context.storage.uri(keys.export(f"{keys.table}.{self.format}"))
        return _locate_file(path, context.storage)

    @property
    def filename(self) -> str:
        return f"recommendations.{self.format}"

    def _resolve_path(self, project: Path) -> str | None:
        """The absolute path or URI; None if the file goes into the pipeline's storage."""
        if self.path is None or self.path.startswith("s3://"):
            return self.path
        return str((project / Path(self.path).expanduser()).resolve())


def write_export(
    frame: pl.LazyFrame, settings: ExportSink, store: ObjectStore, uri: str
) -> sink.SinkResult:
    """Write the file, and put it at the URI, whole or not at all.

    The result's facts are `file`, `lines` (without the header), `bytes` and `formulas_escaped`
    (the number of cells). Raises UserError, or Retry if the file is not complete.
    """
    expected = sink.count_lists(frame)
    with temporary_folder() as folder:
        path = folder / settings.filename
        cells_escaped = _write_file(frame, settings, expected.longest, path)
        rows_written = _count_rows(path, settings)
        if settings.rows == "per_user":
            sink.require_equal_counts(expected, users=rows_written, where=settings.filename)
        else:
            sink.require_equal_counts(
                expected, rows=rows_written, users=expected.users, where=settings.filename
            )
        size = path.stat().st_size
        with _raise_as_sink_errors(uri):
            store.put(uri, path)
            stored_file = store.head(uri)
    if stored_file is None or stored_file.size != size:
        outcome = "nothing is" if stored_file is None else f"{stored_file.size:,} bytes are"
        raise Retry(f"{size:,} bytes were written to {uri}, but {outcome} there")
    file = str(store.local_path(uri) or uri)
    facts = {"file": file, "lines": rows_written, "bytes": size, "formulas_escaped": cells_escaped}
    return sink.SinkResult(expected, facts)


def require_writable(store: ObjectStore, uri: str) -> None:
    """Raise UserError unless a file can be put next to this one and deleted again."""
    probe = f"{uri}.check-{uuid.uuid4().hex}"
    with _raise_as_sink_errors(uri):
        store.put(probe, b"x")
        store.delete(probe)


@contextmanager
def _raise_as_sink_errors(uri: str) -> Iterator[None]:
    """A block in which errors of the system become UserError."""
    try:
        yield
    except OSError as error:
        # The store makes the folder before it writes, and that can fail too.
        raise UserError(f"cannot write {uri}: the folder: {error}") from error


def _locate_file(path: str, storage: StorageResource) -> tuple[ObjectStore, str]:
    """The store of an absolute path or URI, and the file's URI there."""
    if path.startswith("s3://"):
        return storage.store, path
    # Another program reads the file, so the umask alone says who may open the folder.
    store = ObjectStore({"local": Path(path).parent}, folder_mode=0o777)
    return store, f"s3://local/{Path(path).name}"


def _in_existing_folder(path: str) -> str:
    """The path of a file of this name in the innermost folder of the path that exists.

    A check writes there, because it must not make folders.
    """
    if path.startswith("s3://"):
        return path
    folder = Path(path).parent
    while not folder.exists():
        folder = folder.parent
    return str(folder / Path(path).name)


def _write_file(frame: pl.LazyFrame, settings: ExportSink, longest: int, path: Path) -> int:
    """Write the file, and return how many cells were escaped.

    `longest` is the number of items in the longest list.
    """
    cells_escaped = 0
    with path.open("wb") as file:
        include_header = True
        for rows in _generate_rows(frame, settings, longest):
            if settings.format == "jsonl":
                file.write(rows.write_ndjson().encode())
                continue
            texts = pl.col(pl.String)
            formula = texts.str.contains(FORMULA) | texts.str.contains(FORMULA_WITHIN)
            cells_escaped += sum(rows.select(formula.sum()).row(0))
            escaped_rows = rows.with_columns(_escape_formulas(texts))
            escaped_rows.write_csv(file, include_header=include_header, quote_style="non_numeric")
            include_header = False
    return cells_escaped


def _escape_formulas(texts: pl.Expr) -> pl.Expr:
    return texts.str.replace_all(FORMULA_WITHIN, "$1'$2").str.replace(FORMULA, "'$0")


def _generate_rows(
    frame: pl.LazyFrame, settings: ExportSink, longest: int
) -> Iterator[pl.DataFrame]:
    """Tables whose rows become the file's lines. At least one comes, for the header."""
    if settings.rows == "per_item":
        yield frame.head(0).collect()
        yield from sink.iterate_batches(frame)
        return
    # A user's row has no use for a score, and a rank is in the columns' names.
    names = frame.collect_schema().names()
    subject = find_subject(names)
    not_of_items = (subject.column, "arm", "rank", "score")
    fields = [name for name in names if name not in not_of_items]
    for users in sink.group_by_user(frame):
        yield users if settings.format == "jsonl" else _spread_items(users, longest, fields)


def _spread_items(users: pl.DataFrame, longest: int, fields: Sequence[str]) -> pl.DataFrame:
    """A row for each user, with a column for each place in the list.

    The columns are user_id, arm (in an experiment), item_1, title_1, price_1, item_2 and so on.
    They are null where a list is shorter than the longest.
    """
    return users.select(
        pl.exclude("items"),
        *(
            pl.col("items")
            .list.get(place, null_on_oob=True)
            .struct.field(field)
            .alias(f"{_name_field(field)}_{place + 1}")
            for place in range(longest)
            for field in fields
        ),
    )


def _name_field(column: str) -> str:
    """What the columns of a user's row start with that have this column of the table."""
    return "item" if column in (USERS.item_column, ITEMS.item_column) else column


def _iterate_records(
    settings: ExportSink, store: ObjectStore, uri: str, users: Collection[str]
) -> Iterator[tuple[str | None, bytes]]:
    """The bytes of each record of the file, and its user if that is one of these, else None.

    There are none if there is no file. A record of CSV has several lines if there are line breaks
    within quotes. The file is not changed by another program, so that its first column is the user.
    """
    if store.head(uri) is None:
        return
    with store.open(uri) as file:
        if settings.format == "jsonl":
            for line in file:
                user = json.loads(line)["user_id"]
                yield user if user in users else None, line
            return
        yield None, file.readline()
        ids = pl.Series("user_id", list(users), pl.String).to_frame()
        escaped = ids.select(_escape_formulas(pl.col("user_id"))).to_series()
        users_by_cell = dict(zip(escaped, users, strict=True))
        record = b""
        for line in file:
            record += line
            if record.count(b'"') % 2 == 0:
                (row,) = csv.reader(io.StringIO(record.decode(), newline=""))
                yield users_by_cell.get(row[0]), record
                record = b""


def _count_rows(path: Path, settings: ExportSink) -> int:
    """How many rows the file has, without the header."""
    rows = 0
    quotes = 0
    with path.open("rb") as file:
        for line in file:
            if settings.format == "csv":
                quotes += line.count(b'"')
            # A row whose line ends within quotes goes on in the next line.
            if quotes % 2 == 0:
                rows += 1
    return rows - 1 if settings.format == "csv" else rows
