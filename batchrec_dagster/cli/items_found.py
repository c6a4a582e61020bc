"""What `batchrec new` finds out about a file of items: the columns with ids, titles, metadata."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from batchrec_dagster.cli.first_look import FirstLook, first_look
from batchrec_dagster.cli.items_options import AskedItems, field_name
from batchrec_dagster.cli.ratings_columns import (
    UnknownColumnsError,
    check_there,
    decimal_of,
    numbers_of,
)
from batchrec_dagster.personalize.datasets import VALUE_SEPARATOR
from batchrec_dagster.preparation.column_aliases import recognise
from batchrec_dagster.preparation.items import ItemsFile, ItemsLayout
from batchrec_dagster.preparation.layout import Column, Decimal, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile, open_file
from batchrec_dagster.preparation.sources.movielens import KNOWN_ITEMS

# Names of columns, in small letters without what joins words; the first that is there counts.
_WORDS = {
    "title": "title name itemtitle itemname movietitle producttitle productname booktitle",
    "categories": "genres genre categories category tags brand department producttype",
    "numbers": "year price releaseyear yearofpublication",
    "created": "createdat created creationtimestamp added addedat releasedate published",
}
_NAMES = {role: words.split() for role, words in _WORDS.items()}
_SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class FoundItems:
    """What is declared of the items; `item` None where the source is known."""

    rows: int
    delimiter: str | None = None
    decimal: Decimal = "."
    item: Column | None = None
    title: Column | None = None
    created: Column | None = None
    categories: Mapping[str, Column] = field(default_factory=dict)
    numbers: Mapping[str, Column] = field(default_factory=dict)
    separator: str = VALUE_SEPARATOR
    warnings: Sequence[str] = ()


def find_items(
    source: str, file: RawFile, asked: AskedItems, ids: Collection[str], rated: pl.Series
) -> FoundItems:
    """Look at the file. asked: what someone has told; ids: what the column with the item's id may
    be called, beside the usual names; rated: the ids of the ratings' items.

    Raises UnknownColumnsError, PreparationError.
    """
    known = KNOWN_ITEMS.get(source) if asked == AskedItems() else None
    found = FoundItems(0) if known is not None else _columns(file, asked, ids)
    layout = known or ItemsLayout(
        delimiter=found.delimiter or ",",
        item=found.item or "",
        title=found.title,
        created=found.created,
        categories=found.categories,
        numbers=found.numbers,
        separator=found.separator,
        decimal=found.decimal,
    )
    read = ItemsFile(file.path, file.name, layout).read()
    warnings = []
    if read.bad.total:
        warnings.append(
            f"{read.bad.total:,} of {read.rows:,} rows cannot be read; the first:"
            f" {read.bad.examples[0]}: a run stops there, unless you set items.on_bad_rows: skip"
        )
    there = int(rated.is_in(read.titles.get_column("item_id").implode()).sum())
    if there < len(rated) / 2:
        warnings.append(
            f"{file.name} has only {there:,} of the {len(rated):,} items of the ratings: is"
            f" {layout.item} the same id?"
        )
    return replace(found, rows=read.rows, warnings=warnings)


def _columns(file: RawFile, asked: AskedItems, ids: Collection[str]) -> FoundItems:
    positions = any(isinstance(column, int) for column in asked.roles.values())
    with tempfile.TemporaryDirectory() as folder:
        opened = open_file(file, "auto", Path(folder))
        look = first_look(opened, delimiter=asked.delimiter, positions=positions)
    if look.format != "csv":
        raise PreparationError(f"{file.name} is {look.format}: items are read from CSV")
    check_there(look, asked.roles)
    called = [name for name in look.columns if name in ids or _plain(name) == "id"]
    item = asked.columns.get("item") or recognise(look.columns).get("item") or _first(called)
    taken = {item, *asked.roles.values()}

    def known(role: str) -> list[str]:
        return [name for name in _known(look, _NAMES[role]) if name not in taken]

    title = asked.columns.get("title") or _first(known("title"))
    created = asked.columns.get("created") or _first(known("created"))
    decimal = decimal_of(look, [*known("numbers"), *asked.numbers.values()])
    numbers = {
        field_name(name): name
        for name in known("numbers")
        if _is_number(look.column(name), decimal)
    }
    found = FoundItems(
        rows=0,
        delimiter=look.delimiter,
        decimal=decimal,
        item=item,
        title=title,
        created=created,
        categories={**{field_name(name): name for name in known("categories")}, **asked.categories},
        numbers={**numbers, **asked.numbers},
    )
    if item is None or not (title or created or found.categories or found.numbers):
        what, say = (
            ("item's id", "--items-id COL")
            if item is None
            else (
                "title, a category or a number",
                "--items-title, --items-category, --items-number",
            )
        )
        raise UnknownColumnsError(
            f"{file.name}: no column is known as the {what}; it has: {', '.join(look.columns)}; say"
            f" it by name, or by position, from 1, where there is no header: {say}"
        )
    return replace(found, separator=_separator(look, [*found.categories.values()]))


def _first(names: Sequence[str]) -> str | None:
    return next(iter(names), None)


def _known(look: FirstLook, names: Sequence[str]) -> list[str]:
    """The columns of such names, in the names' order."""
    plain = {_plain(column): column for column in reversed(look.columns)}
    return [plain[name] for name in names if name in plain]


def _plain(column: str) -> str:
    return re.sub(r"[\s_.-]", "", column).lower()


def _is_number(cells: pl.Series, decimal: Decimal) -> bool:
    return bool(len(cells)) and not numbers_of(cells, decimal).null_count()


def _separator(look: FirstLook, categories: Sequence[Column]) -> str:
    """What stands between several values: the first that stands in any cell."""
    for separator in _SEPARATORS:
        if any(
            look.column(name).str.contains(separator, literal=True).any() for name in categories
        ):
            return separator
    return VALUE_SEPARATOR
