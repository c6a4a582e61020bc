"""A file with a row for each item or user -> its good rows, with what is wrong in the others.

Items and users are read by the same readers as ratings, a part of the rows at a time. What a row
has is declared by the layouts in `items.py` and `user_attributes.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.layout import (
    Column,
    Columns,
    Decimal,
    Encoding,
    FileForm,
    Header,
    PreparationError,
)
from batchrec_dagster.preparation.polars.cells import (
    FLAW,
    ROW,
    swap_comma_and_point,
)
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.row_conditions import parse_as
from batchrec_dagster.preparation.polars.row_problems import (
    Problem,
    choose_first,
    is_not_utf8,
    list_id_problems,
    list_number_problems,
)
from batchrec_dagster.preparation.polars.rows import EXAMPLES, PROBLEM
from batchrec_dagster.preparation.polars.tables import ParquetTable
from batchrec_dagster.preparation.recognition import open_table
from batchrec_dagster.preparation.rules import BadRows
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers

# Missing values: an empty cell, and what databases write for NULL.
NOTHING = ("", "\\N")
# In files of other delimiters a quote is a part of the text.
QUOTED = (",", ";")
QUOTES_FIX = 'Write "" for each quote inside a quoted field'
# The column of a parsed row with the values of its fields.
VALUES = "values"


@dataclass(frozen=True)
class RowKind:
    """Whether a file has rows of items or of users."""

    name: str
    """The word for one of them, which is also the role of the column with its id."""
    id_name: str
    """What Personalize calls the column of its id."""

    @property
    def block(self) -> str:
        """The block of the YAML that declares the file."""
        return f"{self.name}s"

    def key(self, role: str) -> str:
        """What readers call the column of this role of `AttributesLayout.roles`."""
        return f"{self.block}.columns.{role}"


ITEM_ROWS = RowKind("item", schemas.ITEM_ID)
USER_ROWS = RowKind("user", schemas.USER_ID)


class AttributesLayout(Protocol):
    """Which column of the file holds what, as far as items and users have it in common.

    The fields are described in `ItemsLayout`.
    """

    @property
    def delimiter(self) -> str | None: ...
    @property
    def categories(self) -> Mapping[str, Column]: ...
    @property
    def numbers(self) -> Mapping[str, Column]: ...
    @property
    def separator(self) -> str: ...
    @property
    def encoding(self) -> Encoding: ...
    @property
    def decimal(self) -> Decimal: ...
    @property
    def null_values(self) -> Sequence[str]: ...
    @property
    def header(self) -> Header | None: ...
    @property
    def roles(self) -> Mapping[str, Column]:
        """The columns by the setting of the block's columns that names them."""


@dataclass(frozen=True)
class AttributeRows:
    """What became of the rows of a file."""

    rows: int
    """How many rows it has, without blank lines."""
    bad: BadRows
    good: pl.DataFrame
    """The values of the good rows: the id, categories, numbers, and the further ones."""
    erased: pl.Series
    """The ids of its users who were erased. Their rows do not count, and nothing shows them."""
    erased_rows: int
    """How many rows they have."""


def parse_attribute_rows(
    file: RawFile,
    layout: AttributesLayout,
    kind: RowKind,
    values: Mapping[str, pl.Expr] | None = None,
    problems: Sequence[Problem] = (),
    suppressed: ErasedUsers = NOBODY,
) -> AttributeRows:
    """The rows of a file on this machine. Of rows with the same id the first counts.

    values: further values of a row, by their names.
    problems: what else can be wrong with a row, besides its id and its attributes.
    suppressed: the users who were erased, whose rows are left out.

    Raises PreparationError if a declared column is missing, or there is no row.
    """
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            opened = open_file(file, layout.encoding, folder, reader)
        if not opened.size:
            raise PreparationError(f"{file.name} is empty")
        form = FileForm(delimiter=layout.delimiter, header=layout.header)
        table = open_attributes_table(opened, form, Columns(layout.roles), layout.separator)
        if isinstance(table, CsvTable) and (problem := table.find_broken_quotes(QUOTES_FIX)):
            raise PreparationError(problem)
        parsed = _parse(table, layout, kind, values or {}, problems)
        return _RowCollector(table, kind, suppressed).collect(parsed)


def open_attributes_table(
    opened: OpenedFile,
    form: FileForm,
    columns: Columns,
    separator: str = schemas.VALUE_SEPARATOR,
) -> CsvTable | JsonTable | ParquetTable:
    """The file, to be read row by row.

    form, columns: what is declared of it.
    separator: what stands between the values of a category, of which JSON and Parquet may have a
    list.
    """
    table = open_table(opened, form, columns)
    if not isinstance(table, CsvTable):
        return replace(table, separator=separator)
    quoted = table.delimiter in QUOTED and _has_quoted_fields(opened, table.delimiter)
    return replace(table, quoted=quoted, exact=True)


def _has_quoted_fields(opened: OpenedFile, delimiter: str) -> bool:
    """Whether a field starts with a quote. Else quotes are text, such as those of inches."""
    if not opened.quotes:
        return False
    lines = pl.scan_lines(opened.path, name="line", glob=False)
    starts_quoted = pl.col("line").str.contains(f'(?:^\ufeff?|{re.escape(delimiter)})"')
    return bool(lines.select(starts_quoted.any()).collect(engine="streaming").item())


def _parse(
    table: CsvTable | JsonTable | ParquetTable,
    layout: AttributesLayout,
    kind: RowKind,
    more_values: Mapping[str, pl.Expr],
    more_problems: Sequence[Problem],
) -> pl.LazyFrame:
    """ROW and PROBLEM of every row, and in VALUES those of its fields by their names."""
    columns_by_role = {kind.key(role): column for role, column in layout.roles.items()}
    hint = ""
    if isinstance(table, CsvTable):
        hint = f" (read with the delimiter {table.delimiter!r}, {kind.block}.delimiter)"
    locate_columns(columns_by_role, table.columns, table.opened.name, hint)
    # A row counts under the first problem that it has.
    problem = choose_first(
        [
            *_list_id_problems(layout, kind),
            *more_problems,
            *_list_attribute_problems(layout, kind),
        ]
    ).alias(PROBLEM)
    values = {
        kind.id_name: pl.col(kind.key(kind.name)),
        **more_values,
        **_build_attribute_values(layout, kind),
    }
    struct = pl.struct([value.alias(name) for name, value in values.items()])
    return table.read_cells(columns_by_role).select(
        ROW, pl.coalesce(FLAW, problem).alias(PROBLEM), struct.alias(VALUES)
    )


class _RowCollector:
    """Collects the good rows of a table part by part, and counts the others by their problem."""

    def __init__(
        self,
        table: CsvTable | JsonTable | ParquetTable,
        kind: RowKind,
        suppressed: ErasedUsers,
    ) -> None:
        self._table = table
        self._kind = kind
        self._suppressed = suppressed
        self._rows = 0
        self._reasons: Counter[str] = Counter()
        self._examples: list[str] = []
        self._ids: set[str] = set()
        self._erased: list[pl.Series] = [pl.Series(kind.id_name, [], pl.String)]
        self._erased_rows = 0
        self._parts: list[pl.Series] = []

    def collect(self, parsed: pl.LazyFrame) -> AttributeRows:
        """What became of the rows, as `_parse` makes them. Raises PreparationError."""
        name = self._table.opened.name
        self._parts.append(pl.Series(VALUES, [], dtype=parsed.collect_schema()[VALUES]))
        try:
            parsed.sink_batches(self._add, maintain_order=True)
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            raise PreparationError(f"{name} cannot be read: {reason}") from error
        erased = pl.concat(self._erased).unique(maintain_order=True)
        if not self._rows and not len(erased):
            raise PreparationError(f"{name} has no rows")
        return AttributeRows(
            rows=self._rows,
            bad=BadRows(dict(sorted(self._reasons.items())), tuple(self._examples)),
            good=pl.concat(self._parts).struct.unnest(),
            erased=erased,
            erased_rows=self._erased_rows,
        )

    def _add(self, part: pl.DataFrame) -> None:
        part = self._without_erased(part)
        self._rows += part.height
        part = part.with_columns(self._problems_with_duplicates(part))
        self._parts.append(part.filter(pl.col(PROBLEM).is_null()).get_column(VALUES))
        bad = part.filter(pl.col(PROBLEM).is_not_null())
        self._reasons.update(bad.get_column(PROBLEM))
        for row in bad.head(EXAMPLES - len(self._examples)).to_dicts():
            place = f"{self._table.opened.name}, {self._table.place(row[ROW])}"
            self._examples.append(f"{place}: {row[PROBLEM]}")

    def _without_erased(self, part: pl.DataFrame) -> pl.DataFrame:
        ids = part.get_column(VALUES).struct.field(self._kind.id_name)
        erased = self._suppressed.find(ids)
        if not len(erased):
            return part
        others = part.filter(~ids.is_in(erased.implode()).fill_null(value=False))
        self._erased.append(erased)
        self._erased_rows += part.height - others.height
        return others

    def _problems_with_duplicates(self, part: pl.DataFrame) -> pl.Series:
        """The problem of each row, also of one whose id stands in an earlier good row."""
        duplicate = f"the {self._kind.name} stands in an earlier row"
        problems = []
        ids = part.get_column(VALUES).struct.field(self._kind.id_name)
        for row_id, problem in zip(ids, part.get_column(PROBLEM), strict=True):
            is_duplicate = problem is None and row_id in self._ids
            if problem is None:
                self._ids.add(row_id)
            problems.append(duplicate if is_duplicate else problem)
        return pl.Series(PROBLEM, problems, dtype=pl.String)


def _build_attribute_values(layout: AttributesLayout, kind: RowKind) -> dict[str, pl.Expr]:
    """The value of each category and number."""
    values = {}
    for name in layout.categories:
        joined = _split_categories(name, layout, kind).list.join(schemas.VALUE_SEPARATOR)
        values[name] = replace_nul(pl.when(joined != "").then(joined))
    for name in layout.numbers:
        values[name] = _parse_number(name, layout, kind)
    return values


def _list_id_problems(layout: AttributesLayout, kind: RowKind) -> Iterator[Problem]:
    """What can be wrong with the id of a row, with the words for it."""
    ids = {kind.name: kind.key(kind.name)}
    yield from list_id_problems(ids, layout.null_values, setting=f"{kind.block}.encoding")


def _list_attribute_problems(layout: AttributesLayout, kind: RowKind) -> Iterator[Problem]:
    """What can be wrong with the categories and numbers of a row, with the words for it."""
    most = schemas.MAX_CATEGORICAL_LENGTH
    for name in layout.categories:
        values = _split_categories(name, layout, kind)
        lengths = values.list.eval(pl.element().str.len_chars())
        yield lengths.list.max() > most, f"{name} has a value longer than {most} characters"
        not_utf8 = is_not_utf8(kind.key(f"categories.{name}"))
        yield not_utf8, f"{name} is not UTF-8 text ({kind.block}.encoding)"
    for name in layout.numbers:
        text = read_text(pl.col(kind.key(f"numbers.{name}")))
        is_wrong = text.is_not_null() & _parse_number(name, layout, kind).is_null()
        setting = f"{kind.block}.decimal" if layout.decimal == "." else None
        yield from list_number_problems(text, is_wrong, f"{name} is not a number", setting)


def read_text(cell: pl.Expr) -> pl.Expr:
    """The cell without the spaces around it; null where it is a missing value."""
    text = cell.str.strip_chars()
    return pl.when(~text.is_in(NOTHING)).then(text)


def _split_categories(name: str, layout: AttributesLayout, kind: RowKind) -> pl.Expr:
    """The list of the values of a category."""
    cell = pl.col(kind.key(f"categories.{name}"))
    value = pl.element().str.strip_chars()
    return cell.str.split(layout.separator).list.eval(value.filter(~value.is_in(NOTHING)))


def _parse_number(name: str, layout: AttributesLayout, kind: RowKind) -> pl.Expr:
    """The number in a column; null where it is missing, or not a number."""
    text = read_text(pl.col(kind.key(f"numbers.{name}")))
    return parse_as(text if layout.decimal == "." else swap_comma_and_point(text), "double")


def replace_nul(text: pl.Expr) -> pl.Expr:
    """The text with U+FFFD for NUL, which PostgreSQL does not take."""
    return text.str.replace_all("\0", "\ufffd", literal=True)
