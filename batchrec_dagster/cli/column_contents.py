"""Guesses about the contents of a column's cells, for `batchrec new`.

A run does not guess: it uses only the names of columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.preparation.attributes import HTTP_ADDRESS
from batchrec_dagster.preparation.file_form import EPOCH_UNITS, ISO8601, Column, Decimal
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.time_formats import find_time_formats
from batchrec_dagster.steps.data.checks import check_timestamps_plausible

# A number, perhaps with points between thousands, and perhaps with a decimal comma.
_NUMBER_WITH_COMMA = r"^[+-]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+)(?:,[0-9]+)?$"


def has_recognised_times(sample: FileSample, column: Column) -> bool:
    """Return whether every cell of the column is a time that a run recognises.

    A run recognises times in ISO 8601, in 8 or 14 digits, and as an epoch since 1980.
    """
    if sample.is_temporal(column):
        return True
    text = pl.lit(sample.read_cells(column))
    forms = pl.select(times.classify_form(text)).to_series().unique().to_list()
    if len(forms) != 1 or forms[0] not in (*EPOCH_UNITS, *times.COMPACT_FORMS):
        return forms == [ISO8601]
    seconds = pl.select(times.parse_seconds(text, forms[0]).cast(pl.Int64)).to_series()
    if seconds.has_nulls():
        return False  # The cells have as many digits as dates, but some are no dates.
    first, last = seconds.sort()[[0, -1]]
    return check_timestamps_plausible(first, last, forms[0], datetime.now(UTC)).passed


def has_times(sample: FileSample, column: Column) -> bool:
    """Return whether every cell of the column is a time.

    The format of the times may be one that must be declared.
    """
    return has_recognised_times(sample, column) or bool(
        find_time_formats(sample.read_cells(column))
    )


def has_addresses(sample: FileSample, column: Column, pattern: str = HTTP_ADDRESS) -> bool:
    """Return whether all cells of the column are http(s) addresses that match this pattern.

    Returns False for a column without cells.
    """
    cells = sample.read_cells(column)
    matches = cells.str.contains(HTTP_ADDRESS) & cells.str.contains(pattern)
    return len(cells) > 0 and matches.all()


def find_decimal(sample: FileSample, columns: Iterable[Column]) -> Decimal:
    """Return the decimal separator of the numbers in these columns.

    It is a comma if the file is CSV, and one of the columns has numbers with a decimal comma and
    otherwise only whole numbers. All numbers may have points between thousands. In all other cases
    it is a point.
    """
    for cells in map(sample.read_cells, columns if isinstance(sample.table, CsvTable) else ()):
        are_numbers = cells.str.contains(_NUMBER_WITH_COMMA).all()
        if are_numbers and cells.str.contains(",", literal=True).any():
            return ","
    return "."
