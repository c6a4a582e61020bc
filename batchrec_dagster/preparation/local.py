"""Files of ratings -> interactions CSV, on this machine: Polars, streaming from file to file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import polars as pl

from batchrec_dagster.formats.interactions import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    interactions_columns,
)
from batchrec_dagster.preparation import times
from batchrec_dagster.preparation.csv_table import CsvTable
from batchrec_dagster.preparation.errors import PreparationError as PreparationError
from batchrec_dagster.preparation.fast import look_clean, write_clean
from batchrec_dagster.preparation.keeping import Keeping, looks_at_more_than_one_row
from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.opening import RawFile, open_file
from batchrec_dagster.preparation.recognition import Found, Reading, find_out, open_table
from batchrec_dagster.preparation.rows import (
    FILE,
    FORM,
    PROBLEM,
    REASON,
    SECONDS,
    parsed,
    time_forms,
)
from batchrec_dagster.preparation.rules import (
    BELOW_MIN_RATING,
    EVENT_TYPE_VALUE,
    NOT_IN_FILTER,
    Rules,
)
from batchrec_dagster.preparation.table import ROW, TEXT, Table

EXAMPLES = 5
SHOWN = 200
LINES = 6
_ROWS_OF_A_FILE = 1 << 40


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
    """What became of the files. Counts are rows; blank lines count nowhere."""

    rows_read: int
    rows_kept: int
    left_out: Mapping[str, int]
    bad_row_examples: tuple[str, ...]
    timestamp_unit: str


@dataclass(frozen=True)
class Ratings:
    """The files of a source, opened; `found` tells how they are read, `empty` names those without
    a byte. All of it raises PreparationError where they cannot be used."""

    tables: Sequence[Table]
    found: Found
    rules: Rules
    empty: Sequence[str]
    folder: Path

    @property
    def layout(self) -> Layout:
        return self.found.layout

    @property
    def encodings(self) -> list[str]:
        """What the files are in, each once."""
        return sorted({table.opened.encoding for table in self.tables})

    def first_lines(self) -> str:
        """What a person sees who opens the first file: its first lines, or rows."""
        table = self.tables[0]
        if self.layout.format == "parquet":
            return str(pl.scan_parquet(table.opened.path, glob=False).head(LINES).collect())
        with table.opened.path.open(encoding="utf-8") as file:
            return "\n".join(line.rstrip()[:SHOWN] for line in islice(file, LINES))

    def look(self) -> tuple[int, BadRows]:
        """Read all of it; how many rows there are, and what cannot be read of them."""
        clean = look_clean(self.tables, self.layout, self.rules)
        if clean is not None:
            return clean.rows, BadRows({}, ())
        unit = self.timestamp_unit
        counted = self._counted(PROBLEM, unit)
        bad = {problem: count for problem, count in counted.items() if problem}
        return sum(counted.values()), BadRows(bad, self._examples(unit) if bad else ())

    def write_interactions(self, destination: Path) -> Preparation:
        """Write the kept rows as Personalize's interactions CSV, in the source's order.

        `destination` is there when all is well, and only then: for `on_bad_rows` fail the first
        row that cannot be read is an error.
        """
        part = destination.with_name(f"{destination.name}.part")
        try:
            if looks_at_more_than_one_row(self.rules):
                done = self._write_some(part)
            else:
                done = self._write_rows(part)
            part.replace(destination)
        finally:
            part.unlink(missing_ok=True)
        return done

    def _write_some(self, target: Path) -> Preparation:
        """As all the rules have it."""
        rows = self.folder / "rows.csv"
        done = self._write_rows(rows)
        keeping = Keeping(self.rules, self.folder)
        types = {name: pl.Int64() if name == TIMESTAMP else pl.String() for name in self._columns}
        keeping.apply(pl.scan_csv(rows, schema=types, glob=False)).sink_csv(target)
        return replace(
            done,
            rows_kept=done.rows_kept - sum(keeping.left_out.values()),
            left_out={**done.left_out, **keeping.left_out},
        )

    def _write_rows(self, target: Path) -> Preparation:
        """As the rules on a single row have it."""
        clean = write_clean(self.tables, self.layout, self.rules, target)
        unit = self.timestamp_unit if clean is None else clean.unit
        if clean is None and unit != self.layout.timestamp_unit:
            layout = replace(self.layout, timestamp_unit=unit)
            clean = write_clean(self.tables, layout, self.rules, target)
        if clean is not None:
            kept = clean.rows - sum(clean.left_out.values())
            return Preparation(clean.rows, kept, clean.left_out, (), unit)
        counted = self._counted(REASON, unit)
        rows, kept = sum(counted.values()), counted[""]
        left_out = {reason: count for reason, count in counted.items() if reason}
        problems = set(left_out) - {BELOW_MIN_RATING, NOT_IN_FILTER}
        examples = self._examples(unit) if problems else ()
        bad = sum(left_out[problem] for problem in problems)
        if bad and self.rules.on_bad_rows == "fail":
            raise PreparationError(
                f"{examples[0]} ({bad:,} such rows); mend the file, or leave such rows out with"
                " ratings.on_bad_rows: skip"
            )
        if bad == rows:
            raise PreparationError(f"there is no row that can be read; {examples[0]}")
        good = self._parsed(unit).filter(pl.col(REASON).is_null())
        self._sink(good, target)
        return Preparation(rows, kept, left_out, examples, unit)

    def _counted(self, reason: str, unit: str) -> dict[str, int]:
        """How many rows there are for each value of the column; under "" those without one."""
        said = pl.col(reason).fill_null("")
        counted = self._collect(self._parsed(unit).group_by(said).len().sort(reason))
        if not counted.height:
            raise PreparationError(f"{self.tables[0].opened.name} has a header and no rows")
        return {"": 0, **dict(counted.iter_rows())}

    @property
    def _columns(self) -> list[str]:
        return interactions_columns(
            event_type=self.rules.event_type, event_value=self.layout.event_value is not None
        )

    def _sink(self, rows: pl.LazyFrame, target: Path) -> None:
        no_type = self.layout.event_type is None
        written = {
            USER_ID: pl.col("user"),
            ITEM_ID: pl.col("item"),
            TIMESTAMP: pl.col(SECONDS),
            EVENT_TYPE: pl.lit(EVENT_TYPE_VALUE) if no_type else pl.col("event_type"),
            EVENT_VALUE: pl.col("event_value"),
        }
        rows.select(written[name].alias(name) for name in self._columns).sink_csv(target)

    def _parsed(self, unit: str) -> pl.LazyFrame:
        return pl.concat(
            parsed(table, number, self.layout, self.rules, unit)
            for number, table in enumerate(self.tables)
        )

    @cached_property
    def timestamp_unit(self) -> str:
        """How times are written: declared, or the one form that all of them have."""
        if self.layout.timestamp_unit != times.AUTO:
            return self.layout.timestamp_unit
        forms = pl.concat(
            time_forms(table, number, self.layout, self.rules)
            for number, table in enumerate(self.tables)
        )
        order = pl.col(FILE).cast(pl.Int64) * _ROWS_OF_A_FILE + pl.col(ROW)
        first = forms.group_by(FORM).agg(order.min().alias("first")).sort("first")
        found = self._collect(first).rows()
        if len(found) > 1:
            (form, _), (other, position) = found[:2]
            file, row = divmod(position, _ROWS_OF_A_FILE)
            table = self.tables[file]
            its_own = time_forms(table, file, self.layout, self.rules).filter(pl.col(ROW) == row)
            text = self._collect(its_own.select("timestamp")).item()
            raise PreparationError(
                f"{table.opened.name}, {table.place(row)}: the timestamp {text!r} is"
                f" {times.spoken(other)}, those before it are {times.spoken(form)}; mend the file,"
                " or set ratings.timestamp_unit when all of them are to be read as one"
            )
        return found[0][0] if found else "s"

    def _examples(self, unit: str) -> tuple[str, ...]:
        bad = self._parsed(unit).filter(pl.col(PROBLEM).is_not_null()).head(EXAMPLES)
        told = []
        for row in self._collect(bad.select(FILE, ROW, TEXT, PROBLEM)).iter_rows(named=True):
            table = self.tables[row[FILE]]
            told.append(
                f"{table.opened.name}, {table.place(row[ROW])}: {row[PROBLEM]}:"
                f" {(row[TEXT] or '')[:SHOWN]!r}"
            )
        return tuple(told)

    def _collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        try:
            return frame.collect(engine="streaming")
        except pl.exceptions.PolarsError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> PreparationError:
        for table in self.tables:
            if isinstance(table, CsvTable) and (told := table.misquoted()):
                return PreparationError(told)
        names = self.tables[0].opened.name
        reason = str(error).partition("\n")[0]
        if self.rules.filter is not None:
            return PreparationError(f"{names}: interactions.filter cannot be worked out: {reason}")
        return PreparationError(f"{names} cannot be read: {reason}")


@contextmanager
def opened(files: Sequence[RawFile], reading: Reading | Layout, rules: Rules) -> Iterator[Ratings]:
    """The files, in this order, ready to be read; what is unpacked for it goes at the end.

    Raises PreparationError.
    """
    if isinstance(reading, Layout):
        reading = Reading.of(reading)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_files = [open_file(file, reading.encoding, folder) for file in files]
        filled = [file for file in all_files if file.size]
        if not filled:
            raise PreparationError(f"{all_files[0].name} is empty")
        found = find_out(filled[0], reading, rules)
        tables = [open_table(file, found.layout) for file in filled]
        empty = [file.name for file in all_files if not file.size]
        yield Ratings(tables, found, rules, empty, folder)
