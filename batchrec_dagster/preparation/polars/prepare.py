"""Preparation of ratings files to an interactions CSV on this machine.

Polars streams the rows from file to file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.personalize.schemas import TIMESTAMP
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.counting import list_distinct
from batchrec_dagster.preparation.file_form import (
    AUTO,
    CLOCK_SLACK,
    LEGACY,
    Columns,
    FileForm,
    PreparationError,
)
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.row_filters import RowFilter, has_rules_across_rows
from batchrec_dagster.preparation.polars.row_problems import FORM, SECONDS, list_mixed_times
from batchrec_dagster.preparation.polars.row_table import ROW, RowTable
from batchrec_dagster.preparation.polars.rows import (
    FILE,
    NO_IDS,
    PROBLEM,
    describe_read_error,
    find_time_forms,
    inspect_rows,
    is_of_erased_user,
    leave_out_erased,
    parse_rows,
)
from batchrec_dagster.preparation.polars.typed_scan import (
    build_output_columns,
    list_output_columns,
    write_clean,
)
from batchrec_dagster.preparation.recognition import Recognised, open_table, recognise
from batchrec_dagster.preparation.row_rules import ERASED_USER, PreparationResult, RowRules
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

# The number of first rows of a file that are searched for the form of the times. If they show no
# form, all rows of the file are searched.
ROWS_FOR_TIME_FORM = 1_000


@dataclass(frozen=True)
class OpenedRatings:
    """The opened files of a source.

    All methods raise PreparationError if the files cannot be used.
    """

    tables: Sequence[RowTable]
    """The files that are not empty."""

    recognised: Recognised
    """The form and the columns of the files, and warnings about them."""

    rules: RowRules

    empty: Sequence[str]
    """The names of the empty files."""

    folder: Path
    """The folder for intermediate files."""

    erased_users: ErasedUsers
    """The users who were erased. Their rows are left out."""

    @property
    def columns(self) -> Columns:
        return self.recognised.columns

    @property
    def encodings(self) -> list[str]:
        """The distinct encodings of the files."""
        return sorted({table.opened.encoding for table in self.tables})

    @cached_property
    def unit(self) -> str:
        """The form of the times: the declared form, or else the first form that a time shows.

        If no time shows a form, it is `s`.
        """
        if self.columns.time_form != AUTO:
            return self.columns.time_form
        for table in self.tables:
            for rows in (table.head(ROWS_FOR_TIME_FORM), table):
                cells = leave_out_erased(rows.read_cells(self.columns.wanted), self._erased_ids)
                forms = find_time_forms(cells, self.columns, plain=table.opened.is_plain)
                first_form = self._collect(forms.select(FORM).head(1))
                if first_form.height:
                    return str(first_form.item())
        return "s"

    def inspect_rows(self) -> PreparationResult:
        """Return the counts that the rules on a single row give, without writing any row."""
        return self._apply_row_rules(None)

    def write_interactions(self, destination: Path) -> PreparationResult:
        """Write the rows that are kept as Personalize's interactions CSV, in the source's order.

        The file appears at the destination once it is complete. With `on_bad_rows: fail`, a bad row
        is an error. If all rows are bad, it is always an error.
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
        result = self._apply_row_rules(target)
        self.rules.refuse_bad_rows(result.bad.total, result.rows_read, result.bad_row_examples)
        return result

    def _apply_row_rules(self, target: Path | None) -> PreparationResult:
        """Apply the rules on a single row, and count the rows of erased users as left out.

        target: the file to write. With None, nothing is written.
        """
        erased, unit = self._erased_ids, self.unit
        result = write_clean(self.tables, self.columns, self.rules, unit, target, erased)
        if result is None:
            result = self._diagnose_rows(target)
        if not len(erased):
            return result
        erased_rows = self._count_rows_of(erased)
        return replace(
            result,
            rows_read=result.rows_read + erased_rows,
            left_out={ERASED_USER: erased_rows, **result.left_out},
            erased_users=len(erased),
        )

    def _diagnose_rows(self, target: Path | None) -> PreparationResult:
        """Do the work of `write_clean` for any files, and find the problems of their rows."""
        columns, rules = self.columns, self.rules
        rows = pl.concat(
            parse_rows(
                leave_out_erased(table.read_cells(columns.wanted), self._erased_ids),
                columns,
                rules,
                self.unit,
                plain=table.opened.is_plain,
            ).with_columns(pl.lit(number, pl.UInt32).alias(FILE))
            for number, table in enumerate(self.tables)
        )
        mixed_times = set(list_mixed_times(columns, self.unit).values())
        output = build_output_columns(columns, rules, pl.col(SECONDS))
        try:
            if target is None:
                findings = inspect_rows(rows, None, mixed_times)
            else:
                with target.open("wb") as file:
                    pl.DataFrame(schema=list_output_columns(columns, rules)).write_csv(file)
                    findings = inspect_rows(
                        rows,
                        lambda kept: kept.select(output).write_csv(file, include_header=False),
                        mixed_times,
                    )
        except pl.exceptions.PolarsError as error:
            raise self._explain(error) from error
        if findings.fatal is not None:
            raise PreparationError(self._describe(findings.fatal))
        if not findings.rows and not len(self._erased_ids):
            raise PreparationError(f"{self.tables[0].opened.name} has a header and no rows")
        examples = tuple(map(self._describe, findings.examples))
        return PreparationResult(findings.rows, findings.left_out, examples, self.unit)

    def _describe(self, row: Mapping[str, Any]) -> str:
        table: RowTable = self.tables[row[FILE]]
        return table.describe(row[ROW], row[PROBLEM])

    @cached_property
    def _erased_ids(self) -> pl.Series:
        """The ids in the files that belong to erased users.

        The ids are found once, so that later steps need not hash an id for each row.
        """
        if not self.erased_users:
            return NO_IDS
        try:
            return self.erased_users.find(list_distinct(self._scan_users(), "user"))
        except pl.exceptions.PolarsError as error:
            raise self._explain(error) from error

    def _count_rows_of(self, users: pl.Series) -> int:
        rows = self._scan_users().select(is_of_erased_user(users).sum())
        return int(self._collect(rows).item())

    def _scan_users(self) -> pl.LazyFrame:
        """Return the ids of the users in all rows, in the column user."""
        cells = [table.read_cells({"user": self.columns.roles["user"]}) for table in self.tables]
        return pl.concat(rows.select("user") for rows in cells)

    def _collect(self, rows: pl.LazyFrame) -> pl.DataFrame:
        try:
            return rows.collect(engine="streaming")
        except pl.exceptions.PolarsError as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> PreparationError:
        """Return the error to raise for files that Polars cannot read."""
        for table in self.tables:
            problem = table.find_broken_quotes() if isinstance(table, CsvTable) else None
            if problem is not None:
                return PreparationError(problem)
        name = self.tables[0].opened.name
        return PreparationError(describe_read_error(name, error, self.rules.filter))


@contextmanager
def open_ratings(
    files: Sequence[RawFile],
    form: FileForm,
    columns: Columns,
    rules: RowRules,
    erased_users: ErasedUsers = NOBODY,
) -> Iterator[OpenedRatings]:
    """Yield the files ready to be read, in the given order.

    form, columns: the declared or the recognised settings. Rows with a time after `columns.latest`
    are bad. If it is None, rows with a time in the future are bad.
    erased_users: the users who were erased.

    Unpacked files are removed when the block ends. Raises PreparationError if the files cannot be
    used.
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
        yield OpenedRatings(tables, recognised, rules, empty, folder, erased_users)


def _describe_legacy_files(files: Sequence[OpenedFile]) -> Iterator[str]:
    """Yield a warning if files were read in LEGACY because nothing shows their encoding."""
    names = [file.name for file in files if file.encoding == LEGACY]
    if names:
        more = f" and {len(names) - 1:,} more" if names[1:] else ""
        yield (
            f"{names[0]}{more}: not UTF-8, so read as {LEGACY}. If letters beyond ASCII look wrong,"
            " set the encoding, such as encoding: cp1250"
        )


def _refuse_mixed_formats(files: Sequence[OpenedFile], form: FileForm) -> None:
    """Raise PreparationError for files of several formats.

    If a format is declared, CSV and JSON count as one format, because all text is then read in the
    declared format.
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
