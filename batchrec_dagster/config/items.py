"""The file of items: where it is, how to read it, and what goes to Personalize."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.sources import AttributesSource, Column, check_names_or_positions
from batchrec_dagster.personalize.schemas import parse_schema
from batchrec_dagster.preparation.items import ItemsLayout


class ItemColumns(Settings):
    """Which column holds what: all by name in the header, or all by position (the first is 1)."""

    item: Column = Field(description="The column with the item's id.", examples=["movieId", 1])
    title: Column | None = Field(
        default=None,
        description="The column with the title, for the tables and the report; not sent to"
        " Personalize.",
        examples=["title", 2],
    )
    image: Column | None = Field(
        default=None,
        description="The column with the http(s) address of a picture, which the report shows if"
        " its reader allows that; needs a title.",
        examples=["image_url"],
    )
    link: Column | None = Field(
        default=None,
        description="The column with the http(s) address of the item's page, for the report; needs"
        " a title.",
        examples=["url"],
    )
    categories: dict[str, Column] = Field(
        default_factory=dict,
        description="Text for Personalize, such as genres: the field's name there, and the column.",
        examples=[{"GENRES": "genres"}],
    )
    numbers: dict[str, Column] = Field(
        default_factory=dict,
        description="Numbers for Personalize: the field's name there, and the column.",
        examples=[{"YEAR": "year"}],
    )
    created: Column | None = Field(
        default=None,
        description="The column with the time the item came out (CREATION_TIMESTAMP): epoch"
        " seconds, milliseconds, or ISO 8601.",
        examples=["released"],
    )

    @model_validator(mode="after")
    def _names_or_positions(self) -> Self:
        columns = [
            column
            for column in (self.item, self.title, self.image, self.link, self.created)
            if column is not None
        ] + [*self.categories.values(), *self.numbers.values()]
        check_names_or_positions(columns)
        if len(columns) == 1:
            raise ValueError("set the columns of the title, categories or numbers")
        if self.title is None and (self.image is not None or self.link is not None):
            raise ValueError("image and link stand with a title: set its column")
        schema = self.layout.schema
        if schema is not None:
            parse_schema(schema)
        return self

    @property
    def layout(self) -> ItemsLayout:
        """How to read a file with these columns."""
        return ItemsLayout(delimiter=None, **self.model_dump())


class ItemSettings(AttributesSource):
    """The file of items, how to read it, and what goes to Personalize."""

    block = "items"

    source: str | dict[str, str] = Field(
        description="Where the items are, written like ratings.source.",
        examples=["data/movies.csv", "sample://hetrec/movies.dat"],
    )
    columns: ItemColumns = Field(description="Which column holds what.")

    @property
    def declared_columns(self) -> list[Column]:
        return [*self.columns.layout.roles.values()]

    @property
    def layout(self) -> ItemsLayout:
        """How to read the file."""
        return replace(
            self.columns.layout,
            delimiter=self.delimiter,
            separator=self.separator,
            encoding=self.encoding,
            decimal=self.decimal,
            header=self.file_header,
        )
