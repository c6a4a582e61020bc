"""Conversions of files that are not text to CSV, JSON Lines or Parquet, for the child process.

The kernel limits the memory, disk and time of the conversions. The conversions themselves check
only the limits that the kernel cannot see.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.file_formats import (
    EXCEL,
    JSON_ARRAY,
    PARQUET_FORMAT,
)
from batchrec_dagster.preparation.sources.limits import Limits

if TYPE_CHECKING:
    from deltalake import DeltaTable

# The number of characters of an array that are read at once.
_CHARACTERS = 1024 * 1024
_BLANKS, _BOM = " \t\r\n", "\xef\xbb\xbf"
_BETWEEN = re.compile(r"[ \t\r\n,]*")


@dataclass(frozen=True)
class ForeignFile:
    """A file that is to be converted."""

    path: Path
    part: str | None
    """The name of the wanted sheet, or the version of a Delta table; None if neither is named."""
    packed: int
    """The size in bytes of the file as it came."""
    limits: Limits

    def refuse_part(self) -> None:
        """Raise FileError if a part is named."""
        if self.part is not None:
            raise FileError("it has no parts: leave out !/ and what follows")


@dataclass(frozen=True)
class Conversion:
    """The conversion of a format to CSV, JSON Lines or Parquet."""

    convert: Callable[[ForeignFile, Path], int]
    """The function that writes the result to a path.

    It returns the number to add to a line number of the result in order to find the line in the
    file. It raises FileError.
    """
    unit: str
    """The word for the part of the file that becomes a line of the result, such as row."""


def _choose_sheet(names: Sequence[str], sheet: str | None) -> str:
    """Return the wanted sheet, or the only sheet if `sheet` is None.

    Raises FileError if there is no such sheet, or if `sheet` is None and there are several sheets.
    """
    listed_names = ", ".join(names)
    if sheet is not None and sheet not in names:
        raise FileError(f"it has no sheet {sheet!r}; it has: {listed_names}")
    if sheet is None and len(names) != 1:
        if not names:
            raise FileError("it has no sheet with rows")
        raise FileError(
            f"it has several sheets ({listed_names}): name one, FILE!/SHEET, such as …!/{names[0]}"
        )
    return sheet or names[0]


def _convert_excel(file: ForeignFile, target: Path) -> int:
    """Write a sheet as CSV without the blank rows at its start, and return their number.

    Every cell is written as its text.
    """
    try:
        import fastexcel
    except ImportError as error:
        raise FileError(
            "it is an Excel file: pip install 'batchrec-dagster[excel]', or save it as CSV"
        ) from error
    import polars as pl

    try:
        book = fastexcel.read_excel(file.path)
        names = book.sheet_names
        if file.part is None and len(names) > 1:
            names = [name for name in names if book.load_sheet(name, n_rows=1).width]
        name = _choose_sheet(names, file.part)
        rows = book.load_sheet(name, header_row=None, skip_rows=0, dtypes="string").to_polars()
    except fastexcel.FastExcelError as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"it cannot be read as an Excel file ({reason}): save it again") from error
    filled = rows.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    blank_rows = int(filled.item(0)) if len(filled) else 0
    rows.slice(blank_rows).write_csv(target, include_header=False)
    return blank_rows


def _convert_parquet(file: ForeignFile, target: Path) -> int:
    """Write the rows to a Parquet file with true sizes in its footer and pages."""
    import pyarrow as pa

    from batchrec_dagster.preparation.confined.parquet import rewrite_parquet

    file.refuse_part()
    try:
        rewrite_parquet(file.path, target, file.limits, file.packed)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"it is damaged or not Parquet ({reason}): copy it again") from error
    return 0


def _convert_json_array(file: ForeignFile, target: Path) -> int:
    """Write each element of the array to a line of its own, as it is spelled in the file."""
    file.refuse_part()
    # Latin-1 has a character for each byte, so that the text stays as it is.
    with (
        file.path.open(encoding="latin-1", newline="") as array,
        target.open("w", encoding="latin-1", newline="") as lines,
    ):
        for element in _read_elements(array, file.limits.line_bytes):
            lines.write(element.replace("\r", " ").replace("\n", " ") + "\n")
    return 0


def _read_elements(file: TextIO, most: int) -> Iterator[str]:
    """Yield the elements of the array.

    If the rest of the file is not JSON, the rest is yielded as the last element. If only the
    closing bracket is missing, the last element is `(cut off)`.

    most: the largest number of characters that an element may have.
    """
    decode = json.JSONDecoder().raw_decode
    text, position = file.read(_CHARACTERS).lstrip(f"{_BOM}{_BLANKS}"), 1
    while True:
        start = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]
        try:
            _, end = decode(text, start)
        except (ValueError, RecursionError):
            end = -1
        if 0 <= end < len(text):
            yield text[start:end]
            position = end
            continue
        chunk = file.read(_CHARACTERS) if len(text) - start <= most else ""
        if not chunk:
            break
        text, position = text[start:] + chunk, 0
    if (remainder := text[start:].strip(_BLANKS)) != "]":
        yield remainder
        if end >= 0 or not remainder:
            yield "(cut off)"


def _list_delta_files(file: ForeignFile, target: Path) -> int:
    """Write the list of files that the folder of a Delta table needs before its rows are read.

    The list is JSON. `files` has the paths, relative to the folder, of the files with current rows.
    `has_vectors` says whether the table may have deletion vectors: files that mark some rows of
    other files as deleted.
    """
    table = _open_delta_table(file)
    paths = [Path(uri).relative_to(file.path).as_posix() for uri in table.file_uris()]
    has_vectors = "deletionVectors" in (table.protocol().reader_features or ())
    target.write_text(json.dumps({"files": paths, "has_vectors": has_vectors}), encoding="utf-8")
    return 0


def _convert_delta(file: ForeignFile, target: Path) -> int:
    """Write the current rows of a Delta table.

    The table's folder has only links to the files that the table names, or downloads of them.
    """
    import polars as pl

    with warnings.catch_warnings():
        # The warning is about a faster planner, which is another package.
        warnings.simplefilter("ignore", pl.exceptions.PerformanceWarning)
        pl.scan_delta(_open_delta_table(file)).sink_parquet(target)
    return 0


def _open_delta_table(file: ForeignFile) -> DeltaTable:
    """Return the table in the version that `file.part` gives."""
    try:
        from deltalake import DeltaTable
    except ImportError as error:
        raise FileError("to read it, pip install 'batchrec-dagster[delta]'") from error
    return DeltaTable(file.path, version=int(file.part or 0))


DELTA, DELTA_FILES = "a Delta table", "the files of a Delta table"
CONVERSIONS = {
    EXCEL: Conversion(_convert_excel, "row"),
    PARQUET_FORMAT: Conversion(_convert_parquet, "row"),
    JSON_ARRAY: Conversion(_convert_json_array, "element"),
    DELTA_FILES: Conversion(_list_delta_files, "file"),
    DELTA: Conversion(_convert_delta, "row"),
}
