"""What the child process makes of a file that is not text: CSV, JSON Lines, or Parquet of its own.

The kernel limits what they take; what they check themselves is only what it cannot see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.formats import (
    EXCEL,
    JSON_ARRAY,
    PARQUET_FORMAT,
)
from batchrec_dagster.preparation.sources.limits import Limits

CHUNK = 1024 * 1024
_BLANKS, _BOM = " \t\r\n", "\xef\xbb\xbf"
_BETWEEN = re.compile(r"[ \t\r\n,]*")


class Convert(Protocol):
    """Makes CSV, JSON Lines or Parquet of a file."""

    def __call__(
        self, path: Path, target: Path, part: str | None, limits: Limits, packed: int
    ) -> int:
        """Write the result to `target`.

        part: the name of a sheet, needed only where there are several.
        packed: the size in bytes of the file as it came.

        Returns what to add to the number of a line of the result in order to find it in the file.

        Raises FileError, LimitError.
        """


@dataclass(frozen=True)
class Conversion:
    """How a format becomes CSV, JSON Lines or Parquet."""

    convert: Convert
    unit: str
    """What a person finds in the file where the result has a line."""


def _choose_sheet(names: Sequence[str], sheet: str | None) -> str:
    """The wanted sheet, or the only one. Raises FileError."""
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


def _convert_excel(path: Path, target: Path, part: str | None, limits: Limits, packed: int) -> int:
    """A sheet as CSV, without blank rows at its start; every cell as its text."""
    try:
        import fastexcel
    except ImportError as error:
        raise FileError(
            "it is an Excel file: pip install 'batchrec-dagster[excel]', or save it as CSV"
        ) from error
    import polars as pl

    try:
        book = fastexcel.read_excel(path)
        names = book.sheet_names
        if part is None and len(names) > 1:
            names = [name for name in names if book.load_sheet(name, n_rows=1).width]
        name = _choose_sheet(names, part)
        rows = book.load_sheet(name, header_row=None, skip_rows=0, dtypes="string").to_polars()
    except fastexcel.FastExcelError as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"it cannot be read as an Excel file ({reason}): save it again") from error
    filled = rows.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    blank_rows = int(filled.item(0)) if len(filled) else 0
    rows.slice(blank_rows).write_csv(target, include_header=False)
    return blank_rows


def _convert_parquet(
    path: Path, target: Path, part: str | None, limits: Limits, packed: int
) -> int:
    """A Parquet file whose footer and pages say the truth about their sizes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from batchrec_dagster.preparation.confined.parquet import BATCH_ROWS, write_parquet

    _refuse_part(part)
    try:
        # Threads would unpack several columns of a row group at once.
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(BATCH_ROWS, use_threads=False)
            write_parquet(batches, file.schema_arrow, target, limits, packed)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FileError(f"it is damaged or not Parquet ({reason}): copy it again") from error
    return 0


def _convert_json_array(
    path: Path, target: Path, part: str | None, limits: Limits, packed: int
) -> int:
    """Each element in a line of its own, as it is written."""
    _refuse_part(part)
    # Latin-1 has a character for each byte, so that the text stays as it is.
    with (
        path.open(encoding="latin-1", newline="") as file,
        target.open("w", encoding="latin-1", newline="") as lines,
    ):
        for element in _read_elements(file, limits.line_bytes):
            lines.write(element.replace("\r", " ").replace("\n", " ") + "\n")
    return 0


def _read_elements(file: TextIO, most: int) -> Iterator[str]:
    """The elements of the array. The last one may be text that is not JSON, or is cut off.

    most: how many characters an element may have.
    """
    decode = json.JSONDecoder().raw_decode
    text, position = file.read(CHUNK).lstrip(f"{_BOM}{_BLANKS}"), 1
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
        chunk = file.read(CHUNK) if len(text) - start <= most else ""
        if not chunk:
            break
        text, position = text[start:] + chunk, 0
    if (remainder := text[start:].strip(_BLANKS)) != "]":
        yield remainder
        if end >= 0 or not remainder:
            yield "(cut off)"


def _refuse_part(part: str | None) -> None:
    if part is not None:
        raise FileError("it has no parts: leave out !/ and what follows")


CONVERSIONS = {
    EXCEL: Conversion(_convert_excel, "row"),
    PARQUET_FORMAT: Conversion(_convert_parquet, "row"),
    JSON_ARRAY: Conversion(_convert_json_array, "element"),
}
