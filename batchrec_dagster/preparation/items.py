"""A file of items -> what Personalize learns of them, and the titles that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.preparation.attributes import (
    ITEM_ROWS,
    parse_attribute_rows,
    read_text,
    replace_nul,
)
from batchrec_dagster.preparation.layout import (
    NULL_VALUES,
    Column,
    Decimal,
    Encoding,
    Header,
)
from batchrec_dagster.preparation.polars import times
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.row_problems import Problem, is_not_utf8
from batchrec_dagster.preparation.rules import BadRows

NOT_A_TIME = (
    "the creation time is neither whole epoch seconds or milliseconds nor a date such as 2026-05-01"
)
# What the addresses of pictures and pages start with.
HTTP_ADDRESS = "^https?://"


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
    header: Header | None = None
    """Which line of CSV names the columns, as in `FileForm`."""

    @property
    def addresses(self) -> list[str]:
        """Those of `image` and `link` that are declared."""
        declared = {"image": self.image, "link": self.link}
        return [name for name, column in declared.items() if column is not None]

    @property
    def columns(self) -> list[str]:
        """The columns of the CSV file for Personalize."""
        return self._schema.columns

    @property
    def schema(self) -> str | None:
        """The Avro schema of that file; None if it would have ids only."""
        if self.created is None and not self.categories and not self.numbers:
            return None
        return self._schema.avro

    @property
    def _schema(self) -> schemas.Schema:
        return schemas.make_items_schema(created=self.created is not None, **self._metadata)

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
    parsed = parse_attribute_rows(
        file, layout, ITEM_ROWS, _build_item_values(layout), [*_list_item_problems(layout)]
    )
    items = parsed.good
    title = "title" if layout.title else pl.lit(None, dtype=pl.String)
    return ItemsResult(
        rows=parsed.rows,
        bad=parsed.bad,
        metadata=items.select(layout.columns),
        titles=items.select(
            item_id=schemas.ITEM_ID,
            title=title,
            **{address: address for address in layout.addresses},
        ),
    )


def _build_item_values(layout: ItemsLayout) -> dict[str, pl.Expr]:
    """The values that only items have: title, image, link, and the time of creation."""
    values = {}
    if layout.title is not None:
        values["title"] = replace_nul(read_text(pl.col(ITEM_ROWS.key("title"))))
    for name in layout.addresses:
        address = pl.col(ITEM_ROWS.key(name)).str.strip_chars()
        # A browser may not open any other text. Leaving it out makes no list worse.
        values[name] = pl.when(address.str.contains(HTTP_ADDRESS)).then(address)
    if layout.created is not None:
        values[schemas.CREATION_TIMESTAMP] = times.parse_any_form(pl.col(ITEM_ROWS.key("created")))
    return values


def _list_item_problems(layout: ItemsLayout) -> Iterator[Problem]:
    """What can be wrong with them."""
    if layout.title is not None:
        not_utf8 = is_not_utf8(ITEM_ROWS.key("title"))
        yield not_utf8, "the title is not UTF-8 text (items.encoding)"
    if layout.created is not None:
        yield times.parse_any_form(pl.col(ITEM_ROWS.key("created"))).is_null(), NOT_A_TIME
