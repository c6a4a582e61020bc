"""Items file -> the items' metadata for Personalize, and their titles.

A catalogue is small compared with its ratings: it is read row by row, CSV with Python's csv module,
and Parquet as if its cells were text.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.layout import (
    NULL_ID,
    NULL_VALUES,
    Column,
    Decimal,
    Encoding,
    PreparationError,
    locate,
    split_line,
)
from batchrec_dagster.preparation.polars.cells import SHOWN
from batchrec_dagster.preparation.polars.csv_table import DELIMITERS, check_width
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.polars.tables import damaged
from batchrec_dagster.preparation.rules import BadRows
from batchrec_dagster.storage.durable import temporary_folder

EXAMPLES = 5

# As seconds this is the year 5138, as milliseconds 1973: see the timestamps of ratings.
FIRST_MILLISECOND = 10**11

# Missing values: an empty field, and what databases write for NULL.
NOTHING = ("", "\\N")
# In files of other delimiters a quote is a part of the text.
QUOTED = (",", ";")
_SWAPPED = str.maketrans(",.", ".,")


@dataclass(frozen=True)
class ItemsLayout:
    """Which field of a line holds what: by its name in the header, or by position, from 1.

    `categories` and `numbers` are by their field's name in Personalize; `separator` stands between
    the values of a category. `encoding` and `decimal` as in the layout of ratings. `delimiter`
    None: the one by which the header has the columns, or a comma.
    """

    delimiter: str | None
    item: Column
    title: Column | None = None
    image: Column | None = None
    link: Column | None = None
    created: Column | None = None
    categories: Mapping[str, Column] = field(default_factory=dict)
    numbers: Mapping[str, Column] = field(default_factory=dict)
    separator: str = schemas.VALUE_SEPARATOR
    encoding: Encoding = "auto"
    decimal: Decimal = "."
    null_values: Sequence[str] = NULL_VALUES

    @property
    def has_header(self) -> bool:
        return isinstance(self.item, str)

    @property
    def addresses(self) -> list[str]:
        """Of `image` and `link`, what is declared."""
        declared = {"image": self.image, "link": self.link}
        return [name for name, column in declared.items() if column is not None]

    @property
    def columns(self) -> list[str]:
        """The columns of Personalize's CSV."""
        return schemas.list_items_columns(created=self.created is not None, **self._metadata)

    @property
    def schema(self) -> str | None:
        """The Avro schema of that CSV; None when there are only ids."""
        if self.created is None and not self.categories and not self.numbers:
            return None
        return schemas.build_items_schema(created=self.created is not None, **self._metadata)

    @property
    def _metadata(self) -> dict[str, list[str]]:
        return {"categories": list(self.categories), "numbers": list(self.numbers)}

    @property
    def roles(self) -> dict[str, Column]:
        """The setting that names each column, as in items.columns, and the column."""
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
class ItemsRead:
    """What became of an items file: the rows that are good, and how many are not.

    metadata: the columns of Personalize's CSV. titles: item_id, title, and where declared image and
    link, addresses (null where it has none).
    """

    rows: int
    bad: BadRows
    metadata: pl.DataFrame
    titles: pl.DataFrame


class _BadRowError(Exception):
    """The row cannot be used; the message says why."""


@dataclass(frozen=True)
class ItemsFile:
    """An items file on this machine; `name` is what messages call it."""

    path: Path
    name: str
    layout: ItemsLayout

    @cached_property
    def delimiter(self) -> str:
        """What separates the fields."""
        _, content = self._content
        if self.layout.delimiter is not None or not isinstance(content, str):
            return self.layout.delimiter or ","
        first = next((line for line in io.StringIO(content) if line.strip()), "")
        wanted = set(self.layout.roles.values())

        def fits(by: str) -> bool:
            return wanted <= {name.strip() for name in split_line(first, by, quoted=by in QUOTED)}

        return next(filter(fits, (",", *DELIMITERS)), ",")

    def read(self) -> ItemsRead:
        """Read the whole file; of an item that stands twice the first row counts.

        Raises PreparationError when a declared column is not there, or there is no row.
        """
        parsers = [self._parser(role) for role in self.layout.roles]
        seen: set[str] = set()
        good: list[list[Any]] = []
        reasons: Counter[str] = Counter()
        examples: list[str] = []
        rows = 0
        lines = self._lines()
        if self.layout.has_header:
            next(lines)
        for line, fields in lines:
            rows += 1
            try:
                if len(fields) != len(self._first_line):
                    raise _BadRowError(f"not the {len(self._first_line)} fields of line 1")
                values = [parse(fields) for parse in parsers]
                if values[0] in seen:
                    raise _BadRowError("the item stands in an earlier row")
            except _BadRowError as error:
                reasons[str(error)] += 1
                if len(examples) < EXAMPLES:
                    text = self.delimiter.join(fields)
                    place = self._content[0].place(line)
                    examples.append(f"{self.name}, {place}: {error}: {text[:SHOWN]!r}")
            else:
                seen.add(values[0])
                good.append(values)
        if not rows:
            raise PreparationError(f"{self.name} has no rows")
        table = pl.DataFrame(good, schema=self._types(), orient="row")
        return ItemsRead(
            rows=rows,
            bad=BadRows(dict(sorted(reasons.items())), tuple(examples)),
            metadata=table.select(self.layout.columns),
            titles=table.select(
                item_id=schemas.ITEM_ID,
                title="title" if self.layout.title else pl.lit(None, dtype=pl.String),
                **{name: name for name in self.layout.addresses},
            ),
        )

    def _types(self) -> dict[str, pl.DataType]:
        """The columns of a parsed row, in the order of the layout's roles."""
        layout = self.layout
        return {
            schemas.ITEM_ID: pl.String(),
            **({"title": pl.String()} if layout.title is not None else {}),
            **dict.fromkeys(layout.addresses, pl.String()),
            **({schemas.CREATION_TIMESTAMP: pl.Int64()} if layout.created is not None else {}),
            **{name: pl.String() for name in layout.categories},
            **{name: pl.Float64() for name in layout.numbers},
        }

    def _parser(self, role: str) -> Callable[[list[str]], Any]:
        """What makes a value for this role of a row's fields, or raises _BadRowError."""
        names = [name.strip() for name in self._first_line]
        hint = f" (read with the delimiter {self.delimiter!r}, items.delimiter)"
        wanted = {f"items.columns.{role}": self.layout.roles[role]}
        [at] = locate(wanted, names, self.name, hint).values()
        kind, _, name = role.partition(".")
        separator, decimal = self.layout.separator, self.layout.decimal
        readers: dict[str, Callable[[str], Any]] = {
            "item": lambda text: _item(text, self.layout.null_values),
            "title": _title,
            "image": _address,
            "link": _address,
            "created": _created,
            "categories": lambda text: _category(name, text, separator),
            "numbers": lambda text: _number(name, text, decimal),
        }
        read = readers[kind]
        return lambda fields: read(fields[at])

    @cached_property
    def _first_line(self) -> list[str]:
        """The fields of the first line: the header, where there is one."""
        for _, fields in self._lines():
            check_width(fields, self.name)
            return fields
        raise PreparationError(f"{self.name} is empty")

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """The number of each line that is not blank, and its fields."""
        _, content = self._content
        if not isinstance(content, str):
            rows = self._cells(content)
            yield from enumerate([rows.columns, *map(list, rows.rows())])
            return
        delimiter = self.delimiter
        file = io.StringIO(content, newline="")
        if delimiter not in QUOTED:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n").split(delimiter)
            return
        reader = csv.reader(file, delimiter=delimiter)
        try:
            yield from ((reader.line_num, fields) for fields in reader if fields)
        except csv.Error as error:
            raise PreparationError(
                f"{self.name}, line {reader.line_num}: {error}: fix the file"
            ) from error

    @cached_property
    def _content(self) -> tuple[OpenedFile, str | pl.DataFrame]:
        """The file, and its text if it is CSV, else its rows."""
        with temporary_folder() as folder:
            raw_file = RawFile(self.path, self.name)
            with ConfinedReader() as reader:
                opened = open_file(raw_file, self.layout.encoding, folder, reader)
            if (form := opened.format) == "csv":
                return opened, opened.path.read_bytes().decode("utf-8-sig")
            try:
                if form == "json":
                    return opened, pl.read_ndjson(opened.path, infer_schema_length=None)
                return opened, pl.read_parquet(opened.path, glob=False)
            except (pl.exceptions.PolarsError, OSError) as error:
                if form == "parquet":
                    raise damaged(opened, error) from error
                reason = str(error).partition("\n")[0]
                raise PreparationError(f"{self.name} is not JSON Lines ({reason})") from error

    def _cells(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The columns that are used as text, lists joined; nothing in the other columns."""
        cells = []
        for name, kind in rows.schema.items():
            cell, text = pl.col(name), pl.String()
            if name not in self.layout.roles.values():
                cell = pl.lit(None, text).alias(name)
            elif isinstance(kind, pl.Datetime | pl.Date):
                cell = cell.dt.epoch("s")
            elif isinstance(kind, pl.List) and not kind.inner.is_nested():
                cell = cell.cast(pl.List(text)).list.join(self.layout.separator, ignore_nulls=True)
            elif kind.is_nested() or kind in (pl.Binary, pl.Object):
                raise PreparationError(f"{self.name}: {name!r} is of type {kind}: write text")
            if name == self.layout.item and kind.is_float():
                raise PreparationError(
                    f"{self.name}: {name!r} is of type {kind}: write ids as text"
                )
            cells.append(cell.cast(text).fill_null(""))
        return rows.select(cells)


def _item(text: str, null_values: Sequence[str]) -> str:
    if not text.strip():
        raise _BadRowError("no item")
    if text.strip(" ") in null_values:
        raise _BadRowError(NULL_ID)
    if len(text) > schemas.MAX_ID_LENGTH:
        raise _BadRowError(f"an id longer than {schemas.MAX_ID_LENGTH} characters")
    if {"\n", "\r", "\0"} & set(text):
        raise _BadRowError("an id with a line break or a NUL in it")
    return _text("the id", text)


def _title(text: str) -> str | None:
    title = text.strip()
    return None if title in NOTHING else _text("the title", title)


def _address(text: str) -> str | None:
    """An address that a browser may open; anything else is none, as it makes no list worse."""
    address = text.strip()
    return address if address.startswith(("https://", "http://")) else None


def _created(text: str) -> int:
    """Epoch seconds."""
    try:
        time = int(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            raise _BadRowError(
                "the creation time is neither whole epoch seconds or milliseconds nor a date such"
                " as 2026-05-01"
            ) from None
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if abs(time) >= 1 << 63:
        raise _BadRowError("the creation time is beyond any calendar")
    return time // 1000 if time >= FIRST_MILLISECOND else time


def _category(name: str, text: str, separator: str) -> str | None:
    values = [value for part in text.split(separator) if (value := part.strip()) not in NOTHING]
    if any(len(value) > schemas.MAX_CATEGORICAL_LENGTH for value in values):
        raise _BadRowError(
            f"{name} has a value longer than {schemas.MAX_CATEGORICAL_LENGTH} characters"
        )
    return _text(name, schemas.VALUE_SEPARATOR.join(values)) or None


def _number(name: str, text: str, decimal: Decimal) -> float | None:
    if text.strip() in NOTHING:
        return None
    try:
        # With a comma, what has a point is no number.
        number = float(text if decimal == "." else text.translate(_SWAPPED))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        comma = re.fullmatch(r"[-+0-9.]*,[0-9]+", text.strip()) and decimal == "."
        raise _BadRowError(f"{name} is not a number" + (' (items.decimal: ",")' if comma else ""))
    return number


def _text(name: str, text: str) -> str:
    # What a byte that belongs to no character was read as.
    if "\ufffd" in text:
        raise _BadRowError(f"{name} is not UTF-8 text (items.encoding)")
    # PostgreSQL takes no NUL.
    return text.replace("\0", "\ufffd")
