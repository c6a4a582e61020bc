"""What each user gets, the gate, older tables, experiments; and segments of users."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

import dagster as dg
from pydantic import Field, field_validator, model_validator

from batchrec_dagster.config.filter_problems import find_filter_traits
from batchrec_dagster.config.validation import validate_pattern, validate_range
from batchrec_dagster.personalize.batch_files import (
    ITEM_ATTRIBUTES,
    ITEM_FIELD,
    MAX_RESULTS,
    MAX_SEGMENT_USERS,
)
from batchrec_dagster.personalize.filter_expressions import (
    EXCLUDE_SEEN,
    MAX_VALUE_LENGTH,
    format_values,
)
from batchrec_dagster.personalize.filter_grammar import MAX_LENGTH
from batchrec_dagster.personalize.item_attributes import ItemAttributesError, parse_conditions
from batchrec_dagster.personalize.recipes import ITEM_AFFINITY, ITEM_ATTRIBUTE_AFFINITY

FilterValue = str | int | float


class RecommendationSettings(dg.Model):
    """What each user gets."""

    num_results: int = Field(
        default=25,
        description=f"Items in each user's list, 1 to {MAX_RESULTS}.",
        json_schema_extra={"minimum": 1, "maximum": MAX_RESULTS},
    )
    exclude_seen: bool = Field(
        default=True, description="Exclude items that the user already interacted with."
    )
    filter: str | None = Field(
        default=None,
        description="A Personalize filter expression, in addition to exclude_seen.",
        examples=["EXCLUDE ItemID WHERE Items.GENRES IN ($GENRES)"],
    )
    filter_values: dict[str, FilterValue | list[FilterValue]] = Field(
        default_factory=dict,
        description="The value of each $PLACEHOLDER of the filter.",
        examples=[{"GENRES": ["Horror", "War"]}],
    )

    exploration_weight: float = Field(
        default=0.0,
        description="How much aws-user-personalization explores, 0 to 1. On AWS, items with few"
        " interactions come into lists, other ones on each run; 0: lists are reproducible. The"
        " embedded engine: the largest share of a list for new items, chosen by their metadata.",
        json_schema_extra={"minimum": 0, "maximum": 1},
    )

    _weight_in_range = validate_range("exploration_weight", least=0, most=1)

    _length_in_range = validate_range("num_results", least=1, most=MAX_RESULTS)

    @field_validator("filter")
    @classmethod
    def _filter_is_possible(cls, expression: str | None) -> str | None:
        if (
            expression is not None
            and not 1 <= len(_chain_filters(EXCLUDE_SEEN, expression)) <= MAX_LENGTH
        ):
            raise ValueError(
                f"Personalize takes at most {MAX_LENGTH} characters, including exclude_seen's"
            )
        traits = find_filter_traits(expression)
        if traits and traits.filters_users:
            raise ValueError("recommendations are items: write ItemID instead of UserID")
        return expression

    @field_validator("filter_values")
    @classmethod
    def _filter_values_can_be_written(
        cls, filter_values: dict[str, FilterValue | list[FilterValue]]
    ) -> dict[str, FilterValue | list[FilterValue]]:
        for name, values in filter_values.items():
            if values in ("", []):
                raise ValueError(f"{name} has no value")
            if any('"' in str(value) for value in _to_list(values)):
                raise ValueError(f"{name} has a value with a quote, which filters do not allow")
            if len(format_values(_to_list(values))) > MAX_VALUE_LENGTH:
                raise ValueError(
                    f"{name} is too long: Personalize takes {MAX_VALUE_LENGTH} characters, with"
                    " quotes and commas"
                )
        return filter_values

    @model_validator(mode="after")
    def _every_placeholder_has_values(self) -> Self:
        traits = find_filter_traits(self.filter)
        if self.filter and not traits:
            return self
        placeholders = set(traits.placeholders if traits else ())
        names = set(self.filter_values)
        missing, unknown = placeholders - names, names - placeholders
        if missing:
            raise ValueError(
                f"filter_values is missing {', '.join(sorted(missing))}: the filter has"
                f" {_format_placeholders(missing)}, for which every user needs a value"
            )
        if unknown:
            raise ValueError(
                f"filter_values has {', '.join(sorted(unknown))}, but the filter has no"
                f" {_format_placeholders(unknown)}"
            )
        return self

    @cached_property
    def filter_expression(self) -> str | None:
        """The filter that combines exclude_seen and `filter`; None without both."""
        expressions = [EXCLUDE_SEEN] if self.exclude_seen else []
        if self.filter:
            expressions.append(self.filter)
        return _chain_filters(*expressions) if expressions else None

    @property
    def line_filter_values(self) -> dict[str, str]:
        """`filterValues` of every line of the batch input."""
        return {
            name: format_values(_to_list(values)) for name, values in self.filter_values.items()
        }


def _to_list(values: FilterValue | list[FilterValue]) -> list[FilterValue]:
    return values if isinstance(values, list) else [values]


def _chain_filters(*expressions: str) -> str:
    """One filter from several: a batch job takes only one."""
    return " | ".join(expressions)


def _format_placeholders(names: set[str]) -> str:
    return ", ".join(f"${name}" for name in sorted(names))


class Gate(dg.Model):
    """How good a new solution version must be before its lists are published. It must also be no
    worse than popularity, if solution.compare_with_popularity is on."""

    min_ndcg_at_25: float = Field(default=0.0, description="The least NDCG@25.", examples=[0.05])
    max_drop: float = Field(
        default=0.3,
        description="By which share its NDCG@25 may be lower than that of the published lists; 1:"
        " any. Personalize measures a tenth of the users, so with few users it varies by chance.",
        examples=[0.1],
    )
    min_coverage: float = Field(
        default=0.0,
        description="The least coverage: the share of all items that is recommended to anyone.",
        examples=[0.02],
    )

    _shares_in_range = validate_range("min_ndcg_at_25", "max_drop", "min_coverage", least=0, most=1)


class Publication(dg.Model):
    """How many older tables of recommendations are kept."""

    history: int = Field(
        default=7, description="The number of older tables to keep, to roll back to; at least 1."
    )

    _history_in_range = validate_range("history", least=1)


class Experiment(dg.Model):
    """A holdout: by comparing its users with the others one learns what the lists cause."""

    name: str = Field(
        description="Letters, digits, _ and -, at most 64. Another name divides the users in"
        " another way.",
        examples=["holdout_2027"],
        # Or a template.
        json_schema_extra={"pattern": r"^([A-Za-z0-9_-]{1,64}|.*\{\{.*)$"},
    )
    control_share: float = Field(
        default=0.1,
        description="The share of users in the control, more than 0 and at most 0.5. With a larger"
        " share users only move into the control, with a smaller one only out of it.",
        json_schema_extra={"exclusiveMinimum": 0, "maximum": 0.5},
    )
    control: Literal["popular", "none"] = Field(
        default="popular",
        description="What the control gets: popular (the lists of aws-popularity-count) or none (no"
        " rows in the table).",
    )
    salt: str = Field(
        default="",
        description="Any text: another one divides the users in another way under the same name.",
    )

    _name_is_possible = validate_pattern(
        "name", pattern=r"[A-Za-z0-9_-]{1,64}", or_else="write letters, digits, _ and -, at most 64"
    )

    _share_in_range = validate_range("control_share", above=0, most=0.5)


# "Amazon Personalize endpoints and quotas".
MAX_ITEMS = 500
MAX_ATTRIBUTES = 10


class Segments(dg.Model):
    """The users most likely to want each item, or items that match each expression."""

    items: list[str | int] = Field(
        default_factory=list,
        description=f"Item ids, {MAX_ITEMS} at most: a segment of users for each.",
        examples=[["1", "260"]],
    )
    attributes: list[str] = Field(
        default_factory=list,
        description=f"Expressions on the items' metadata, {MAX_ATTRIBUTES} at most: a segment of"
        " users for each.",
        examples=[['ITEMS.GENRES = "Comedy" AND ITEMS.GENRES = "Crime"']],
    )
    users_per_segment: int = Field(
        default=100, description=f"Users in each segment, 1 to {MAX_SEGMENT_USERS:,}."
    )
    filter: str | None = Field(
        default=None,
        description="A Personalize filter expression for the users, without placeholders.",
        examples=['INCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("*")'],
    )

    @field_validator("items")
    @classmethod
    def _items_are_few_and_distinct(cls, items: list[str | int]) -> list[str | int]:
        _check_queries("item", [str(item) for item in items], MAX_ITEMS)
        return items

    @field_validator("attributes")
    @classmethod
    def _attributes_can_be_read(cls, attributes: list[str]) -> list[str]:
        _check_queries("expression", attributes, MAX_ATTRIBUTES)
        for expression in attributes:
            if "{{" not in expression:
                try:
                    parse_conditions(expression)
                except ItemAttributesError as error:
                    raise ValueError(f"{expression!r}: {error}") from None
        return attributes

    _users_in_range = validate_range("users_per_segment", least=1, most=MAX_SEGMENT_USERS)

    @field_validator("filter")
    @classmethod
    def _filter_is_possible(cls, expression: str | None) -> str | None:
        if expression is not None and not 1 <= len(expression) <= MAX_LENGTH:
            raise ValueError(f"Personalize takes 1 to {MAX_LENGTH} characters")
        traits = find_filter_traits(expression)
        if traits and traits.placeholders:
            raise ValueError("write the values themselves instead of $PLACEHOLDERS")
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
    def queries(self) -> list[str]:
        """The item ids or expressions, one for each segment."""
        return [str(item) for item in self.items] or self.attributes

    @property
    def query_field(self) -> str:
        """The field of a query in the recipe's input lines."""
        return ITEM_FIELD if self.items else ITEM_ATTRIBUTES

    @property
    def recipe(self) -> str:
        """The recipe for these queries."""
        return ITEM_AFFINITY if self.items else ITEM_ATTRIBUTE_AFFINITY


def _check_queries(kind: str, values: list[str], most: int) -> None:
    if len(values) > most:
        raise ValueError(f"Personalize takes at most {most}, not {len(values)}")
    if not all(value.strip() for value in values):
        raise ValueError(f"an {kind} is empty")
    if len(set(values)) < len(values):
        raise ValueError(f"an {kind} is repeated")
