"""Segments: the users most likely to want certain items."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from batchrec_dagster.config.expressions import find_filter_traits
from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster.config.settings import Settings, accepted_by
from batchrec_dagster.personalize.filters import (
    MAX_LENGTH,
    FilterExpressionError,
    parse_attributes,
)
from batchrec_dagster.personalize.formats import ITEM_ATTRIBUTES, ITEM_FIELD, MAX_SEGMENT_USERS
from batchrec_dagster.personalize.recipes import ITEM_AFFINITY, ITEM_ATTRIBUTE_AFFINITY

# Source: "Amazon Personalize endpoints and quotas".
MAX_ITEMS = 500
MAX_ATTRIBUTES = 10


def _require_attributes(expression: str) -> None:
    try:
        parse_attributes(expression)
    except FilterExpressionError as error:
        raise ValueError(f"{expression!r}: {error}") from None


Attributes = Annotated[str, accepted_by(_require_attributes)]


class Segments(Settings):
    """The users most likely to want each item, or items that match each expression."""

    items: list[str | int] = Field(
        default_factory=list,
        max_length=MAX_ITEMS,
        description=f"Item ids, {MAX_ITEMS} at most: a segment of users for each.",
        examples=[["1", "260"]],
    )
    attributes: list[Attributes] = Field(
        default_factory=list,
        max_length=MAX_ATTRIBUTES,
        description=f"Expressions on the items' metadata, {MAX_ATTRIBUTES} at most: a segment of"
        " users for each.",
        examples=[['ITEMS.GENRES = "Comedy" AND ITEMS.GENRES = "Crime"']],
    )
    users_per_segment: int = Field(
        default=100,
        ge=1,
        le=MAX_SEGMENT_USERS,
        description=f"Users in each segment, 1 to {MAX_SEGMENT_USERS:,}.",
    )
    filter: str | None = Field(
        default=None,
        description="A Personalize filter expression for the users.",
        examples=['INCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("*")'],
    )

    @field_validator("items")
    @classmethod
    def _items_are_distinct(cls, items: list[str | int]) -> list[str | int]:
        _require_distinct("item", [str(item) for item in items])
        return items

    @field_validator("attributes")
    @classmethod
    def _attributes_are_distinct(cls, attributes: list[str]) -> list[str]:
        _require_distinct("expression", attributes)
        return attributes

    @field_validator("filter")
    @classmethod
    def _filter_is_possible(cls, expression: str | None) -> str | None:
        if expression is not None and not 1 <= len(expression) <= MAX_LENGTH:
            raise ValueError(f"Personalize takes 1 to {MAX_LENGTH} characters")
        traits = find_filter_traits(expression)
        if traits and not traits.filters_users:
            raise ValueError("segments are users: write UserID instead of ItemID")
        return expression

    @model_validator(mode="after")
    def _items_or_attributes(self) -> Self:
        if bool(self.items) is bool(self.attributes):
            raise ValueError("write either items (their ids) or attributes (expressions on them)")
        traits = find_filter_traits(self.filter)
        if self.attributes and traits and traits.uses_interactions:
            raise ValueError("segments by attributes take no filter on interactions")
        return self

    @property
    def recommendations(self) -> RecommendationSettings:
        """These settings in the form of users' lists, which the steps read for all lists."""
        return RecommendationSettings.model_construct(
            num_results=self.users_per_segment, exclude_seen=False, filter=self.filter
        )

    @property
    def queries(self) -> list[str]:
        """The item ids or expressions, one for each segment."""
        return [str(item) for item in self.items] or self.attributes

    @property
    def query_field(self) -> str:
        """The name of the field for a query in the recipe's input lines."""
        return ITEM_FIELD if self.items else ITEM_ATTRIBUTES

    @property
    def recipe(self) -> str:
        """The recipe for these queries."""
        return ITEM_AFFINITY if self.items else ITEM_ATTRIBUTE_AFFINITY


def _require_distinct(kind: str, values: list[str]) -> None:
    """Raise ValueError if a value is empty or repeated."""
    if not all(value.strip() for value in values):
        raise ValueError(f"an {kind} is empty")
    repeated = [value for number, value in enumerate(values) if value in values[:number]]
    if repeated:
        raise ValueError(f"the {kind} {repeated[0]!r} is there twice: write it once")
