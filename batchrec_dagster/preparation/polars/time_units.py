"""How the times of the files are written: the first form, and whether all times have it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.preparation.layout import AUTO, Columns, PreparationError
from batchrec_dagster.preparation.polars.cells import ROW
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.rows import (
    FILE,
    FORM,
    NO_IDS,
    find_time_forms,
    read_error,
)
from batchrec_dagster.preparation.polars.tables import RowTable
from batchrec_dagster.preparation.row_problems import build_mixed_times_error
from batchrec_dagster.preparation.rules import Rules

# A file and a row in one number, so that the smallest is the first in the order of the source.
_ROWS_OF_A_FILE = 1 << 40


def find_first_unit(
    tables: Sequence[RowTable], columns: Columns, rules: Rules, erased: pl.Series = NO_IDS
) -> str:
    """How times are written: declared, or the form of the first one that has a form.

    erased: the ids whose rows do not count.
    """
    if columns.time_form != AUTO:
        return columns.time_form
    for number, table in enumerate(tables):
        first_form = _scan_time_forms(table, number, columns, erased).select(FORM).head(1)
        form = _collect(first_form, tables, rules)
        if form.height:
            return str(form.item())
    return "s"


def require_one_unit(
    tables: Sequence[RowTable], columns: Columns, rules: Rules, erased: pl.Series = NO_IDS
) -> str:
    """The one form that all times have.

    erased: the ids whose rows do not count.
    Raises PreparationError, with the file and the line of the first time in another form.
    """
    forms = pl.concat(_scan_time_forms(table, n, columns, erased) for n, table in enumerate(tables))
    position = pl.col(FILE).cast(pl.Int64) * _ROWS_OF_A_FILE + pl.col(ROW)
    first_positions = forms.group_by(FORM).agg(position.min().alias("first")).sort("first")
    form_positions = _collect(first_positions, tables, rules).rows()
    if len(form_positions) > 1:
        (form, _), (other_form, other_position) = form_positions[:2]
        file, row = divmod(other_position, _ROWS_OF_A_FILE)
        table = tables[file]
        raise build_mixed_times_error(f"{table.opened.name}, {table.place(row)}", other_form, form)
    return form_positions[0][0] if form_positions else "s"


def _scan_time_forms(
    table: RowTable, number: int, columns: Columns, erased: pl.Series
) -> pl.LazyFrame:
    """The time forms of one file, with the file's number in FILE."""
    cells = table.read_cells(columns.wanted)
    forms = find_time_forms(cells, columns, erased, plain=table.opened.is_plain)
    return forms.with_columns(pl.lit(number, pl.UInt32).alias(FILE))


def _collect(frame: pl.LazyFrame, tables: Sequence[RowTable], rules: Rules) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise explain_read_error(error, tables, rules) from error


def explain_read_error(
    error: Exception, tables: Sequence[RowTable], rules: Rules
) -> PreparationError:
    """The error to raise for files that Polars cannot read."""
    for table in tables:
        problem = table.find_broken_quotes() if isinstance(table, CsvTable) else None
        if problem is not None:
            return PreparationError(problem)
    return PreparationError(read_error(tables[0].opened.name, error, rules))
