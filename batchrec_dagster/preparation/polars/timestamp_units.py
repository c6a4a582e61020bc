"""How the timestamps of all files are written, where that is left to the data."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from batchrec_dagster.preparation.layout import Layout, PreparationError
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.rows import FILE, FORM, time_forms
from batchrec_dagster.preparation.polars.table import ROW, Table
from batchrec_dagster.preparation.rules import Rules

_ROWS_OF_A_FILE = 1 << 40


def first_unit(tables: Sequence[Table], layout: Layout, rules: Rules) -> str:
    """How times are written: declared, or the form of the first one that has a form."""
    if layout.timestamp_unit != times.AUTO:
        return layout.timestamp_unit
    for number, table in enumerate(tables):
        forms = time_forms(table, number, layout, rules).select(FORM).head(1)
        first = _collect(forms, tables, rules)
        if first.height:
            return str(first.item())
    return "s"


def one_unit(tables: Sequence[Table], layout: Layout, rules: Rules) -> str:
    """The one form that all times have. Raises PreparationError, with the file and the line of the
    first that has another."""
    forms = pl.concat(
        time_forms(table, number, layout, rules) for number, table in enumerate(tables)
    )
    order = pl.col(FILE).cast(pl.Int64) * _ROWS_OF_A_FILE + pl.col(ROW)
    first = forms.group_by(FORM).agg(order.min().alias("first")).sort("first")
    found = _collect(first, tables, rules).rows()
    if len(found) > 1:
        (form, _), (other, position) = found[:2]
        file, row = divmod(position, _ROWS_OF_A_FILE)
        its_own = time_forms(tables[file], file, layout, rules).filter(pl.col(ROW) == row)
        text = _collect(its_own.select("timestamp"), tables, rules).item()
        raise PreparationError(
            f"{tables[file].opened.name}, {tables[file].place(row)}: the timestamp {text!r} is"
            f" {times.spoken(other)}, those before it are {times.spoken(form)}; mend the file, or"
            " set ratings.timestamp_unit when all of them are to be read as one"
        )
    return found[0][0] if found else "s"


def unreadable(error: Exception, tables: Sequence[Table], rules: Rules) -> PreparationError:
    """What is to be said of files that Polars cannot read."""
    for table in tables:
        if isinstance(table, CsvTable) and (told := table.misquoted()):
            return PreparationError(told)
    name, reason = tables[0].opened.name, str(error).partition("\n")[0]
    if rules.filter is not None:
        return PreparationError(f"{name}: interactions.filter cannot be worked out: {reason}")
    return PreparationError(f"{name} cannot be read: {reason}")


def _collect(frame: pl.LazyFrame, tables: Sequence[Table], rules: Rules) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable(error, tables, rules) from error
