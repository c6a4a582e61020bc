"""A file of items -> what Personalize learns of them, and the titles that people read.

The file is read by the same readers as ratings, a part of the rows at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.layout import (
    ISO8601,
    NULL_VALUES,
    Column,
    Decimal,
    Encoding,
    PreparationError,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.cells import (
    FLAW,
    ROW,
    SHOWN,
    TEXT,
    swap_comma_and_point,
)
from batchrec_dagster.preparation.polars.csv_table import CsvTable
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.rows import (
    EXAMPLES,
    PROBLEM,
    CellConditions,
    Reason,
    choose_first_reason,
    parse_as,
)
from batchrec_dagster.preparation.polars.tables import ParquetTable
from batchrec_dagster.preparation.recognition import ReadSettings, recognise_table
from batchrec_dagster.preparation.row_problems import NULL_ID
from batchrec_dagster.preparation.rules import BadRows
from batchrec_dagster.storage.durable import temporary_folder

# Missing values: an empty cell, and what databases write for NULL.
NOTHING = ("", "\\N")
# In files of other delimiters a quote is a part of the text.
QUOTED = (",", ";")
QUOTES_FIX = 'Write "" for each quote inside a quoted field'
NOT_A_TIME = (
    "the creation time is neither whole epoch seconds or milliseconds nor a date such as 2026-05-01"
)
# The column of a parsed row with the values of its fields.
VALUES = "values"
DUPLICATE = "the item stands in an earlier row"


@dataclass(frozen=True)
class ItemsLayout:
    """Which column of a file of items holds what: by its name, or by its position, from 1.

    `encoding`, `decimal` and `null_values` are as in the layout of ratings.
    """

    delimiter: str | None
    """What separates the fields of CSV; None, if it is to be recognised."""
    item: Column
    title: Column | None = None
    image: Column | None = None
    """The column with the address of a picture."""
    link: Column | None = None
    """The column with the address of the item's page."""
    created: Column | None = None
    """The column with the time when the item came out."""
    categories: Mapping[str, Column] = field(default_factory=dict)
    """The columns of text for Personalize, by their field's name there."""
    numbers: Mapping[str, Column] = field(default_factory=dict)
    """The columns of numbers for Personalize, by their field's name there."""
    separator: str = schemas.VALUE_SEPARATOR
    """What stands between the values of a category."""
    encoding: Encoding = "auto"
    decimal: Decimal = "."
    null_values: Sequence[str] = NULL_VALUES
    """The ids that mean no value."""

    @property
    def addresses(self) -> list[str]:
        """Those of `image` and `link` that are declared."""
        declared = {"image": self.image, "link": self.link}
        return [name for name, column in declared.items() if column is not None]

    @property
    def columns(self) -> list[str]:
        """The columns of the CSV file for Personalize."""
        return schemas.list_items_columns(created=self.created is not None, **self._metadata)

    @property
    def schema(self) -> str | None:
        """The Avro schema of that file; None if it would have ids only."""
        if self.created is None and not self.categories and not self.numbers:
            return None
        return schemas.build_items_schema(created=self.created is not None, **self._metadata)

    @property
    def _metadata(self) -> dict[str, list[str]]:
        return {"categories": list(self.categories), "numbers": list(self.numbers)}

    @property
    def roles(self) -> dict[str, Column]:
        """The columns by the setting in items.columns that names them."""
        named = {
            "item": self.item,
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


@dataclass(frozen=True)
class ItemsResult:
    """What became of a file of items."""

    rows: int
    """How many rows it has, without blank lines."""
    bad: BadRows
    metadata: pl.DataFrame
    """The good rows, with the columns of the CSV file for Personalize."""
    titles: pl.DataFrame
    """The good rows: item_id, title, and where they are declared image and link, which are null in
    a row without an http(s) address."""


def parse_items(file: RawFile, layout: ItemsLayout) -> ItemsResult:
    """The items of a file on this machine. Of rows with the same item the first counts.

    Raises PreparationError if a declared column is missing, or there is no row.
    """
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            opened = open_file(file, layout.encoding, folder, reader)
        if not opened.size:
            raise PreparationError(f"{file.name} is empty")
        reading = ReadSettings(delimiter=layout.delimiter, columns=layout.roles)
        table = open_items_table(opened, reading, layout.separator)
        if isinstance(table, CsvTable) and (problem := table.find_broken_quotes(QUOTES_FIX)):
            raise PreparationError(problem)
        return _RowCollector(table, layout).collect()


def open_items_table(
    opened: OpenedFile, reading: ReadSettings, separator: str = schemas.VALUE_SEPARATOR
) -> CsvTable | JsonTable | ParquetTable:
    """The file, to be read row by row.

    reading: what is declared of it.
    separator: what stands between the values of a category, of which JSON and Parquet may have a
    list.
    """
    table = recognise_table(opened, reading)
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


class _RowCollector:
    """Collects the good rows of a table part by part, and counts the others by their problem."""

    def __init__(self, table: CsvTable | JsonTable | ParquetTable, layout: ItemsLayout) -> None:
        self._table = table
        self._layout = layout
        self._rows = 0
        self._reasons: Counter[str] = Counter()
        self._examples: list[str] = []
        self._item_ids: set[str] = set()
        self._parts: list[pl.Series] = []

    def collect(self) -> ItemsResult:
        """What became of the rows. Raises PreparationError."""
        name = self._table.opened.name
        parsed = self._parse()
        self._parts.append(pl.Series(VALUES, [], dtype=parsed.collect_schema()[VALUES]))
        try:
            parsed.sink_batches(self._add, maintain_order=True)
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            raise PreparationError(f"{name} cannot be read: {reason}") from error
        if not self._rows:
            raise PreparationError(f"{name} has no rows")
        items = pl.concat(self._parts).struct.unnest()
        title = "title" if self._layout.title else pl.lit(None, dtype=pl.String)
        return ItemsResult(
            rows=self._rows,
            bad=BadRows(dict(sorted(self._reasons.items())), tuple(self._examples)),
            metadata=items.select(self._layout.columns),
            titles=items.select(
                item_id=schemas.ITEM_ID,
                title=title,
                **{address: address for address in self._layout.addresses},
            ),
        )

    def _parse(self) -> pl.LazyFrame:
        """ROW, TEXT and PROBLEM of every row, and in VALUES those of its fields by their names."""
        layout = self._layout
        columns_by_role = {_key(role): column for role, column in layout.roles.items()}
        hint = ""
        if isinstance(self._table, CsvTable):
            hint = f" (read with the delimiter {self._table.delimiter!r}, items.delimiter)"
        locate_columns(columns_by_role, self._table.columns, self._table.opened.name, hint)
        problem = choose_first_reason(_list_problems(layout)).alias(PROBLEM)
        values = [value.alias(name) for name, value in _build_values(layout).items()]
        return self._table.read_cells(columns_by_role).select(
            ROW, TEXT, pl.coalesce(FLAW, problem).alias(PROBLEM), pl.struct(values).alias(VALUES)
        )

    def _add(self, part: pl.DataFrame) -> None:
        self._rows += part.height
        part = part.with_columns(self._problems_with_duplicates(part))
        self._parts.append(part.filter(pl.col(PROBLEM).is_null()).get_column(VALUES))
        bad = part.filter(pl.col(PROBLEM).is_not_null())
        self._reasons.update(bad.get_column(PROBLEM))
        for row in bad.head(EXAMPLES - len(self._examples)).to_dicts():
            place = f"{self._table.opened.name}, {self._table.place(row[ROW])}"
            text = (row[TEXT] or "")[:SHOWN]
            self._examples.append(f"{place}: {row[PROBLEM]}: {text!r}")

    def _problems_with_duplicates(self, part: pl.DataFrame) -> pl.Series:
        """The problem of each row, also of one whose item stands in an earlier good row."""
        problems = []
        item_ids = part.get_column(VALUES).struct.field(schemas.ITEM_ID)
        for item, problem in zip(item_ids, part.get_column(PROBLEM), strict=True):
            is_duplicate = problem is None and item in self._item_ids
            if problem is None:
                self._item_ids.add(item)
            problems.append(DUPLICATE if is_duplicate else problem)
        return pl.Series(PROBLEM, problems, dtype=pl.String)


def _key(role: str) -> str:
    """What readers call the column of this role of `ItemsLayout.roles`."""
    return f"items.columns.{role}"


def _build_values(layout: ItemsLayout) -> dict[str, pl.Expr]:
    """The value of each field: of those for Personalize, and of title, image and link."""
    values = {schemas.ITEM_ID: pl.col(_key("item"))}
    if layout.title is not None:
        values["title"] = _replace_nul(_read_text(pl.col(_key("title"))))
    for name in layout.addresses:
        address = pl.col(_key(name)).str.strip_chars()
        # A browser may not open any other text. Leaving it out makes no list worse.
        values[name] = pl.when(address.str.contains("^https?://")).then(address)
    if layout.created is not None:
        values[schemas.CREATION_TIMESTAMP] = _parse_epoch_seconds(pl.col(_key("created")))
    for name in layout.categories:
        joined = _split_categories(name, layout).list.join(schemas.VALUE_SEPARATOR)
        values[name] = _replace_nul(pl.when(joined != "").then(joined))
    for name in layout.numbers:
        values[name] = _parse_number(name, layout)
    return values


def _list_problems(layout: ItemsLayout) -> Iterator[Reason]:
    """What can be wrong with a row, with the words for it; the first that holds counts."""
    cells, item = CellConditions(layout.null_values), _key("item")
    yield cells.is_missing(item), "no item"
    yield cells.means_nothing(item), NULL_ID
    too_long = cells.is_longer(item, schemas.MAX_ID_LENGTH)
    yield too_long, f"an id longer than {schemas.MAX_ID_LENGTH} characters"
    yield cells.has_line_break(item), "an id with a line break or a NUL in it"
    yield cells.is_not_utf8(item), "an id that is not UTF-8 text (items.encoding)"
    if layout.title is not None:
        yield cells.is_not_utf8(_key("title")), "the title is not UTF-8 text (items.encoding)"
    if layout.created is not None:
        yield _parse_epoch_seconds(pl.col(_key("created"))).is_null(), NOT_A_TIME
    most = schemas.MAX_CATEGORICAL_LENGTH
    for name in layout.categories:
        lengths = _split_categories(name, layout).list.eval(pl.element().str.len_chars())
        yield lengths.list.max() > most, f"{name} has a value longer than {most} characters"
        not_utf8 = cells.is_not_utf8(_key(f"categories.{name}"))
        yield not_utf8, f"{name} is not UTF-8 text (items.encoding)"
    for name in layout.numbers:
        text = _read_text(pl.col(_key(f"numbers.{name}")))
        is_wrong = text.is_not_null() & _parse_number(name, layout).is_null()
        if layout.decimal == ".":
            has_comma = text.str.contains(r"^[-+0-9.]*,[0-9]+$")
            yield is_wrong & has_comma, f'{name} is not a number (items.decimal: ",")'
        yield is_wrong, f"{name} is not a number"


def _read_text(cell: pl.Expr) -> pl.Expr:
    """The cell without the spaces around it; null where it is a missing value."""
    text = cell.str.strip_chars()
    return pl.when(~text.is_in(NOTHING)).then(text)


def _split_categories(name: str, layout: ItemsLayout) -> pl.Expr:
    """The list of the values of a category."""
    cell = pl.col(_key(f"categories.{name}"))
    value = pl.element().str.strip_chars()
    return cell.str.split(layout.separator).list.eval(value.filter(~value.is_in(NOTHING)))


def _parse_number(name: str, layout: ItemsLayout) -> pl.Expr:
    """The number in a column; null where it is missing, or not a number."""
    text = _read_text(pl.col(_key(f"numbers.{name}")))
    return parse_as(text if layout.decimal == "." else swap_comma_and_point(text), "double")


def _parse_epoch_seconds(text: pl.Expr) -> pl.Expr:
    """The time in whole seconds since 1970; null where the text is not a time."""
    number = times.convert_by_size(times.parse_epoch_number(text))
    return pl.coalesce(times.parse_seconds(text, ISO8601), number)


def _replace_nul(text: pl.Expr) -> pl.Expr:
    """The text with U+FFFD for NUL, which PostgreSQL does not take."""
    return text.str.replace_all("\0", "\ufffd", literal=True)
