"""What `batchrec new` finds out about a file of items: the columns with ids, titles, metadata."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from batchrec_dagster.commands.first_look import FirstLook, first_look
from batchrec_dagster.commands.ratings_columns import UnknownColumnsError
from batchrec_dagster.formats.items import VALUE_SEPARATOR
from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.items import ItemsFile, ItemsLayout
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.names import recognise
from batchrec_dagster.preparation.opening import RawFile, open_file
from batchrec_dagster.samples.items import KNOWN_ITEMS

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
    item: Column | None = None
    title: str | None = None
    created: str | None = None
    categories: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    separator: str = VALUE_SEPARATOR
    warnings: Sequence[str] = ()


def find_items(source: str, file: RawFile, ids: Collection[str], rated: pl.Series) -> FoundItems:
    """Look at the file. ids: what the column with the item's id may be called, beside the usual
    names; rated: the ids of the ratings' items. Raises UnknownColumnsError, PreparationError."""
    known = KNOWN_ITEMS.get(source)
    found = FoundItems(0) if known is not None else _columns(file, ids)
    layout = known or ItemsLayout(
        delimiter=found.delimiter or ",",
        item=found.item or "",
        title=found.title,
        created=found.created,
        categories=found.categories,
        numbers=found.numbers,
        separator=found.separator,
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
    return FoundItems(**{**vars(found), "rows": read.rows, "warnings": warnings})


def _columns(file: RawFile, ids: Collection[str]) -> FoundItems:
    with tempfile.TemporaryDirectory() as folder:
        look = first_look(open_file(file, "auto", Path(folder)), delimiter=None, positions=False)
    if look.format != "csv" or not look.has_header:
        raise PreparationError(
            f"{file.name} is no CSV file with a header: items are declared by hand then, as the"
            " README shows; leave --items out"
        )
    called = [name for name in look.columns if name in ids or _plain(name) == "id"]
    item = recognise(look.columns).get("item") or (called[0] if called else None)
    title, created = _first(look, _NAMES["title"], item), _first(look, _NAMES["created"], item)
    categories = {_field(name): name for name in _known(look, _NAMES["categories"])}
    numbers = {
        _field(name): name for name in _known(look, _NAMES["numbers"]) if _is_number(look, name)
    }
    if item is None or not (title or created or categories or numbers):
        what = "item's id" if item is None else "title, a category or a number"
        raise UnknownColumnsError(
            f"{file.name}: no column is known as the {what}; it has: {', '.join(look.columns)};"
            " leave --items out, and declare items by hand as the README shows"
        )
    return FoundItems(
        rows=0,
        delimiter=look.delimiter,
        item=item,
        title=title,
        created=created,
        categories=categories,
        numbers=numbers,
        separator=_separator(look, list(categories.values())),
    )


def _first(look: FirstLook, names: Sequence[str], item: str | None) -> str | None:
    return next((name for name in _known(look, names) if name != item), None)


def _known(look: FirstLook, names: Sequence[str]) -> list[str]:
    """The columns of such names, in the names' order."""
    plain = {_plain(column): column for column in reversed(look.columns)}
    return [plain[name] for name in names if name in plain]


def _plain(column: str) -> str:
    return re.sub(r"[\s_.-]", "", column).lower()


def _field(column: str) -> str:
    """A name for Personalize: capital letters, digits and _."""
    return re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_").upper()


def _is_number(look: FirstLook, column: str) -> bool:
    cells = look.column(column)
    return bool(len(cells)) and not cells.cast(pl.Float64, strict=False).null_count()


def _separator(look: FirstLook, categories: Sequence[str]) -> str:
    """What stands between several values: the first that stands in any cell."""
    for separator in _SEPARATORS:
        if any(
            look.column(name).str.contains(separator, literal=True).any() for name in categories
        ):
            return separator
    return VALUE_SEPARATOR
