"""The settings of item files, user files and lists of ids, such as the users who get lists."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Annotated, Self

from pydantic import Field, model_validator

from batchrec_dagster.config.problems import raise_problems
from batchrec_dagster.config.settings import Day, Settings
from batchrec_dagster.config.sources import (
    Source,
    TableSource,
    require_names_or_positions,
)
from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR, parse_schema
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.preparation.file_form import Column, TableFormat
from batchrec_dagster.preparation.sources.source import RowSource


class AttributeColumns(Settings):
    """The columns of a file of items or users."""

    @property
    def layout(self) -> AttributesLayout:
        """The layout of a file with these columns."""
        raise NotImplementedError

    def require_schema(self) -> None:
        """Raise ValueError if Personalize does not accept the columns as fields of a dataset."""
        schema = self.layout.schema
        if schema is not None:
            parse_schema(schema)


DeclaredTableFormat = Annotated[
    TableFormat | dict[str, TableFormat] | None,
    Field(
        description="delta: the source is the folder of a Delta table, as in ratings.",
        examples=["delta"],
    ),
]


class AttributesSource(TableSource):
    """A file with a row for each item or user."""

    many = False

    format: DeclaredTableFormat = None
    separator: str = Field(
        default=VALUE_SEPARATOR,
        min_length=1,
        description="The separator between several values of a category.",
    )
    columns: AttributeColumns

    @property
    def declared_columns(self) -> list[Column]:
        return [*self.columns.layout.roles.values()]

    @property
    def layout(self) -> AttributesLayout:
        """The layout of the file."""
        return replace(
            self.columns.layout,
            form=self.file_form,
            separator=self.separator,
            decimal=self.decimal,
        )


class ItemColumns(AttributeColumns):
    """The columns of the items, all by name in the header or all by position (the first is 1)."""

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
        require_names_or_positions(columns)
        if len(columns) == 1:
            raise ValueError("set the columns of the title, categories or numbers")
        if self.title is None and (self.image is not None or self.link is not None):
            raise ValueError("image and link stand with a title: set its column")
        self.require_schema()
        return self

    @property
    def layout(self) -> AttributesLayout:
        return AttributesLayout("item", self.item, **self.model_dump(exclude={"item"}))


class ItemSettings(AttributesSource):
    """The file of items, how to read it, and what goes to Personalize."""

    block = "items"

    source: str | dict[str, str] = Field(
        description="Where the items are, written like ratings.source.",
        examples=["data/movies.csv", "sample://hetrec/movies.dat"],
    )
    columns: ItemColumns = Field(description="Which column holds what.")


class UserColumns(AttributeColumns):
    """The columns of the users, all by name in the header or all by position (the first is 1)."""

    user: Column = Field(
        description="The column with the user's id, as in the ratings.", examples=["customer_id"]
    )
    categories: dict[str, Column] = Field(
        default_factory=dict,
        description="Text for Personalize, such as a country or a consent: the field's name there,"
        " and the column. Conditions and filters write it as USERS.COUNTRY.",
        examples=[{"COUNTRY": "country", "CONSENT": "newsletter"}],
    )
    numbers: dict[str, Column] = Field(
        default_factory=dict,
        description="Numbers for Personalize: the field's name there, and the column.",
        examples=[{"AGE": "age"}],
    )

    @model_validator(mode="after")
    def _names_or_positions(self) -> Self:
        require_names_or_positions([self.user, *self.categories.values(), *self.numbers.values()])
        if not self.categories and not self.numbers:
            raise ValueError("set the columns of categories or numbers")
        self.require_schema()
        return self

    @property
    def layout(self) -> AttributesLayout:
        return AttributesLayout("user", self.user, **self.model_dump(exclude={"user"}))


class UserSettings(AttributesSource):
    """The file of users, with attributes such as country and consent, and how to read it.

    It becomes Personalize's Users dataset. `batch_users.filter`, filters and rules read it.
    """

    block = "users"

    source: str | dict[str, str] = Field(
        description="Where the users are, written like ratings.source.",
        examples=["data/customers.csv"],
    )
    columns: UserColumns = Field(description="Which column holds what.")


class IdSource(Source):
    """A column of ids. It is read again for every refresh."""

    format: DeclaredTableFormat = None
    column: Column | None = Field(
        default=None,
        description="The column with the id, by name or position. Default: the only column, or one"
        " with a name such as user_id or item_id.",
        examples=["sku"],
    )


class ItemIds(IdSource):
    """A list of items, which is read again for every refresh."""

    source: str | dict[str, str] = Field(
        description="A file, a folder or a pattern as in ratings.source; CSV, JSON Lines or"
        " Parquet.",
        examples=["data/blocked.csv"],
    )

    @model_validator(mode="after")
    def _is_no_asset(self) -> Self:
        if self.asset_sources:
            problem = "write the file that the asset writes, and the asset's key under deps"
            raise_problems([(("source",), problem)])
        return self


class BatchUsers(IdSource):
    """The users who get recommendations: every user of the interactions, or users selected here."""

    block = "batch_users"

    source: str | dict[str, str] | None = Field(
        default=None,
        description="A list of users instead: a file, a folder or a pattern as in ratings.source;"
        " CSV, JSON Lines or Parquet.",
        examples=["s3://shop/subscribers.csv"],
    )
    active_since: Day | None = Field(
        default=None,
        description="Only users with an interaction on this day or later (UTC).",
        examples=["2026-01-01"],
    )
    filter: str | None = Field(
        default=None,
        description="Only users who meet this condition on the columns of `users`, in the grammar"
        " of Personalize's filters. Users whom that file does not have get no list.",
        examples=['USERS.CONSENT = "yes"'],
    )

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.source is not None and self.active_since is not None:
            raise ValueError("users come from a source or are active_since a day: omit one")
        for name in ("column", "format", "query", "header"):
            if getattr(self, name) is not None and self.source is None:
                raise ValueError(f"{name} belongs to a source: set source, or omit {name}")
        return self

    @property
    def declared_rows(self) -> RowSource | None:
        """The source of the list of users; None if no source is declared."""
        return None if self.source is None else self.rows

    @property
    def since(self) -> int | None:
        """`active_since` in epoch seconds; None if it is not declared."""
        if self.active_since is None:
            return None
        return int(datetime.combine(self.active_since, time(), UTC).timestamp())
