"""Files of ratings -> interactions CSV, on this machine: Polars, streaming from file to file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.schemas import TIMESTAMP
from batchrec_dagster.preparation.confined.reader import ConfinedReader
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
from batchrec_dagster.preparation.polars.cells import ROW, SHOWN, TEXT
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.row_filters import RowFilter, has_rules_across_rows
from batchrec_dagster.preparation.polars.rows import (
    FILE,
    FORM,
    PROBLEM,
    SECONDS,
    RowFindings,
    find_time_forms,
    inspect_rows,
    parse_rows,
    read_error,
)
from batchrec_dagster.preparation.polars.tables import RowTable
from batchrec_dagster.preparation.polars.typed_scan import (
    output_column_names,
    output_columns,
    write_clean,
)
from batchrec_dagster.preparation.recognition import (
    ReadSettings,
    RecognisedLayout,
    open_table,
    recognise_layout,
)
from batchrec_dagster.preparation.rules import PreparationResult, Rules
from batchrec_dagster.storage.durable import temporary_folder

_ROWS_OF_A_FILE = 1 << 40


def find_first_unit(tables: Sequence[RowTable], layout: Layout, rules: Rules) -> str:
    """How times are written: declared, or the form of the first one that has a form."""
    if layout.timestamp_unit != AUTO:
        return layout.timestamp_unit
    for number, table in enumerate(tables):
        forms = _time_forms(table, number, layout).select(FORM).head(1)
        first = _collect(forms, tables, rules)
        if first.height:
            return str(first.item())
    return "s"


def require_one_unit(tables: Sequence[RowTable], layout: Layout, rules: Rules) -> str:
    """The one form that all times have. Raises PreparationError, with the file and the line of the
    first that has another."""
    forms = pl.concat(_time_forms(table, number, layout) for number, table in enumerate(tables))
    order = pl.col(FILE).cast(pl.Int64) * _ROWS_OF_A_FILE + pl.col(ROW)
    first = forms.group_by(FORM).agg(order.min().alias("first")).sort("first")
    found = _collect(first, tables, rules).rows()
    if len(found) > 1:
        (form, _), (other, position) = found[:2]
        file, row = divmod(position, _ROWS_OF_A_FILE)
        its_own = _time_forms(tables[file], file, layout).filter(pl.col(ROW) == row)
        text = _collect(its_own.select("timestamp"), tables, rules).item()
        place = f"{tables[file].opened.name}, {tables[file].place(row)}"
        raise mixed_times(place, text, other, form)
    return found[0][0] if found else "s"


def _time_forms(table: RowTable, number: int, layout: Layout) -> pl.LazyFrame:
    """`rows.time_forms` of a file, with its number in FILE."""
    forms = find_time_forms(table.read_cells(layout.roles), layout, plain=table.opened.is_plain)
    return forms.with_columns(pl.lit(number, pl.UInt32).alias(FILE))


def explain_read_error(
    error: Exception, tables: Sequence[RowTable], rules: Rules
) -> PreparationError:
    """The error of files that Polars cannot read."""
    for table in tables:
        if isinstance(table, CsvTable) and (problem := table.find_broken_quotes()):
            return PreparationError(problem)
    return PreparationError(read_error(tables[0].opened.name, error, rules))


def _collect(frame: pl.LazyFrame, tables: Sequence[RowTable], rules: Rules) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise explain_read_error(error, tables, rules) from error


LINES = 6


@dataclass(frozen=True)
class OpenedRatings:
    """The files of a source, opened; `found` is how they are read, `empty` the names of the empty
    ones. All methods raise PreparationError where the files cannot be used."""

    tables: Sequence[RowTable]
    found: RecognisedLayout
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

    def inspect_rows(self) -> PreparationResult:
        """Read all of it, as the rules on a single row have it."""
        clean = write_clean(self.tables, self.layout, self.rules, None)
        return self._diagnose(None) if clean is None else clean

    def write_interactions(self, destination: Path) -> PreparationResult:
        """Write the kept rows as Personalize's interactions CSV, in the source's order.

        `destination` is there when all is well, and only then: for `on_bad_rows` fail the first
        row that cannot be read is an error.
        """
        part = destination.with_name(f"{destination.name}.part")
        try:
            if has_rules_across_rows(self.rules):
                done = self._write_some(part)
            else:
                done = self._write_rows(part)
            part.replace(destination)
        finally:
            part.unlink(missing_ok=True)
        return done

    def _write_some(self, target: Path) -> PreparationResult:
        """As all the rules have it."""
        rows = self.folder / "rows.csv"
        done = self._write_rows(rows)
        row_filter = RowFilter(self.rules, self.folder)
        names = output_column_names(self.layout, self.rules)
        types = {name: pl.Int64() if name == TIMESTAMP else pl.String() for name in names}
        row_filter.apply(pl.scan_csv(rows, schema=types, glob=False)).sink_csv(target)
        return replace(done, left_out={**done.left_out, **row_filter.left_out})

    def _write_rows(self, target: Path) -> PreparationResult:
        """As the rules on a single row have it."""
        clean = write_clean(self.tables, self.layout, self.rules, target)
        if clean is None and self.layout.timestamp_unit == AUTO:
            # The typed scan reads times of text only in a known form.
            unit = find_first_unit(self.tables, self.layout, self.rules)
            if unit not in EPOCH_UNITS:
                layout = replace(self.layout, timestamp_unit=unit)
                clean = write_clean(self.tables, layout, self.rules, target)
        if clean is not None:
            return clean
        done = self._diagnose(target)
        self.rules.refuse_bad_rows(done.bad.total, done.rows_read, done.bad_row_examples)
        return done

    def _diagnose(self, target: Path | None) -> PreparationResult:
        """Look at every row, and write those that are kept to the target if there is one."""
        first = unit = find_first_unit(self.tables, self.layout, self.rules)
        looked = self._look(unit, target)
        if self.layout.timestamp_unit == AUTO and self._may_be_mixed(looked, unit):
            unit = require_one_unit(self.tables, self.layout, self.rules)
            if unit != first:
                looked = self._look(unit, target)
        if not looked.rows:
            raise PreparationError(f"{self.tables[0].opened.name} has a header and no rows")
        return PreparationResult(looked.rows, looked.left_out, self._examples(looked), unit)

    def _look(self, unit: str, target: Path | None) -> RowFindings:
        rows = pl.concat(
            parse_rows(
                table.read_cells(self.layout.roles),
                self.layout,
                self.rules,
                unit,
                plain=table.opened.is_plain,
            ).with_columns(pl.lit(number, pl.UInt32).alias(FILE))
            for number, table in enumerate(self.tables)
        )
        try:
            if target is None:
                return inspect_rows(rows)
            with target.open("wb") as file:
                header = ",".join(output_column_names(self.layout, self.rules))
                file.write(f"{header}\n".encode())
                columns = output_columns(self.layout, self.rules, pl.col(SECONDS))
                return inspect_rows(
                    rows, lambda kept: kept.select(columns).write_csv(file, include_header=False)
                )
        except pl.exceptions.PolarsError as error:
            raise explain_read_error(error, self.tables, self.rules) from error

    def _may_be_mixed(self, looked: RowFindings, unit: str) -> bool:
        """Whether there is any time that is not of the unit, as far as the look shows."""
        if {
            time_problem(unit, self.layout.timezone),
            BEFORE_1970,
            SENTINEL,
        } & looked.left_out.keys():
            return True
        factor = EPOCH_UNITS.get(unit)
        found = [time for time in (looked.earliest, looked.latest) if time is not None]
        return factor is not None and any(
            times.guess_epoch_unit(time * factor) != unit for time in found
        )

    def _examples(self, looked: RowFindings) -> tuple[str, ...]:
        return tuple(
            f"{table.opened.name}, {table.place(row[ROW])}: {row[PROBLEM]}:"
            f" {(row[TEXT] or '')[:SHOWN]!r}"
            for row in looked.examples
            for table in [self.tables[row[FILE]]]
        )


@contextmanager
def open_ratings(
    files: Sequence[RawFile], reading: ReadSettings | Layout, rules: Rules
) -> Iterator[OpenedRatings]:
    """The files, in this order, ready to be read; what is unpacked for it goes at the end.

    Raises PreparationError.
    """
    if isinstance(reading, Layout):
        reading = ReadSettings.of(reading)
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            all_files = [open_file(file, reading.encoding, folder, reader) for file in files]
        filled = [file for file in all_files if file.size]
        if not filled:
            raise PreparationError(f"{all_files[0].name} is empty")
        found = recognise_layout(filled[0], reading, rules)
        _refuse_mixed(filled, reading)
        tables = [open_table(file, found.layout) for file in filled]
        doubts = [file.doubt for file in filled if file.doubt]
        found = replace(found, warnings=[*found.warnings, *doubts])
        empty = [file.name for file in all_files if not file.size]
        yield OpenedRatings(tables, found, rules, empty, folder)


def _refuse_mixed(files: Sequence[OpenedFile], reading: ReadSettings) -> None:
    """Raise PreparationError for files of several formats; CSV and JSON may be declared."""
    forms: dict[str, str] = {file.format: file.name for file in reversed(files)}
    if reading.format is not None:
        forms = {("parquet" if form == "parquet" else "text"): forms[form] for form in forms}
    if len(forms) > 1:
        said = ", ".join(f"{name} is {form}" for form, name in reversed(forms.items()))
        raise PreparationError(
            f"the files have several formats ({said}). Name those of one, such as data/*.csv"
        )
