"""Files of ratings -> interactions CSV, on this machine: Polars, streaming from file to file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import polars as pl

from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
    interactions_columns,
)
from batchrec_dagster.preparation.layout import (
    AUTO,
    BEFORE_1970,
    EPOCH_UNITS,
    SENTINEL,
    Layout,
    PreparationError,
    mixed_times,
    time_problem,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import Opened, RawFile, open_file
from batchrec_dagster.preparation.polars.row_filters import RowFilter, looks_at_more_than_one_row
from batchrec_dagster.preparation.polars.rows import (
    FILE,
    FORM,
    PROBLEM,
    SECONDS,
    Looked,
    look,
    parsed,
    time_forms,
)
from batchrec_dagster.preparation.polars.tables import ROW, SHOWN, TEXT, Table
from batchrec_dagster.preparation.polars.typed_scan import write_clean
from batchrec_dagster.preparation.recognition import (
    Found,
    Reading,
    file_format,
    find_out,
    open_table,
)
from batchrec_dagster.preparation.rules import EVENT_TYPE_VALUE, Rules
from batchrec_dagster.storage.durable import temporary_folder

_ROWS_OF_A_FILE = 1 << 40


def first_unit(tables: Sequence[Table], layout: Layout, rules: Rules) -> str:
    """How times are written: declared, or the form of the first one that has a form."""
    if layout.timestamp_unit != AUTO:
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
        place = f"{tables[file].opened.name}, {tables[file].place(row)}"
        raise mixed_times(place, text, other, form)
    return found[0][0] if found else "s"


def unreadable(error: Exception, tables: Sequence[Table], rules: Rules) -> PreparationError:
    """The error of files that Polars cannot read."""
    for table in tables:
        if isinstance(table, CsvTable) and (problem := table.misquoted()):
            return PreparationError(problem)
    name, reason = tables[0].opened.name, str(error).partition("\n")[0]
    if rules.filter is not None:
        return PreparationError(f"{name}: interactions.filter fails: {reason}")
    return PreparationError(f"{name} cannot be read: {reason}")


def _collect(frame: pl.LazyFrame, tables: Sequence[Table], rules: Rules) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable(error, tables, rules) from error


LINES = 6


@dataclass(frozen=True)
class BadRows:
    """Rows that could not be read: how many for each reason, and the first few of them."""

    counts: Mapping[str, int]
    examples: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Look(NamedTuple):
    """How many rows there are, what cannot be read of them, and how their times are written."""

    rows: int
    bad: BadRows
    timestamp_unit: str


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
    """The files of a source, opened; `found` is how they are read, `empty` the names of the empty
    ones. All methods raise PreparationError where the files cannot be used."""

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

    def look(self) -> Look:
        """Read all of it."""
        clean = write_clean(self.tables, self.layout, self.rules, None)
        if clean is not None:
            return Look(clean.rows, BadRows({}, ()), clean.unit)
        looked, unit = self._diagnose(None)
        return Look(looked.rows, BadRows(looked.bad, self._examples(looked)), unit)

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
        row_filter = RowFilter(self.rules, self.folder)
        types = {name: pl.Int64() if name == TIMESTAMP else pl.String() for name in self._columns}
        row_filter.apply(pl.scan_csv(rows, schema=types, glob=False)).sink_csv(target)
        return replace(
            done,
            rows_kept=done.rows_kept - sum(row_filter.left_out.values()),
            left_out={**done.left_out, **row_filter.left_out},
        )

    def _write_rows(self, target: Path) -> Preparation:
        """As the rules on a single row have it."""
        clean = write_clean(self.tables, self.layout, self.rules, target)
        if clean is None and self.layout.timestamp_unit == AUTO:
            # The typed scan reads times of text only in a known form.
            unit = first_unit(self.tables, self.layout, self.rules)
            if unit not in EPOCH_UNITS:
                layout = replace(self.layout, timestamp_unit=unit)
                clean = write_clean(self.tables, layout, self.rules, target)
        if clean is not None:
            kept = clean.rows - sum(clean.left_out.values())
            return Preparation(clean.rows, kept, clean.left_out, (), clean.unit)
        looked, unit = self._diagnose(target)
        examples = self._examples(looked)
        bad = sum(looked.bad.values())
        self.rules.refuse_bad_rows(bad, looked.rows, examples)
        kept = looked.rows - sum(looked.left_out.values())
        return Preparation(looked.rows, kept, looked.left_out, examples, unit)

    def _diagnose(self, target: Path | None) -> tuple[Looked, str]:
        """Look at every row, and write those that are kept to the target if there is one; what was
        found, and the timestamps' unit."""
        first = unit = first_unit(self.tables, self.layout, self.rules)
        looked = self._look(unit, target)
        if self.layout.timestamp_unit == AUTO and self._may_be_mixed(looked, unit):
            unit = one_unit(self.tables, self.layout, self.rules)
            if unit != first:
                looked = self._look(unit, target)
        if not looked.rows:
            raise PreparationError(f"{self.tables[0].opened.name} has a header and no rows")
        return looked, unit

    def _look(self, unit: str, target: Path | None) -> Looked:
        rows = self._parsed(unit)
        try:
            if target is None:
                return look(rows)
            with target.open("wb") as file:
                file.write((",".join(self._columns) + "\n").encode())
                return look(rows, lambda kept: self._write_kept(kept, file))
        except pl.exceptions.PolarsError as error:
            raise unreadable(error, self.tables, self.rules) from error

    def _may_be_mixed(self, looked: Looked, unit: str) -> bool:
        """Whether there is any time that is not of the unit, as far as the look shows."""
        if {time_problem(unit, self.layout.timezone), BEFORE_1970, SENTINEL} & looked.bad.keys():
            return True
        factor = EPOCH_UNITS.get(unit)
        found = [time for time in (looked.earliest, looked.latest) if time is not None]
        return factor is not None and any(times.epoch_unit(time * factor) != unit for time in found)

    @property
    def _columns(self) -> list[str]:
        return interactions_columns(
            event_type=self.rules.event_type, event_value=self.layout.event_value is not None
        )

    def _write_kept(self, rows: pl.DataFrame, file: BinaryIO) -> None:
        no_type = self.layout.event_type is None
        written = {
            USER_ID: pl.col("user"),
            ITEM_ID: pl.col("item"),
            TIMESTAMP: pl.col(SECONDS),
            EVENT_TYPE: pl.lit(EVENT_TYPE_VALUE) if no_type else pl.col("event_type"),
            EVENT_VALUE: pl.col("event_value"),
        }
        columns = [written[name].alias(name) for name in self._columns]
        rows.select(columns).write_csv(file, include_header=False)

    def _parsed(self, unit: str) -> pl.LazyFrame:
        return pl.concat(
            parsed(table, number, self.layout, self.rules, unit)
            for number, table in enumerate(self.tables)
        )

    def _examples(self, looked: Looked) -> tuple[str, ...]:
        examples = []
        for row in looked.examples:
            table = self.tables[row[FILE]]
            examples.append(
                f"{table.opened.name}, {table.place(row[ROW])}: {row[PROBLEM]}:"
                f" {(row[TEXT] or '')[:SHOWN]!r}"
            )
        return tuple(examples)


@contextmanager
def opened(files: Sequence[RawFile], reading: Reading | Layout, rules: Rules) -> Iterator[Ratings]:
    """The files, in this order, ready to be read; what is unpacked for it goes at the end.

    Raises PreparationError.
    """
    if isinstance(reading, Layout):
        reading = Reading.of(reading)
    with temporary_folder() as folder:
        all_files = [open_file(file, reading.encoding, folder) for file in files]
        filled = [file for file in all_files if file.size]
        if not filled:
            raise PreparationError(f"{all_files[0].name} is empty")
        found = find_out(filled[0], reading, rules)
        _refuse_mixed(filled, reading)
        tables = [open_table(file, found.layout) for file in filled]
        doubts = [file.doubt for file in filled if file.doubt]
        found = replace(found, warnings=[*found.warnings, *doubts])
        empty = [file.name for file in all_files if not file.size]
        yield Ratings(tables, found, rules, empty, folder)


def _refuse_mixed(files: Sequence[Opened], reading: Reading) -> None:
    """Raise PreparationError for files of several formats; CSV and JSON may be declared."""
    forms: dict[str, str] = {file_format(file): file.name for file in reversed(files)}
    if reading.format is not None:
        forms = {("parquet" if form == "parquet" else "text"): forms[form] for form in forms}
    if len(forms) > 1:
        said = ", ".join(f"{name} is {form}" for form, name in reversed(forms.items()))
        raise PreparationError(
            f"the files have several formats ({said}). Name those of one, such as data/*.csv"
        )
