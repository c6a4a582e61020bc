"""A file of the lists for a mailing tool: CSV or JSON Lines, put in place once it is complete.

Spreadsheets run a cell that begins with =, +, -, @, a tab or a line break as a formula, so a title
such as =HYPERLINK(…) would run on the reader's computer. In CSV an apostrophe goes before such a
cell, ids included, which tells a spreadsheet that it is text. One goes into a;=1+1;b too, because
spreadsheets of many countries end a cell at a semicolon. JSON Lines stay as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, Self

import dagster as dg
import polars as pl
from pydantic import Field, field_validator, model_validator

from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.object_store import ObjectStore, StorageError, split_uri
from batchrec_dagster.storage.paths import StorageKeys
from batchrec_dagster.storage.resource import StorageResource

# The last four are the full-width forms, the same to spreadsheets in East Asian settings.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
FORMULA = f"^[{_SIGNS}\t\r\n]"
# Where another delimiter, or a line break within quotes that count for nothing then, ends a cell.
FORMULA_WITHIN = f'([;|\t\r\n]"*)([{_SIGNS}])'
BOM = "\ufeff".encode()


class ExportSink(dg.Model):
    """A file, for example for a mailing tool."""

    asset: ClassVar[str] = "recommendations_export"

    format: Literal["csv", "jsonl"] = Field(
        default="csv", description="csv, or jsonl (JSON Lines: an object a line)."
    )
    rows: Literal["per_user", "per_item"] = Field(
        default="per_user",
        description="per_user: a row for each user, with item_1, title_1, item_2 … (csv) or a list"
        " of items (jsonl); per_item: a row for each user and item, as in the table.",
    )
    bom: bool = Field(
        default=False,
        description="csv: start with a byte order mark, which tells Excel that it is UTF-8.",
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
            except StorageError as error:
                raise ValueError(str(error)) from error
        elif "://" in path:
            raise ValueError(f"{path}: write a path or s3://bucket/key")
        else:
            key = path
        if not key or key.endswith("/"):
            raise ValueError(f"{path} is a folder: add the file's name")
        return path

    @model_validator(mode="after")
    def _bom_goes_with_csv(self) -> Self:
        if self.bom and self.format != "csv":
            raise ValueError("bom goes with csv only: leave it out")
        return self

    def describe(self, project: Path) -> sink.Description:
        path = self._absolute(project)
        return sink.Description(
            text=f"The lists in one file ({self.format}, {self.rows.replace('_', ' ')}), for"
            " example for a mailing tool.",
            kind="csv" if self.format == "csv" else "json",
            place=path and f"sinks.export.path: {path}",
            removal=path and f"the export {self.path}: delete the file",
        )

    def check(self, context: sink.SinkContext) -> sink.SinkCheck:
        path = self._absolute(context.project)
        if path is None:
            return sink.SinkCheck("it is written into the pipeline's storage")
        store, uri = _open(_nearest(path), context.storage)
        look(store, uri)
        return sink.SinkCheck(f"{path} can be written")

    def write(self, lists: pl.LazyFrame, context: sink.SinkContext) -> sink.SinkResult:
        storage = context.storage
        default = storage.uri(StorageKeys(context.pipeline).export(self.filename))
        return export(lists, self, *_open(self._absolute(context.project) or default, storage))

    @property
    def filename(self) -> str:
        return f"recommendations.{self.format}"

    def _absolute(self, project: Path) -> str | None:
        """The absolute path or URI; None where the file goes into the pipeline's storage."""
        if self.path is None or self.path.startswith("s3://"):
            return self.path
        return str((project / Path(self.path).expanduser()).resolve())


def export(frame: pl.LazyFrame, how: ExportSink, store: ObjectStore, uri: str) -> sink.SinkResult:
    """Write the file and put it at the URI, whole or not at all. Raises SinkError.

    Facts: file; lines, without the header; bytes; formulas_escaped, in cells.
    """
    wanted = sink.counts(frame)
    with temporary_folder() as folder:
        path = folder / how.filename
        escaped = _write(frame, how, wanted.longest, path)
        lines = _lines(path, how)
        if how.rows == "per_user":
            sink.compare(wanted, users=lines, where=how.filename)
        else:
            sink.compare(wanted, rows=lines, users=wanted.users, where=how.filename)
        size = path.stat().st_size
        with _explained(uri):
            store.put(uri, path)
            put = store.head(uri)
    if put is None or put.size != size:
        found = "nothing is" if put is None else f"{put.size:,} bytes are"
        raise sink.SinkUnavailableError(f"{size:,} bytes were written to {uri}, but {found} there")
    file = str(store.local_path(uri) or uri)
    facts = {"file": file, "lines": lines, "bytes": size, "formulas_escaped": escaped}
    return sink.SinkResult(wanted, facts)


def look(store: ObjectStore, uri: str) -> None:
    """Put a file next to it and delete that again. Raises SinkError if that fails."""
    probe = f"{uri}.doctor-{uuid.uuid4().hex}"
    with _explained(uri):
        store.put(probe, b"x")
        store.delete(probe)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise sink.SinkError(str(error)) from error
    except OSError as error:
        # A folder that cannot be, and is made before anything is written.
        raise sink.SinkError(f"cannot write {uri}: the folder: {error}") from error


def _open(path: str, storage: StorageResource) -> tuple[ObjectStore, str]:
    """The store of an absolute path or URI, and the file's URI there."""
    if path.startswith("s3://"):
        return storage.store, path
    # Another program reads the file: the umask says who may open the folder.
    store = ObjectStore({"local": Path(path).parent}, folder_mode=0o777)
    return store, f"s3://local/{Path(path).name}"


def _nearest(path: str) -> str:
    """The file in the innermost of its folders that exists: a check makes no folder."""
    if path.startswith("s3://"):
        return path
    folder = Path(path).parent
    while not folder.exists():
        folder = folder.parent
    return str(folder / Path(path).name)


def _write(frame: pl.LazyFrame, how: ExportSink, longest: int, path: Path) -> int:
    """Write the file; returns how many cells were escaped."""
    escaped = 0
    with path.open("wb") as file:
        if how.bom:
            file.write(BOM)
        header = True
        for rows in _rows(frame, how, longest):
            if how.format == "jsonl":
                file.write(rows.write_ndjson().encode())
                continue
            texts = pl.col(pl.String)
            formula = texts.str.contains(FORMULA) | texts.str.contains(FORMULA_WITHIN)
            escaped += sum(rows.select(formula.sum()).row(0))
            within = texts.str.replace_all(FORMULA_WITHIN, "$1'$2")
            rows.with_columns(within.str.replace(FORMULA, "'$0")).write_csv(
                file, include_header=header, quote_style="non_numeric"
            )
            header = False
    return escaped


def _rows(frame: pl.LazyFrame, how: ExportSink, longest: int) -> Iterator[pl.DataFrame]:
    """What becomes a line each; an empty table where there are none, for the header."""
    if how.rows == "per_item":
        yield frame.head(0).collect()
        yield from sink.batches(frame)
        return
    fields = [name for name in ("item_id", "title") if name in frame.collect_schema().names()]
    for users in sink.lists(frame):
        yield users if how.format == "jsonl" else _in_columns(users, longest, fields)


def _in_columns(users: pl.DataFrame, longest: int, fields: Sequence[str]) -> pl.DataFrame:
    """user_id, arm (in an experiment), item_1, title_1, item_2 …; what a list lacks is null."""
    return users.select(
        pl.exclude("items"),
        *(
            pl.col("items")
            .list.get(place, null_on_oob=True)
            .struct.field(field)
            .alias(f"{field.removesuffix('_id')}_{place + 1}")
            for place in range(longest)
            for field in fields
        ),
    )


def _lines(path: Path, how: ExportSink) -> int:
    """How many rows the file has, but for the header."""
    rows = quotes = 0
    with path.open("rb") as file:
        for line in file:
            # A line that ends within quotes goes on.
            quotes += line.count(b'"') if how.format == "csv" else 0
            rows += quotes % 2 == 0
    return rows - (how.format == "csv")
