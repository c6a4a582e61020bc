"""Which column of the ratings holds what."""

from __future__ import annotations

from typing import Self

import dagster as dg
from pydantic import Field, model_validator

Column = str | int


class Columns(dg.Model):
    """Which column holds what: all by name in the header, or all by position (the first is 1)."""

    user: Column | None = Field(
        default=None, description="The column with the user's id.", examples=["userId", 1]
    )
    item: Column | None = Field(
        default=None, description="The column with the item's id.", examples=["movieId", 2]
    )
    rating: Column | None = Field(
        default=None,
        description="The column with the rating, a number. Leave it out when there is none.",
        examples=["rating", 3],
    )
    timestamp: Column | None = Field(
        default=None,
        description="The column with the time of the interaction.",
        examples=["timestamp", 4],
    )
    event_type: Column | None = Field(
        default=None,
        description="The column that says what kind of interaction it was, such as view or buy;"
        " it becomes Personalize's EVENT_TYPE.",
        examples=["event"],
    )
    event_value: Column | None = Field(
        default=None,
        description="The column with a number that belongs to the event, such as a price; it"
        " becomes Personalize's EVENT_VALUE.",
        examples=["price"],
    )

    @model_validator(mode="after")
    def _names_or_positions(self) -> Self:
        columns = list(self.declared.values())
        if len({type(column) for column in columns}) > 1:
            raise ValueError(
                "give either names for all columns (the file has a header) or positions for all"
                " of them (it has none)"
            )
        if len(set(columns)) < len(columns):
            raise ValueError(f"{', '.join(self.declared)} must be different columns")
        if any(isinstance(column, int) and column < 1 for column in columns):
            raise ValueError("positions count from 1")
        missing = [role for role in ("user", "item", "timestamp") if role not in self.declared]
        if columns and isinstance(columns[0], int) and missing:
            raise ValueError(f"a file without a header needs the position of {', '.join(missing)}")
        return self

    @property
    def declared(self) -> dict[str, Column]:
        """From role to column, those that are declared."""
        roles = ("user", "item", "rating", "timestamp", "event_type", "event_value")
        columns = {role: getattr(self, role) for role in roles}
        return {role: column for role, column in columns.items() if column is not None}
