"""The file of items: where it is, how to read it, and what Personalize is told of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal, Self

import dagster as dg
from pydantic import Field, field_validator, model_validator

from batchrec_dagster.config.ratings import known_source, readable_delimiter
from batchrec_dagster.personalize.datasets import VALUE_SEPARATOR
from batchrec_dagster.personalize.schemas import SchemaError, parse_schema
from batchrec_dagster.preparation.items import ItemsLayout
from batchrec_dagster.preparation.layout import Decimal, Encoding
from batchrec_dagster.preparation.sources.movielens import KNOWN_ITEMS

Column = str | int


class ItemColumns(dg.Model):
    """Which column holds what: all by name in the header, or all by position (the first is 1)."""

    item: Column = Field(description="The column with the item's id.", examples=["movieId", 1])
    title: Column | None = Field(
        default=None,
        description="The column with the title, for people: it stands in the tables, and is not"
        " sent to Personalize.",
        examples=["title", 2],
    )
    categories: dict[str, Column] = Field(
        default_factory=dict,
        description="Text that Personalize is told, such as genres: its name there and the column.",
        examples=[{"GENRES": "genres"}],
    )
    numbers: dict[str, Column] = Field(
        default_factory=dict,
        description="Numbers that Personalize is told: their name there, and the column.",
        examples=[{"YEAR": "year"}],
    )
    created: Column | None = Field(
        default=None,
        description="The column with the time that the item came out (CREATION_TIMESTAMP): epoch"
        " seconds, milliseconds, or ISO 8601.",
        examples=["released"],
    )

    @model_validator(mode="after")
    def _names_or_positions(self) -> Self:
        columns = [
            column for column in (self.item, self.title, self.created) if column is not None
        ] + [*self.categories.values(), *self.numbers.values()]
        if any(type(one) is not type(other) for one, other in pairwise(columns)):
            raise ValueError(
                "give either names for all columns (the file has a header) or positions for all"
                " of them (it has none)"
            )
        if any(isinstance(column, int) and column < 1 for column in columns):
            raise ValueError("positions count from 1")
        if len(columns) == 1:
            raise ValueError("say which columns hold the title, categories or numbers")
        try:
            schema = self.layout(delimiter=None).schema
            if schema is not None:
                parse_schema(schema)
        except SchemaError as error:
            raise ValueError(str(error)) from None
        return self

    def layout(
        self,
        delimiter: str | None,
        separator: str = VALUE_SEPARATOR,
        encoding: Encoding = "auto",
        decimal: Decimal = ".",
    ) -> ItemsLayout:
        """How to read a file that has them."""
        return ItemsLayout(
            delimiter=delimiter,
            item=self.item,
            title=self.title,
            created=self.created,
            categories=self.categories,
            numbers=self.numbers,
            separator=separator,
            encoding=encoding,
            decimal=decimal,
        )


class Items(dg.Model):
    """The file of items, how to read it, and what Personalize is told of them."""

    source: str = Field(
        description="Where the items are, written as ratings.source is; a file beside known"
        " ratings after a slash.",
        examples=["sample://hetrec/movies.dat", "data/movies.csv"],
    )
    delimiter: str | None = Field(
        default=None,
        description="What separates the fields: one character, or `::`. Default: a comma, or what"
        " a known source has, or what makes the header hold the declared columns. With a comma or a"
        " semicolon, fields may stand in double quotes.",
        examples=[",", "\t", "::"],
    )
    decimal: Decimal = Field(
        default=".", description="What stands before the fraction of a number: `,` for 4,5."
    )
    encoding: Encoding = Field(
        default="auto",
        description="How the file's letters are written; auto finds out.",
    )
    columns: ItemColumns | None = Field(
        default=None,
        description="Which column holds what. Needed for files of your own; known sources have it.",
    )
    separator: str = Field(
        default=VALUE_SEPARATOR,
        description="What stands between the values of a category that has several.",
    )
    on_bad_rows: Literal["fail", "skip"] = Field(
        default="fail",
        description="What to do about rows that cannot be read: fail names the first of them,"
        " skip leaves them out and counts them.",
    )

    @field_validator("source")
    @classmethod
    def _source_is_known(cls, source: str) -> str:
        return known_source(source)

    @field_validator("delimiter")
    @classmethod
    def _delimiter_is_readable(cls, delimiter: str | None) -> str | None:
        return readable_delimiter(delimiter)

    @field_validator("separator")
    @classmethod
    def _separator_separates(cls, separator: str) -> str:
        if not separator:
            raise ValueError('write a character, such as "|"')
        return separator

    @model_validator(mode="after")
    def _columns_are_told(self) -> Self:
        if self.columns is None and "{{" not in self.source and self.source not in KNOWN_ITEMS:
            raise ValueError(
                "columns is missing: say which columns hold the item, its title, its categories and"
                " numbers, for example columns: {item: movieId, title: title, categories: {GENRES:"
                " genres}}"
            )
        return self

    @property
    def layout(self) -> ItemsLayout:
        """How to read the file: what is declared here, else what is known of the source."""
        known = KNOWN_ITEMS.get(self.source)
        if self.columns is None:
            if known is None:
                raise ValueError(f"columns is missing for {self.source}")
            return replace(
                known,
                delimiter=self.delimiter or known.delimiter,
                separator=self.separator,
                encoding=known.encoding if self.encoding == "auto" else self.encoding,
                decimal=self.decimal,
            )
        return self.columns.layout(
            delimiter=self.delimiter or (known.delimiter if known else None),
            separator=self.separator,
            encoding=self.encoding,
            decimal=self.decimal,
        )
