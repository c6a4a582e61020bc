"""The file of users: where it is, how to read it, and what goes to Personalize."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.sources import AttributesSource, Column, check_names_or_positions
from batchrec_dagster.personalize.schemas import parse_schema
from batchrec_dagster.preparation.user_attributes import UsersLayout


class UserColumns(Settings):
    """Which column holds what: all by name in the header, or all by position (the first is 1)."""

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
        check_names_or_positions([self.user, *self.categories.values(), *self.numbers.values()])
        if not self.categories and not self.numbers:
            raise ValueError("set the columns of categories or numbers")
        parse_schema(self.layout.schema)
        return self

    @property
    def layout(self) -> UsersLayout:
        """How to read a file with these columns."""
        return UsersLayout(delimiter=None, **self.model_dump())


class UserSettings(AttributesSource):
    """What is known of users, such as country and consent: the file, and how to read it.

    It becomes Personalize's Users dataset. `batch_users.filter`, filters and rules read it.
    """

    block = "users"

    source: str | dict[str, str] = Field(
        description="Where the users are, written like ratings.source.",
        examples=["data/customers.csv"],
    )
    columns: UserColumns = Field(description="Which column holds what.")

    @property
    def declared_columns(self) -> list[Column]:
        return [*self.columns.layout.roles.values()]

    @property
    def layout(self) -> UsersLayout:
        """How to read the file."""
        return replace(
            self.columns.layout,
            delimiter=self.delimiter,
            separator=self.separator,
            encoding=self.encoding,
            decimal=self.decimal,
            header=self.file_header,
        )
