"""The straight way for what most files are: every cell what it should be.

One pass reads the cells as numbers at once, looks for anything that is not plain, and writes. At
the first thing that is not, the other way in `local` is taken, which can tell where and what it is.
Where this way comes to an end, both write the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import polars as pl

from batchrec_dagster.formats.interactions import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    MAX_ID_LENGTH,
    TIMESTAMP,
    USER_ID,
    interactions_columns,
)
from batchrec_dagster.preparation import times
from batchrec_dagster.preparation.layout import EPOCH_UNITS, Layout
from batchrec_dagster.preparation.rows import FILTER, typed, wanted
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    EVENT_TYPE_VALUE,
    NOT_IN_FILTER,
    Rules,
)
from batchrec_dagster.preparation.sql import TYPES, parse_filter
from batchrec_dagster.preparation.table import Table


@dataclass(frozen=True)
class Written:
    """What was read and written: the timestamps' unit, and rows; those left out by reason."""

    unit: str
    rows: int
    left_out: Mapping[str, int]


class _NotPlainError(Exception):
    """There is something in the file that this way does not know."""


def write_clean(
    tables: Sequence[Table], layout: Layout, rules: Rules, target: Path
) -> Written | None:
    """Write the rows that the rules on a single row keep.

    None where this is not for these files, or there is something wrong with a row.
    """
    with target.open("wb") as file:
        return _copied(tables, layout, rules, file)


def look_clean(tables: Sequence[Table], layout: Layout, rules: Rules) -> Written | None:
    """As `write_clean`, but nothing is written."""
    return _copied(tables, layout, rules, None)


def _copied(
    tables: Sequence[Table], layout: Layout, rules: Rules, file: BinaryIO | None
) -> Written | None:
    types = _types(layout, rules)
    if types is None:
        return None
    writer = _Writer(layout, rules, file)
    try:
        for table in tables:
            rows = table.typed(wanted(layout, rules), types)
            if rows is None:
                return None
            writer.copy(rows, table)
    except (pl.exceptions.PolarsError, _NotPlainError):
        return None
    left_out = {reason: count for reason, count in writer.left_out.items() if count}
    return Written(writer.unit, writer.rows, left_out) if writer.rows else None


def _types(layout: Layout, rules: Rules) -> dict[str, pl.DataType] | None:
    """The types of the columns that are no text, by role; None when a column would have two."""
    types: dict[str, pl.DataType] = {"rating": pl.Float64()}
    if layout.timestamp_unit in (times.AUTO, times.DATETIME, *EPOCH_UNITS):
        types["timestamp"] = pl.Int64()
    types.update({FILTER + name: TYPES[kind] for name, kind in layout.types.items()})
    by_column: dict[object, pl.DataType] = {}
    for role, column in wanted(layout, rules).items():
        kind = types.get(role, pl.String())
        if by_column.setdefault(column, kind) != kind:
            return None
    return types


@dataclass
class _Writer:
    layout: Layout
    rules: Rules
    file: BinaryIO | None
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unit = self.layout.timestamp_unit
        self.left_out = {BELOW_MIN_RATING: 0, NOT_IN_FILTER: 0}
        self._columns = interactions_columns(
            event_type=self.rules.event_type, event_value=self.layout.event_value is not None
        )
        if self.file is not None:
            self.file.write((",".join(self._columns) + "\n").encode())

    def copy(self, rows: pl.LazyFrame, table: Table) -> None:
        """Append the rows of a file. Raises _NotPlainError, PolarsError."""
        odd = pl.any_horizontal(self._odd(table))
        rows.sink_batches(lambda batch: self._batch(batch, odd), maintain_order=True)

    def _batch(self, rows: pl.DataFrame, odd: pl.Expr) -> None:
        time = pl.col("timestamp")
        found = rows.select(odd.any().alias("odd"), time.min().alias("first"), last=time.max())
        is_odd, first, last = found.row(0)
        if is_odd or not self._in_one_unit(first, last):
            raise _NotPlainError
        self.rows += rows.height
        if self.file is None:
            return
        if self.rules.min_rating is not None:
            kept = pl.col("rating") >= self.rules.min_rating
            rows = self._keep(rows, rows.select(kept).to_series(), BELOW_MIN_RATING)
        if self.rules.filter is not None:
            columns = [pl.col(FILTER + name).alias(name) for name in self.layout.types]
            holds = parse_filter(self.rules.filter).fill_null(value=False)
            within = rows.select(columns).select(holds).to_series()
            rows = self._keep(rows, within, NOT_IN_FILTER)
        event_type = pl.col("event_type") if self.layout.event_type else pl.lit(EVENT_TYPE_VALUE)
        written = {
            USER_ID: pl.col("user"),
            ITEM_ID: pl.col("item"),
            TIMESTAMP: self._seconds(),
            EVENT_TYPE: event_type,
            EVENT_VALUE: pl.col("event_value").str.strip_chars(" \t"),
        }
        rows.select(written[name].alias(name) for name in self._columns).write_csv(
            self.file, include_header=False
        )

    def _keep(self, rows: pl.DataFrame, kept: pl.Series, reason: str) -> pl.DataFrame:
        if kept.len() != rows.height:
            kept = pl.repeat(kept.item(), rows.height, dtype=pl.Boolean, eager=True)
        rows, before = rows.filter(kept), rows.height
        self.left_out[reason] += before - rows.height
        return rows

    def _odd(self, table: Table) -> list[pl.Expr]:
        """Whether anything in a row is missing, or has to be looked at closely."""
        layout = self.layout
        odd = [(self._seconds() < 0).fill_null(value=True)]
        texts = ["user", "item", *(["event_type"] if layout.event_type is not None else [])]
        for text in map(pl.col, texts):
            # Blanks come before ! in ASCII, and so does nothing at all.
            odd += [text.is_null(), text < "!", text.str.len_bytes() > MAX_ID_LENGTH]
            if not table.opened.is_plain:
                odd.append(text.str.contains("[\n\r\0\ufffd]"))
        if layout.rating is not None:
            odd.append(~pl.col("rating").is_finite().fill_null(value=False))
        if layout.event_value is not None:
            value = pl.col("event_value")
            odd.append(value.is_not_null() & typed(value, "double").is_null())
        for name, kind in layout.types.items():
            if kind == "double":
                odd.append(~pl.col(FILTER + name).is_finite())
        return odd

    def _seconds(self) -> pl.Expr:
        time = pl.col("timestamp")
        if self.unit in (times.AUTO, times.DATETIME):
            return time
        if self.unit in EPOCH_UNITS:
            factor = EPOCH_UNITS[self.unit]
            return time if factor == 1 else time // factor
        return times.seconds(time, self.unit)

    def _in_one_unit(self, first: int | None, last: int | None) -> bool:
        if self.layout.timestamp_unit != times.AUTO or first is None or last is None:
            return True
        if self.unit == times.AUTO:
            self.unit = times.epoch_unit(first)
        return times.epoch_unit(first) == times.epoch_unit(last) == self.unit
