"""Files of ratings -> interactions CSV, on this machine: Polars, streaming from file to file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from batchrec_dagster.personalize.schemas import TIMESTAMP
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.counting import list_distinct_ids
from batchrec_dagster.preparation.layout import (
    AUTO,
    CLOCK_SLACK,
    EPOCH_UNITS,
    LEGACY,
    Columns,
    FileForm,
    PreparationError,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.cells import ROW
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.row_filters import RowFilter, has_rules_across_rows
from batchrec_dagster.preparation.polars.rows import (
    FILE,
    NO_IDS,
    PROBLEM,
    SECONDS,
    RowFindings,
    inspect_rows,
    parse_rows,
)
from batchrec_dagster.preparation.polars.tables import RowTable
from batchrec_dagster.preparation.polars.time_units import (
    explain_read_error,
    find_first_unit,
    require_one_unit,
)
from batchrec_dagster.preparation.polars.typed_scan import (
    build_output_columns,
    list_output_columns,
    write_clean,
)
from batchrec_dagster.preparation.recognition import Recognised, open_table, recognise
from batchrec_dagster.preparation.row_problems import (
    BEFORE_1970,
    SENTINEL,
    describe_time_problem,
)
from batchrec_dagster.preparation.rules import PreparationResult, Rules
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

# Up to about this many bytes of text, Polars' streaming unique of the users takes a few hundred
# megabytes, and a third of the time of reading them piece by piece.
BYTES_AT_ONCE = 500_000_000
# How many times smaller ratings are as Parquet than as text.
PARQUET_SAVES = 5


@dataclass(frozen=True)
class OpenedRatings:
    """The files of a source, opened. All methods raise PreparationError if they cannot be used."""

    tables: Sequence[RowTable]
    """The files that are not empty."""

    recognised: Recognised
    """How they are read, and what is to be said about that."""

    rules: Rules

    empty: Sequence[str]
    """The names of the empty files."""

    folder: Path
    """Takes what is written meanwhile."""

    suppressed: ErasedUsers = NOBODY
    """The users who were erased. Their rows are left out."""

    @property
    def columns(self) -> Columns:
        return self.recognised.columns

    @property
    def encodings(self) -> list[str]:
        """The encodings of the files, each once."""
        return sorted({table.opened.encoding for table in self.tables})

    @cached_property
    def erased_ids(self) -> pl.Series:
        """The ids in the files whose users were erased.

        They are found once, so that nothing that follows has to hash an id for each row.
        """
        if not self.suppressed:
            return NO_IDS
        cells = [table.read_cells({"user": self.columns.roles["user"]}) for table in self.tables]
        users = pl.concat(rows.select("user") for rows in cells)
        file_bytes = sum(table.opened.size for table in self.tables)
        if self.recognised.form.format == "parquet":
            file_bytes *= PARQUET_SAVES
        try:
            if file_bytes <= BYTES_AT_ONCE:
                return self.suppressed.find(users.unique().collect(engine="streaming").to_series())
            return self.suppressed.find(list_distinct_ids(users, "user"))
        except pl.exceptions.PolarsError as error:
            raise explain_read_error(error, self.tables, self.rules) from error

    def inspect_rows(self) -> PreparationResult:
        """What the rules on a single row make of all rows, without writing any."""
        clean = self._write_clean(self.columns, None)
        return self._write_diagnosed(None) if clean is None else clean

    def write_interactions(self, destination: Path) -> PreparationResult:
        """Write the rows that are kept as Personalize's interactions CSV, in the source's order.

        The file appears at the destination once it is whole. With `on_bad_rows: fail` the first row
        that cannot be read is an error.
        """
        part = destination.with_name(f"{destination.name}.part")
        try:
            if has_rules_across_rows(self.rules):
                result = self._write_by_all_rules(part)
            else:
                result = self._write_by_row_rules(part)
            part.replace(destination)
        finally:
            part.unlink(missing_ok=True)
        return result

    def _write_by_all_rules(self, target: Path) -> PreparationResult:
        rows = self.folder / "rows.csv"
        result = self._write_by_row_rules(rows)
        row_filter = RowFilter(self.rules, self.folder)
        names = list_output_columns(self.columns, self.rules)
        types = {name: pl.Int64() if name == TIMESTAMP else pl.String() for name in names}
        row_filter.apply(pl.scan_csv(rows, schema=types, glob=False)).sink_csv(target)
        return replace(result, left_out={**result.left_out, **row_filter.left_out})

    def _write_by_row_rules(self, target: Path) -> PreparationResult:
        """Write the rows that the rules on a single row keep."""
        clean = self._write_clean(self.columns, target)
        if clean is None and self.columns.time_form == AUTO:
            # The typed scan reads times of text only in a known form.
            unit = self._find_first_unit()
            if unit not in EPOCH_UNITS:
                columns = replace(self.columns, time_form=unit)
                clean = self._write_clean(columns, target)
        if clean is not None:
            return clean
        result = self._write_diagnosed(target)
        self.rules.refuse_bad_rows(result.bad.total, result.rows_read, result.bad_row_examples)
        return result

    def _write_clean(self, columns: Columns, target: Path | None) -> PreparationResult | None:
        return write_clean(self.tables, columns, self.rules, target, self.erased_ids)

    def _find_first_unit(self) -> str:
        return find_first_unit(self.tables, self.columns, self.rules, self.erased_ids)

    def _write_diagnosed(self, target: Path | None) -> PreparationResult:
        """The same as `_write_by_row_rules` for files with bad rows, with what is wrong with them.

        Without a target nothing is written.
        """
        first_unit = unit = self._find_first_unit()
        findings = self._parse_and_write(unit, target)
        if self.columns.time_form == AUTO and self._may_be_mixed(findings, unit):
            unit = require_one_unit(self.tables, self.columns, self.rules, self.erased_ids)
            if unit != first_unit:
                findings = self._parse_and_write(unit, target)
        if not findings.rows:
            raise PreparationError(f"{self.tables[0].opened.name} has a header and no rows")
        examples = self._describe_examples(findings)
        return PreparationResult(
            findings.rows, findings.left_out, examples, unit, len(findings.erased_users)
        )

    def _parse_and_write(self, unit: str, target: Path | None) -> RowFindings:
        """What is found in the rows with times in this unit."""
        rows = pl.concat(
            parse_rows(
                table.read_cells(self.columns.wanted),
                self.columns,
                self.rules,
                unit,
                self.erased_ids,
                plain=table.opened.is_plain,
            ).with_columns(pl.lit(number, pl.UInt32).alias(FILE))
            for number, table in enumerate(self.tables)
        )
        try:
            if target is None:
                return inspect_rows(rows)
            with target.open("wb") as file:
                header = ",".join(list_output_columns(self.columns, self.rules))
                file.write(f"{header}\n".encode())
                columns = build_output_columns(self.columns, self.rules, pl.col(SECONDS))

                def write(kept_rows: pl.DataFrame) -> None:
                    kept_rows.select(columns).write_csv(file, include_header=False)

                return inspect_rows(rows, write)
        except pl.exceptions.PolarsError as error:
            raise explain_read_error(error, self.tables, self.rules) from error

    def _may_be_mixed(self, findings: RowFindings, unit: str) -> bool:
        """Whether a time may be in another unit, to judge by what was found with this one."""
        signs = {describe_time_problem(unit, self.columns.timezone), BEFORE_1970, SENTINEL}
        if signs & findings.left_out.keys():
            return True
        factor = EPOCH_UNITS.get(unit)
        if factor is None:
            return False
        extremes = [findings.earliest, findings.latest]
        return any(
            times.guess_form(seconds * factor) != unit
            for seconds in extremes
            if seconds is not None
        )

    def _describe_examples(self, findings: RowFindings) -> tuple[str, ...]:
        """The first bad rows: the file, the line, and what is wrong."""
        descriptions = []
        for row in findings.examples:
            table = self.tables[row[FILE]]
            place = f"{table.opened.name}, {table.place(row[ROW])}"
            descriptions.append(f"{place}: {row[PROBLEM]}")
        return tuple(descriptions)


@contextmanager
def open_ratings(
    files: Sequence[RawFile],
    form: FileForm,
    columns: Columns,
    rules: Rules,
    suppressed: ErasedUsers = NOBODY,
) -> Iterator[OpenedRatings]:
    """The files ready to be read, in this order.

    form, columns: as they are declared, or were recognised. Times in the future are bad rows, as
    are those after the columns' latest time.
    suppressed: the users who were erased.

    What has to be unpacked for it is removed when the block ends. Raises PreparationError.
    """
    if columns.latest is None:
        columns = replace(columns, latest=int(time.time()) + CLOCK_SLACK)
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            all_files = [open_file(file, form.encoding, folder, reader) for file in files]
        filled = [file for file in all_files if file.size]
        if not filled:
            raise PreparationError(f"{all_files[0].name} is empty")
        recognised = recognise(filled[0], form, columns, rules)
        _refuse_mixed_formats(filled, form)
        tables = [open_table(file, recognised.form, recognised.columns) for file in filled]
        if form.encoding == "auto":
            warnings = [*recognised.warnings, *_describe_legacy_files(filled)]
            recognised = replace(recognised, warnings=warnings)
        empty = [file.name for file in all_files if not file.size]
        yield OpenedRatings(tables, recognised, rules, empty, folder, suppressed)


def _describe_legacy_files(files: Sequence[OpenedFile]) -> Iterator[str]:
    """The warning that files were read in LEGACY, as nothing says in which encoding they are."""
    names = [file.name for file in files if file.encoding == LEGACY]
    if names:
        more = f" and {len(names) - 1:,} more" if names[1:] else ""
        yield (
            f"{names[0]}{more}: not UTF-8, so read as {LEGACY}. If letters beyond ASCII look wrong,"
            " set the encoding, such as encoding: cp1250"
        )


def _refuse_mixed_formats(files: Sequence[OpenedFile], form: FileForm) -> None:
    """Raise PreparationError for files of several formats.

    Text counts as the declared format, whether it looks like CSV or JSON.
    """
    file_of_format: dict[str, str] = {file.format: file.name for file in reversed(files)}
    if form.format is not None:
        file_of_format = {
            ("parquet" if name == "parquet" else "text"): file_of_format[name]
            for name in file_of_format
        }
    if len(file_of_format) > 1:
        formats = ", ".join(f"{file} is {name}" for name, file in reversed(file_of_format.items()))
        raise PreparationError(
            f"the files have several formats ({formats}). Name those of one, such as data/*.csv"
        )
