"""The reading of files of items or users: the good rows, and the problems of the bad rows.

The readers of ratings files also read these files. Problems are counted as in ratings files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.file_form import (
    DOUBLE_QUOTES,
    NULL_VALUES,
    Column,
    Columns,
    Decimal,
    FileForm,
    PreparationError,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.csv_table import CsvTable, swap_comma_and_point
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.row_conditions import parse_as
from batchrec_dagster.preparation.polars.row_problems import (
    Problem,
    choose_first,
    is_not_utf8,
    list_id_problems,
    list_number_problems,
)
from batchrec_dagster.preparation.polars.row_table import FLAW, ROW
from batchrec_dagster.preparation.polars.rows import (
    FILE,
    PROBLEM,
    REASON,
    describe_read_error,
    inspect_rows,
    is_of_erased_user,
)
from batchrec_dagster.preparation.recognition import Table, open_table
from batchrec_dagster.preparation.row_rules import BadRows
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

# Missing values: an empty cell, and the text that databases write for NULL.
NOTHING = ("", "\\N")
# The delimiters that allow quoted fields. With any other delimiter a quote is part of the text.
QUOTED = (",", ";")
NOT_A_TIME = (
    "the creation time is neither whole epoch seconds or milliseconds nor a date such as 2026-05-01"
)
# The start of the addresses of pictures and pages.
HTTP_ADDRESS = "^https?://"
# Columns of a parsed row: the id, and the values of the fields. The values are null in a bad row.
_ID, _VALUES = "id", "values"


AttributeSubject = Literal["item", "user"]
"""The kind of thing that the rows of a file describe."""


@dataclass(frozen=True)
class AttributesLayout:
    """The columns of a file of items or users, each by its name or by its position (from 1).

    `form` says how the file is written. `decimal` is the decimal mark of the numbers.
    """

    subject: AttributeSubject
    """The kind of thing that a row describes. It also names the id column's setting."""
    id: Column
    title: Column | None = None
    image: Column | None = None
    """The column with the address of a picture."""
    link: Column | None = None
    """The column with the address of the item's page."""
    created: Column | None = None
    """The column with the time when the item came out."""
    categories: Mapping[str, Column] = field(default_factory=dict)
    """The columns of text for Personalize, by the name of Personalize's field."""
    numbers: Mapping[str, Column] = field(default_factory=dict)
    """The columns of numbers for Personalize, by the name of Personalize's field."""
    separator: str = schemas.VALUE_SEPARATOR
    """The text between the values of a category."""
    form: FileForm = field(default_factory=FileForm)
    decimal: Decimal = "."
    null_values: Sequence[str] = NULL_VALUES
    """The texts that, in the id column, mean that there is no id."""

    @property
    def block(self) -> str:
        """The name of the YAML block that declares the file: items or users."""
        return f"{self.subject}s"

    @property
    def id_name(self) -> str:
        """Personalize's name of the id column."""
        return schemas.ITEM_ID if self.subject == "item" else schemas.USER_ID

    @property
    def addresses(self) -> list[str]:
        """The names of the declared address columns: `image`, `link`, both or none."""
        declared = {"image": self.image, "link": self.link}
        return [name for name, column in declared.items() if column is not None]

    @property
    def columns(self) -> list[str]:
        """The columns of the CSV file for Personalize."""
        return self._schema.columns

    @property
    def schema(self) -> str | None:
        """The Avro schema of the CSV file for Personalize; None if the file would have ids only."""
        if self.created is None and not self.categories and not self.numbers:
            return None
        return self._schema.avro

    @property
    def _schema(self) -> schemas.Schema:
        categories, numbers = [*self.categories], [*self.numbers]
        if self.subject == "user":
            return schemas.make_users_schema(categories=categories, numbers=numbers)
        return schemas.make_items_schema(
            created=self.created is not None, categories=categories, numbers=numbers
        )

    @property
    def roles(self) -> dict[str, Column]:
        """The declared columns by role.

        A role is the name of a setting under the block's `columns`, such as `categories.GENRES`.
        """
        named = {
            self.subject: self.id,
            "title": self.title,
            "image": self.image,
            "link": self.link,
            "created": self.created,
        }
        return {
            **{role: column for role, column in named.items() if column is not None},
            **{f"categories.{name}": column for name, column in self.categories.items()},
            **{f"numbers.{name}": column for name, column in self.numbers.items()},
        }

    @property
    def columns_by_setting(self) -> dict[str, Column]:
        """The columns, by the full name of the setting that names the column."""
        return {self.setting(role): column for role, column in self.roles.items()}

    def setting(self, role: str) -> str:
        """Return the full name of the setting that names a role's column.

        A reader returns a frame in which the role's column has this name, too.
        """
        return f"{self.block}.columns.{role}"


@dataclass(frozen=True)
class AttributeRows:
    """The good rows of a file, and counts of its bad rows and of erased users' rows."""

    rows: int
    """The number of rows, without blank lines and without the rows of erased users."""
    bad: BadRows
    good: pl.DataFrame
    """The values of the good rows.

    The frame has the columns for Personalize and, for items, the declared title and addresses. An
    address is null if the cell has no http(s) address.
    """
    erased: pl.Series
    """The ids in the file that belong to erased users.

    The rows of these users are not counted as good or bad, and are not shown as examples.
    """
    erased_rows: int
    """The number of rows of erased users."""


def parse_attributes(
    file: RawFile, layout: AttributesLayout, erased_users: ErasedUsers = NOBODY
) -> AttributeRows:
    """Return the good rows of a file on this machine, and counts of its other rows.

    If several good rows have the same id, only the first stays good. The later rows are bad.

    erased_users: the users who were erased. Their rows are left out.

    Raises PreparationError if a declared column is missing, if there is no row, or if the file
    cannot be read.
    """
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            opened = open_file(file, layout.form.encoding, folder, reader)
        if not opened.size:
            raise PreparationError(f"{file.name} is empty")
        table = open_declared_table(opened, layout)
        if isinstance(table, CsvTable) and (problem := table.find_broken_quotes(DOUBLE_QUOTES)):
            raise PreparationError(problem)
        cells = table.read_cells(layout.columns_by_setting)
        try:
            parsed = _parse(cells, layout).collect(engine="streaming")
        except pl.exceptions.PolarsError as error:
            raise PreparationError(describe_read_error(file.name, error)) from error
        erased = erased_users.find(parsed.get_column(_ID))
        rows = parsed.filter(~is_of_erased_user(erased, _ID)) if len(erased) else parsed
        rows = rows.with_columns(_find_problems_with_repeated(layout).alias(PROBLEM))
        if not parsed.height:
            raise PreparationError(f"{file.name} has no rows")
        findings = inspect_rows(
            rows.lazy().with_columns(pl.lit(0).alias(FILE), pl.col(PROBLEM).alias(REASON))
        )
        examples = [table.describe(row[ROW], row[PROBLEM]) for row in findings.examples]
    good = rows.filter(pl.col(PROBLEM).is_null()).get_column(_VALUES).struct.unnest()
    return AttributeRows(
        rows.height,
        BadRows(findings.left_out, tuple(examples)),
        good,
        erased,
        parsed.height - rows.height,
    )


def open_declared_table(opened: OpenedFile, layout: AttributesLayout) -> Table:
    """Return the table in a file, ready to be read row by row.

    Raises PreparationError unless the file has each declared column exactly once.
    """
    table = open_attributes_table(opened, layout.form, Columns(layout.roles), layout.separator)
    hint = ""
    if isinstance(table, CsvTable):
        hint = f" (read with the delimiter {table.delimiter!r}, {layout.block}.delimiter)"
    locate_columns(layout.columns_by_setting, table.columns, opened.name, hint)
    return table


def open_attributes_table(
    opened: OpenedFile,
    form: FileForm,
    columns: Columns,
    separator: str = schemas.VALUE_SEPARATOR,
) -> Table:
    """Return the table in a file of items or users, ready to be read row by row.

    form, columns: the declared settings.
    separator: the text between the values of a category. In JSON and Parquet, a category may be a
    list of values instead of a text.
    """
    table = open_table(opened, form, columns)
    if not isinstance(table, CsvTable):
        return replace(table, separator=separator)
    quoted = table.delimiter in QUOTED and _has_quoted_fields(opened, table.delimiter)
    return replace(table, quoted=quoted, exact=True)


def _has_quoted_fields(opened: OpenedFile, delimiter: str) -> bool:
    """Return whether a field in the file starts with a quote.

    If no field does, quotes are text, such as inch marks.
    """
    if not opened.quotes:
        return False
    lines = pl.scan_lines(opened.path, name="line", glob=False)
    starts_quoted = pl.col("line").str.contains(f'(?:^\ufeff?|{re.escape(delimiter)})"')
    return bool(lines.select(starts_quoted.any()).collect(engine="streaming").item())


def _parse(cells: pl.LazyFrame, layout: AttributesLayout) -> pl.LazyFrame:
    """Return ROW, PROBLEM, the id and the values of every row."""
    problem = pl.coalesce(FLAW, choose_first(_list_problems(layout)))
    values = pl.struct(value.alias(name) for name, value in _build_values(layout).items())
    return cells.select(
        ROW,
        problem.alias(PROBLEM),
        pl.col(layout.setting(layout.subject)).alias(_ID),
        pl.when(problem.is_null()).then(values).alias(_VALUES),
    )


def _find_problems_with_repeated(layout: AttributesLayout) -> pl.Expr:
    """Return the problem of each row, including a repeated id.

    An id is repeated if an earlier good row has it.
    """
    is_good = pl.col(PROBLEM).is_null()
    is_repeated = is_good & ~pl.struct(is_good, _ID).is_first_distinct()
    words = pl.lit(f"the {layout.subject} stands in an earlier row")
    return pl.when(is_repeated).then(words).otherwise(PROBLEM)


def _build_values(layout: AttributesLayout) -> dict[str, pl.Expr]:
    """Return the values of a row by name.

    They are the id, the title, the addresses, the creation time, the categories and the numbers.
    """
    values = {layout.id_name: pl.col(layout.setting(layout.subject))}
    if layout.title is not None:
        values["title"] = _replace_nul(_read_text(pl.col(layout.setting("title"))))
    for name in layout.addresses:
        address = pl.col(layout.setting(name)).str.strip_chars()
        # A browser must only open http(s) addresses. The row stays good without an address, because
        # lists do not need the address.
        values[name] = pl.when(address.str.contains(HTTP_ADDRESS)).then(address)
    if layout.created is not None:
        created = pl.col(layout.setting("created"))
        values[schemas.CREATION_TIMESTAMP] = times.parse_any_form(created)
    for name in layout.categories:
        joined = _split_categories(name, layout).list.join(schemas.VALUE_SEPARATOR)
        values[name] = _replace_nul(pl.when(joined != "").then(joined))
    for name in layout.numbers:
        values[name] = _parse_number(name, layout)
    return values


def _list_problems(layout: AttributesLayout) -> Iterator[Problem]:
    """Yield the problems that a row can have. A row counts under the first problem that it has."""
    encoding = f"{layout.block}.encoding"
    ids: dict[str, str] = {layout.subject: layout.setting(layout.subject)}
    yield from list_id_problems(ids, layout.null_values, setting=encoding)
    if layout.title is not None:
        not_utf8 = is_not_utf8(layout.setting("title"))
        yield not_utf8, f"the title is not UTF-8 text ({encoding})"
    if layout.created is not None:
        yield times.parse_any_form(pl.col(layout.setting("created"))).is_null(), NOT_A_TIME
    most = schemas.MAX_CATEGORICAL_LENGTH
    for name in layout.categories:
        lengths = _split_categories(name, layout).list.eval(pl.element().str.len_chars())
        yield lengths.list.max() > most, f"{name} has a value longer than {most} characters"
        not_utf8 = is_not_utf8(layout.setting(f"categories.{name}"))
        yield not_utf8, f"{name} is not UTF-8 text ({encoding})"
    comma_setting = f"{layout.block}.decimal" if layout.decimal == "." else None
    for name in layout.numbers:
        text = _read_text(pl.col(layout.setting(f"numbers.{name}")))
        is_wrong = text.is_not_null() & _parse_number(name, layout).is_null()
        yield from list_number_problems(text, is_wrong, f"{name} is not a number", comma_setting)


def _read_text(cell: pl.Expr) -> pl.Expr:
    """Return the cell without the spaces around it; null where the value is missing."""
    text = cell.str.strip_chars()
    return pl.when(~text.is_in(NOTHING)).then(text)


def _split_categories(name: str, layout: AttributesLayout) -> pl.Expr:
    """Return the list of the values of a category."""
    cell = pl.col(layout.setting(f"categories.{name}"))
    value = pl.element().str.strip_chars()
    return cell.str.split(layout.separator).list.eval(value.filter(~value.is_in(NOTHING)))


def _parse_number(name: str, layout: AttributesLayout) -> pl.Expr:
    """Return the number in a column; null where the cell is missing or not a number."""
    text = _read_text(pl.col(layout.setting(f"numbers.{name}")))
    return parse_as(text if layout.decimal == "." else swap_comma_and_point(text), "double")


def _replace_nul(text: pl.Expr) -> pl.Expr:
    """Return the text with U+FFFD in place of NUL, because PostgreSQL refuses NUL."""
    return text.str.replace_all("\0", "\ufffd", literal=True)
