"""A file of the lists for a mailing tool: CSV or JSON Lines, put at its place once it is whole.

Spreadsheets take a cell that begins with =, +, -, @, a tab or a line break for a formula, quotes or
not, so that a title such as =HYPERLINK(…) would be run on the desk of whoever opens the file. In
CSV such a cell gets an apostrophe in front, by which a spreadsheet knows text. Ids are cells too;
in JSON Lines all stays as it is.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from batchrec_dagster.sinks.errors import SinkError, SinkUnavailableError
from batchrec_dagster.sinks.lists import Counts, batches, compare, counts, lists
from batchrec_dagster.storage.object_store import ObjectStore, StorageError

# The last four are the full-width forms, the same to spreadsheets in East Asian settings.
FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
BOM = "\ufeff".encode()


@dataclass(frozen=True)
class Export:
    """Of what form the file is. rows per_user: a row for each user, with items in columns (CSV) or
    in a list (JSON Lines); per_item: a row for each user and item. bom: a byte order mark at the
    start, by which Excel knows UTF-8 (CSV)."""

    format: Literal["csv", "jsonl"] = "csv"
    rows: Literal["per_user", "per_item"] = "per_user"
    bom: bool = False

    @property
    def filename(self) -> str:
        return f"recommendations.{self.format}"


@dataclass(frozen=True)
class Exported:
    """What was written: lines without the header, bytes, cells that got an apostrophe."""

    counts: Counts
    lines: int
    size: int
    cells_made_harmless: int


def export(frame: pl.LazyFrame, how: Export, store: ObjectStore, uri: str) -> Exported:
    """Write the file and put it at the URI, whole or not at all. Raises SinkError."""
    wanted = counts(frame)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / how.filename
        harmless = _write(frame, how, wanted.longest, path)
        lines = _lines(path, how)
        if how.rows == "per_user":
            compare(wanted, users=lines, where=how.filename)
        else:
            compare(wanted, rows=lines, users=wanted.users, where=how.filename)
        size = path.stat().st_size
        with _explained(uri):
            store.put(uri, path)
            put = store.head(uri)
    if put is None or put.size != size:
        found = "nothing is" if put is None else f"{put.size:,} bytes are"
        raise SinkUnavailableError(f"{size:,} bytes were written to {uri}, but {found} there")
    return Exported(wanted, lines, size, harmless)


def look(store: ObjectStore, uri: str) -> None:
    """That a file can be put there: one beside it is, and deleted again. Raises SinkError."""
    beside = f"{uri}.doctor-{uuid.uuid4().hex}"
    with _explained(uri):
        store.put(beside, b"x")
        store.delete(beside)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise SinkError(str(error)) from error
    except OSError as error:
        # A folder that cannot be, and is made before anything is written.
        raise SinkError(f"cannot write {uri}: the folder: {error}") from error


def _write(frame: pl.LazyFrame, how: Export, longest: int, path: Path) -> int:
    """The file; how many cells were made harmless."""
    harmless = 0
    with path.open("wb") as file:
        if how.bom:
            file.write(BOM)
        header = True
        for rows in _rows(frame, how, longest):
            if how.format == "jsonl":
                file.write(rows.write_ndjson().encode())
                continue
            texts = pl.col(pl.String)
            harmless += sum(rows.select(texts.str.contains(FORMULA).sum()).row(0))
            rows.with_columns(texts.str.replace(FORMULA, "'$0")).write_csv(
                file, include_header=header, quote_style="non_numeric"
            )
            header = False
    return harmless


def _rows(frame: pl.LazyFrame, how: Export, longest: int) -> Iterator[pl.DataFrame]:
    """What becomes a line each; an empty table where there are none, for the header."""
    if how.rows == "per_item":
        yield frame.head(0).collect()
        yield from batches(frame)
        return
    fields = [name for name in ("item_id", "title") if name in frame.collect_schema().names()]
    for users in lists(frame):
        yield users if how.format == "jsonl" else _in_columns(users, longest, fields)


def _in_columns(users: pl.DataFrame, longest: int, fields: Sequence[str]) -> pl.DataFrame:
    """user_id, item_1, title_1, item_2 …; what a list lacks is null."""
    return users.select(
        "user_id",
        *(
            pl.col("items")
            .list.get(place, null_on_oob=True)
            .struct.field(field)
            .alias(f"{field.removesuffix('_id')}_{place + 1}")
            for place in range(longest)
            for field in fields
        ),
    )


def _lines(path: Path, how: Export) -> int:
    """How many rows the file has, but for the header."""
    rows = quotes = 0
    with path.open("rb") as file:
        for line in file:
            # A line that ends within quotes goes on.
            quotes += line.count(b'"') if how.format == "csv" else 0
            rows += quotes % 2 == 0
    return rows - (how.format == "csv")
