"""Ratings file -> interactions CSV, on this machine: Polars, streaming from file to file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from batchrec_dagster.formats.interactions import (
    EVENT_TYPE,
    ITEM_ID,
    MAX_ID_LENGTH,
    TIMESTAMP,
    USER_ID,
    interactions_columns,
)
from batchrec_dagster.preparation.layout import Column, Layout

# Personalize's filters on interactions go by event type, so that a column is needed even where
# every row has the same.
EVENT_TYPE_VALUE = "rating"

# As seconds this is the year 5138, as milliseconds 1973: no rating is on the other side of it.
FIRST_MILLISECOND = 100_000_000_000

EXAMPLES = 5
BELOW_MIN_RATING = "rating below min_rating"


class PreparationError(Exception):
    """The ratings file cannot be used; one line that names file, line or setting, and the mend."""


@dataclass(frozen=True)
class BadRows:
    """Rows that could not be read: how many for each reason, and the first few of them."""

    counts: Mapping[str, int]
    examples: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Preparation:
    """What became of a ratings file. Counts are rows; blank lines count nowhere."""

    rows_read: int
    rows_kept: int
    left_out: Mapping[str, int]
    bad_row_examples: tuple[str, ...]
    timestamp_unit: str


@dataclass(frozen=True)
class RatingsFile:
    """A ratings file on this machine; `name` is what messages call it."""

    path: Path
    name: str
    layout: Layout

    def rows(self) -> int:
        """How many rows there are, blank lines aside. Raises PreparationError when a declared
        column is not there, or there is no row."""
        rows = self._parsed.select(pl.len()).collect(engine="streaming").item()
        if not rows:
            raise PreparationError(f"{self.name} has a header and no rows")
        return int(rows)

    def bad_rows(self) -> BadRows:
        """Read the whole file and count what cannot be read. Raises PreparationError when none of
        it can be: no rows, a column that is not there."""
        rows = self._parsed
        counted = (
            rows.filter(pl.col("problem").is_not_null()).group_by("problem").len().sort("problem")
        ).collect(engine="streaming")
        if not len(counted):
            return BadRows({}, ())
        first = rows.filter(pl.col("problem").is_not_null()).head(EXAMPLES).collect()
        examples = tuple(
            f"{self.name}, line {row['line']}: {row['problem']}: {row['text']!r}"
            for row in first.iter_rows(named=True)
        )
        return BadRows(dict(counted.iter_rows()), examples)

    def write_interactions(
        self, destination: Path, *, min_rating: float | None, on_bad_rows: str, event_type: bool
    ) -> Preparation:
        """Write the kept rows as Personalize's interactions CSV, in the file's order.

        Raises PreparationError where the file cannot be used, for `on_bad_rows="fail"` also for
        the first row that cannot be read; `destination` is then not written.
        """
        rows_read, bad = self.rows(), self.bad_rows()
        if bad.total and on_bad_rows == "fail":
            raise PreparationError(
                f"{bad.examples[0]} ({bad.total:,} such rows); mend the file, or leave such rows"
                " out with ratings.on_bad_rows: skip"
            )
        good = self._parsed.filter(pl.col("problem").is_null())
        kept = pl.lit(value=True) if min_rating is None else pl.col("rating") >= min_rating
        counts = (
            good.select(
                rows=pl.len(),
                kept=kept.sum() if min_rating is not None else pl.len(),
                earliest=pl.col("timestamp").min(),
                latest=pl.col("timestamp").max(),
            )
            .collect(engine="streaming")
            .row(0, named=True)
        )
        if not counts["rows"]:
            raise PreparationError(f"{self.name} has no row that can be read; {bad.examples[0]}")
        unit = self._timestamp_unit(counts["earliest"], counts["latest"])
        seconds = pl.col("timestamp") // 1000 if unit == "ms" else pl.col("timestamp")
        good.filter(kept).select(
            pl.col("user").alias(USER_ID),
            pl.col("item").alias(ITEM_ID),
            seconds.alias(TIMESTAMP),
            pl.lit(EVENT_TYPE_VALUE).alias(EVENT_TYPE),
        ).select(interactions_columns(event_type=event_type)).sink_csv(destination)
        left_out = dict(bad.counts)
        if min_rating is not None and counts["rows"] > counts["kept"]:
            left_out[BELOW_MIN_RATING] = counts["rows"] - counts["kept"]
        return Preparation(
            rows_read=rows_read,
            rows_kept=counts["kept"],
            left_out=left_out,
            bad_row_examples=bad.examples,
            timestamp_unit=unit,
        )

    def _timestamp_unit(self, earliest: int, latest: int) -> str:
        if self.layout.timestamp_unit != "auto":
            return self.layout.timestamp_unit
        if latest < FIRST_MILLISECOND:
            return "s"
        if earliest >= FIRST_MILLISECOND:
            return "ms"
        raise PreparationError(
            f"{self.name} mixes timestamps in seconds (such as {earliest}) and in milliseconds"
            f" (such as {latest}); set ratings.timestamp_unit to s or ms, or mend the file"
        )

    @cached_property
    def _first_line(self) -> list[str]:
        """The fields of the first line: the header, where there is one."""
        delimiter = self.layout.delimiter
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline()
            if not line.strip():
                raise PreparationError(f"{self.name} is empty or starts with an empty line")
        if delimiter == "::":
            return line.rstrip("\r\n").split(delimiter)
        return next(csv.reader([line], delimiter=delimiter))

    def _field(self, name: str, column: Column) -> int:
        """Where the field of this role stands in a line, from 0."""
        fields = self._first_line
        if isinstance(column, int):
            if column > len(fields):
                raise PreparationError(
                    f"{self.name}: ratings.columns.{name} is column {column}, but line 1 has"
                    f" {len(fields)} with the delimiter {self.layout.delimiter!r}{self._hint()}"
                )
            return column - 1
        names = [field.strip() for field in fields]
        if column not in names:
            raise PreparationError(
                f"{self.name} has no column {column!r} (ratings.columns.{name}); its header, read"
                f" with the delimiter {self.layout.delimiter!r}, has: {', '.join(names)}"
                f"{self._hint()}"
            )
        return names.index(column)

    def _hint(self) -> str:
        """When the line falls apart better at another delimiter, that is the likely mend."""
        line = self.layout.delimiter.join(self._first_line)
        best = max(("::", "\t", ",", ";", "|"), key=lambda delimiter: line.count(delimiter))
        if best != self.layout.delimiter and line.count(best) >= len(self._first_line):
            return f"; is ratings.delimiter {best!r}?"
        return ""

    @cached_property
    def _parsed(self) -> pl.LazyFrame:
        """line, text, user, item, rating, timestamp, and problem: null where the row is good."""
        layout = self.layout
        # Polars wants a single character: a::b is read as a, nothing, b between single colons.
        step = len(layout.delimiter)
        width = (len(self._first_line) - 1) * step + 1
        columns = [f"field_{index}" for index in range(width)]
        # One column more than there are fields, so that a line with too many is seen.
        beyond = "beyond"
        raw = pl.scan_csv(
            self.path,
            has_header=False,
            skip_lines=1 if layout.has_header else 0,
            separator=layout.delimiter[0],
            quote_char=None if layout.delimiter == "::" else '"',
            schema={column: pl.String() for column in [*columns, beyond]},
            missing_columns="insert",
            truncate_ragged_lines=True,
            # A byte that is no UTF-8 becomes U+FFFD, which is then found in its row.
            encoding="utf8-lossy",
            row_index_name="line",
            row_index_offset=2 if layout.has_header else 1,
            glob=False,
        )

        def text(name: str, column: Column) -> pl.Expr:
            return pl.col(columns[self._field(name, column) * step])

        user, item = text("user", layout.user), text("item", layout.item)
        time_text = text("timestamp", layout.timestamp)
        timestamp = time_text.str.strip_chars().cast(pl.Int64, strict=False)
        problems = [
            (pl.col(beyond).is_not_null(), f"more than the {len(self._first_line)} fields"),
            (user.is_null() | (user.str.strip_chars() == ""), "no user"),
            (item.is_null() | (item.str.strip_chars() == ""), "no item"),
            (_too_long(user) | _too_long(item), f"an id longer than {MAX_ID_LENGTH} characters"),
            (_not_utf8(user) | _not_utf8(item), "an id that is not UTF-8 text"),
        ]
        if layout.rating is not None:
            rating_text = text("rating", layout.rating)
            rating = rating_text.str.strip_chars().cast(pl.Float64, strict=False)
            problems += [
                (rating_text.is_null(), "no rating"),
                (rating.is_null() | ~rating.is_finite(), "the rating is not a number"),
            ]
        else:
            rating = pl.lit(None, dtype=pl.Float64)
        problems += [
            (time_text.is_null(), "no timestamp"),
            (timestamp.is_null(), "the timestamp is not a whole number"),
            (timestamp < 0, "the timestamp is before 1970"),
        ]
        return raw.filter(
            pl.any_horizontal(pl.col(column).is_not_null() for column in columns)
        ).select(
            "line",
            text=pl.concat_str(columns[::step], separator=layout.delimiter, ignore_nulls=True),
            user=user,
            item=item,
            rating=rating,
            timestamp=timestamp,
            problem=pl.coalesce(
                pl.when(condition).then(pl.lit(problem)) for condition, problem in problems
            ),
        )


def distinct_users(interactions: pl.LazyFrame) -> pl.DataFrame:
    """The users of the interactions, each once, in order of their id: one column, userId."""
    return (
        interactions.select(userId=pl.col(USER_ID))
        .unique()
        .sort("userId")
        .collect(engine="streaming")
    )


def _too_long(ids: pl.Expr) -> pl.Expr:
    return ids.str.len_chars() > MAX_ID_LENGTH


def _not_utf8(ids: pl.Expr) -> pl.Expr:
    return ids.str.contains("\ufffd", literal=True)
