"""The cells of rows as text: of a whole file on this machine, or of a part of one on Spark.

Each function returns a LazyFrame with the columns ROW and FLAW, and one column of text for each
wanted cell, which is named by the cell's role. It imports nothing that opens files, because
it is sent to the workers of Spark.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH
from batchrec_dagster.preparation.layout import CUT_OFF
from batchrec_dagster.preparation.sources.limits import CELLS_OF_A_LINE, KB, MAX_LINE_KB

# The row's number from 0, and what is wrong with the row as such (or null).
ROW, FLAW = "row", "flaw"
# A line of a file, before it is taken apart.
TEXT = "text"
# The roles of times, in files of ratings and of items.
TIME_ROLES = ("timestamp", "items.columns.created")
# The roles of ids: in ratings, in items and users, and in lists of these, such as
# batch_users.column.
_ID_ROLE = re.compile(r"(?:(?:items|users)\.columns\.)?(?:user|item)|[\w.]+\.column")
_BEYOND = "beyond"
_GROUPED_DIGITS = r"^[ \t]*[+-]?[0-9]{1,3}(?:(?:\.[0-9]{3})+,[0-9]*|(?:\.[0-9]{3}){2,})[ \t]*$"


@dataclass(frozen=True)
class CsvSyntax:
    """How a line of text falls apart into fields."""

    delimiter: str
    """One character, or `::`."""

    width: int
    """How many fields the first line has. A line with more of them has a flaw."""

    quoted: bool = True
    """Whether quotes may enclose a field. In lines with `::` they never do."""

    with_comma: Collection[str] = ()
    """The roles whose cells are numbers with a comma in place of the point."""

    @property
    def quote(self) -> str | None:
        return '"' if self.quoted and self.delimiter != "::" else None

    @property
    def names(self) -> list[str]:
        """The names of the fields' columns."""
        return [f"field {number}" for number in range(self.width)]


def scan_csv(
    source: Path | BytesIO, syntax: CsvSyntax, schema: Mapping[str, pl.DataType], **options: Any
) -> pl.LazyFrame:
    """The fields of CSV without a header, as the types of the schema."""
    return pl.scan_csv(
        source,
        has_header=False,
        separator=syntax.delimiter,
        quote_char=syntax.quote,
        schema=schema,
        missing_columns="insert",
        glob=False,
        **options,
    )


def scan_fields(source: Path | BytesIO, syntax: CsvSyntax, **options: Any) -> pl.LazyFrame:
    """ROW and the fields of every record of CSV as text, for `read_csv_cells`."""
    return scan_csv(
        source,
        syntax,
        # One column more than there are fields, so that a line with too many is seen.
        dict.fromkeys([*syntax.names, _BEYOND], pl.String()),
        truncate_ragged_lines=True,
        extra_columns="ignore",
        row_index_name=ROW,
        **options,
    )


def split_lines(lines: pl.LazyFrame, syntax: CsvSyntax) -> pl.LazyFrame:
    """ROW and the fields of the lines in TEXT, for `read_csv_cells`.

    It is for lines with the delimiter `::`, because Polars reads CSV with one of a single character
    only.
    """
    line = pl.col(TEXT).str.strip_suffix("\r").str.strip_prefix("\ufeff")
    fields = line.str.splitn(syntax.delimiter, syntax.width + 1)
    return (
        lines.filter(line != "")
        .select(ROW, fields.struct.rename_fields([*syntax.names, _BEYOND]).struct.unnest())
        .with_columns(
            pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in syntax.names
        )
    )


def read_csv_cells(
    fields: pl.LazyFrame, syntax: CsvSyntax, places: Mapping[str, int], cut_row: int | None
) -> pl.LazyFrame:
    """The cells of the fields, without the lines in which there are none.

    fields: from `scan_fields` or `split_lines`.
    places: the number of the field of each role, from 0.
    cut_row: the row that is cut off at the end of its file, or None.
    """
    names = syntax.names

    def cell(role: str, place: int) -> pl.Expr:
        text = pl.col(names[place])
        return (swap_comma_and_point(text) if role in syntax.with_comma else text).alias(role)

    is_filled = pl.any_horizontal(pl.col(name).is_not_null() for name in [*names, _BEYOND])
    return fields.filter(is_filled).select(
        pl.col(ROW).cast(pl.Int64),
        pl.when(pl.col(_BEYOND).is_not_null())
        .then(pl.lit(f"more than the {len(names)} fields"))
        .when(pl.col(ROW) == pl.lit(cut_row, pl.Int64))
        .then(pl.lit(CUT_OFF))
        .alias(FLAW),
        *(cell(role, place) for role, place in places.items()),
    )


def swap_comma_and_point(text: pl.Expr) -> pl.Expr:
    """The text of a number that has a comma, with a point in its place.

    Points between groups of three digits are left out, as in 1.234,56 and 1.234.567. What has
    another point gets a comma, so that it is not a number any more.
    """
    without_points = text.str.replace_all(".", "", literal=True)
    text = pl.when(text.str.contains(_GROUPED_DIGITS)).then(without_points).otherwise(text)
    return text.str.replace_many({",": ".", ".": ","})


def read_parquet_cells(
    rows: pl.LazyFrame,
    schema: Mapping[str, pl.DataType],
    names: Mapping[str, str],
    most_bytes: int,
) -> pl.LazyFrame:
    """The cells of rows of Parquet as text.

    rows: ROW, and the columns of the file.
    names: the name of the column of each role, of a type that `format_parquet_text` takes.
    most_bytes: how many bytes a cell may have; a row with a larger one has a flaw.
    """
    cells = {role: format_parquet_text(schema, name, role) for role, name in names.items()}
    for role in filter(is_id_role, names):
        cells[role] = cells[role].str.head(MAX_ID_LENGTH + 1)  # Enough to refuse it.
    flaw = f"a cell of more than {most_bytes / KB:g} KB ({MAX_LINE_KB} / {CELLS_OF_A_LINE})"
    return rows.select(
        pl.col(ROW).cast(pl.Int64),
        pl.when(is_too_long(schema, names.values(), most_bytes)).then(pl.lit(flaw)).alias(FLAW),
        # A dictionary makes one huge cell into millions of them: no step may copy such cells.
        **{
            role: pl.when(~is_too_long(schema, [names[role]], most_bytes)).then(cell)
            for role, cell in cells.items()
        },
    )


def is_id_role(role: str) -> bool:
    """Whether the cells of this role are ids of users or items."""
    return _ID_ROLE.fullmatch(role) is not None


def format_parquet_text(schema: Mapping[str, pl.DataType], name: str, role: str) -> pl.Expr:
    """The column as text; times in the form that `Columns.time_form` calls datetime."""
    kind, column = schema[name], pl.col(name)
    if role in TIME_ROLES and kind == pl.Date:
        return column.dt.strftime("%Y-%m-%d")
    if role in TIME_ROLES and isinstance(kind, pl.Datetime):
        if kind.time_zone is None:
            return column.dt.strftime("%Y-%m-%dT%H:%M:%S")
        return column.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return column.cast(pl.String)


def is_too_long(
    schema: Mapping[str, pl.DataType], names: Iterable[str], most_bytes: int
) -> pl.Expr:
    """Whether any of these columns has a text of more bytes than that."""
    texts = [name for name in names if schema[name] == pl.String]
    return pl.any_horizontal(
        pl.lit(value=False),
        *(pl.col(name).str.len_bytes().fill_null(0) > most_bytes for name in texts),
    )
