"""Files that are neither text nor Parquet, converted once by a library, in bounded memory."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import polars as pl

from batchrec_dagster.preparation.sources.formats import ARROW, EXCEL, JSON_ARRAY, SQLITE
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.preparation.sources.source import FileError

CHUNK = 1024 * 1024
_BLANKS, _BOM = " \t\r\n", "\xef\xbb\xbf"
_BETWEEN = re.compile(r"[ \t\r\n,]*")


@dataclass(frozen=True)
class Conversion:
    """How a format becomes CSV, JSON Lines or Parquet.

    convert: writes a file (the first path) to the second; the text names a sheet or table, of
    several; gives what to add to the number of a line in order to find it in the file; raises
    FileError, LimitError. `unit`: what a person finds in the file where the result has a line.
    """

    convert: Callable[[Path, Path, str | None, Limits], int]
    unit: str


def one_of(names: Sequence[str], wanted: str | None, kind: str) -> str:
    """The wanted sheet or table, or the only one. Raises FileError."""
    shown = ", ".join(names)
    if wanted is not None and wanted not in names:
        raise FileError(f"it has no {kind} {wanted!r}; it has: {shown}")
    if wanted is None and len(names) != 1:
        if not names:
            raise FileError(f"it has no {kind} with rows")
        raise FileError(
            f"it has several {kind}s ({shown}): name one, FILE!/{kind.upper()}, such as"
            f" …!/{names[0]}"
        )
    return wanted or names[0]


def _excel(path: Path, target: Path, sheet: str | None, limits: Limits) -> int:
    """A sheet as CSV, without blank rows at its start; every cell as its text."""
    try:
        import fastexcel
    except ImportError as error:
        raise FileError(
            "it is an Excel file: pip install 'batchrec-dagster[excel]', or save it as CSV"
        ) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            unfolded = sum(part.file_size for part in parts.infolist())
        limits.check(unfolded, path.stat().st_size)
    try:
        book = fastexcel.read_excel(path)
        names = book.sheet_names
        if sheet is None and len(names) > 1:
            names = [name for name in names if book.load_sheet(name, n_rows=1).width]
        name = one_of(names, sheet, "sheet")
        rows = book.load_sheet(name, header_row=None, skip_rows=0, dtypes="string").to_polars()
    except fastexcel.FastExcelError as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"it cannot be read as an Excel file ({reason}): save it again") from error
    filled = rows.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    blank = int(filled.item(0)) if len(filled) else 0
    rows.slice(blank).write_csv(target, include_header=False)
    return blank


def _sqlite(path: Path, target: Path, table: str | None, limits: Limits) -> int:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            named = "SELECT name FROM sqlite_master WHERE type = 'table'"
            names = [name for (name,) in database.execute(f"{named} ORDER BY name")]
            names = [name for name in names if not name.startswith("sqlite_")]
            quoted = one_of(names, table, "table").replace('"', '""')
            database.text_factory = lambda text: text.decode(errors="replace")
            cursor = database.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608 (a quoted name)
            with target.open("w", newline="", encoding="utf-8") as file:
                written = csv.writer(file, lineterminator="\n")
                written.writerow(column for column, *_ in cursor.description)
                written.writerows(
                    ["" if isinstance(cell, bytes) else cell for cell in row] for row in cursor
                )
    except sqlite3.Error as error:
        raise FileError(f"it cannot be read as an SQLite database: {error}") from error
    limits.check(target.stat().st_size, path.stat().st_size)
    return -1  # The header is no row.


def _arrow(path: Path, target: Path, part: str | None, limits: Limits) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _refuse_part(part)
    size, packed = 0, path.stat().st_size
    try:
        with (
            pa.memory_map(str(path)) as mapped,
            pa.ipc.open_file(mapped) as batches,
            pq.ParquetWriter(target, batches.schema, compression="lz4") as parquet,
        ):
            for number in range(batches.num_record_batches):
                batch = batches.get_batch(number)
                size += batch.nbytes
                limits.check(size, packed)
                parquet.write_batch(batch)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"it is damaged or not Arrow ({reason}): copy it again") from error
    return 0


def _json_array(path: Path, target: Path, part: str | None, limits: Limits) -> int:
    """Each element in a line of its own, as it is written."""
    _refuse_part(part)
    # Latin-1 has a character for each byte, so that the text stays as it is.
    with (
        path.open(encoding="latin-1", newline="") as file,
        target.open("w", encoding="latin-1", newline="") as lines,
    ):
        for element in _elements(file, limits.line_bytes):
            lines.write(element.replace("\r", " ").replace("\n", " ") + "\n")
    return 0


def _elements(file: TextIO, most: int) -> Iterator[str]:
    """The elements of the array, of at most `most` characters; what is no JSON, or is cut off, is
    the last one."""
    decode = json.JSONDecoder().raw_decode
    text, at = file.read(CHUNK).lstrip(f"{_BOM}{_BLANKS}"), 1
    while True:
        start = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        try:
            _, end = decode(text, start)
        except (ValueError, RecursionError):
            end = -1
        if 0 <= end < len(text):
            yield text[start:end]
            at = end
            continue
        chunk = file.read(CHUNK) if len(text) - start <= most else ""
        if not chunk:
            break
        text, at = text[start:] + chunk, 0
    if (rest := text[start:].strip(_BLANKS)) != "]":
        yield rest
        if end >= 0 or not rest:
            yield "(cut off)"


def _refuse_part(part: str | None) -> None:
    if part is not None:
        raise FileError("it has no parts: leave out !/ and what follows")


CONVERSIONS = {
    EXCEL: Conversion(_excel, "row"),
    SQLITE: Conversion(_sqlite, "row"),
    ARROW: Conversion(_arrow, "row"),
    JSON_ARRAY: Conversion(_json_array, "element"),
}
