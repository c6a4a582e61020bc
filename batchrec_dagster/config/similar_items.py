"""Similar items: what goes with each item, by a recipe or by what people bought together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import dagster as dg
from pydantic import Field, field_validator, model_validator

from batchrec_dagster.config.filter_values import (
    FilterValues,
    require_filter_values,
    validate_filter_values,
)
from batchrec_dagster.config.gate import Gate
from batchrec_dagster.config.recommendations import RecommendationSettings
from batchrec_dagster.config.retention import Retention
from batchrec_dagster.config.validation import (
    Keys,
    raise_field_errors,
    validate_range,
    validate_with,
)
from batchrec_dagster.personalize import filter_check
from batchrec_dagster.personalize.file_formats import MAX_RESULTS
from batchrec_dagster.personalize.filter_grammar import MAX_LENGTH, parse
from batchrec_dagster.personalize.recipes import SIMILAR_ITEMS as SIMILAR_ITEMS_RECIPE
from batchrec_dagster.personalize.recipes import SIMS
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.rules.settings import ListRules
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.paths import SIMILAR_ITEMS

# With fewer people, a list would show what a single person bought.
FEWEST_PEOPLE = 2


class ItemsSource(dg.Model):
    """A list of the items that get a list of their own, which is read again for every refresh."""

    source: str = Field(
        description="The file: a path or an address as in ratings.source; CSV, JSON Lines or"
        " Parquet.",
        examples=["data/product_pages.csv"],
    )
    column: str | int | None = Field(
        default=None,
        description="The column with the item's id, by name or position. Default: the only column,"
        " or one with a name such as item_id.",
        examples=["sku"],
    )

    _source_is_possible = validate_with(parse_source, "source")


class SimilarItems(dg.Model):
    """What goes with each item, for product pages: similar items, by a recipe of Amazon
    Personalize, or items that people bought together with it, which batchrec counts itself."""

    description: str | None = Field(default=None, description="What the lists are for.")
    num_results: int = Field(
        default=25,
        description=f"Items in each item's list, 1 to {MAX_RESULTS}.",
        json_schema_extra={"minimum": 1, "maximum": MAX_RESULTS},
    )
    items: ItemsSource | None = Field(
        default=None,
        description="The items that get a list. Default: every item of the interactions.",
    )
    recipe: Literal["aws-similar-items", "aws-sims"] | None = Field(
        default=None,
        description=f"The Personalize recipe: {SIMILAR_ITEMS_RECIPE}, which also looks at the data"
        f" of `items`, or {SIMS}. Default: the first where `items` has categories or numbers, or"
        " else the second. Not for items bought together.",
    )
    within_days: int | None = Field(
        default=None,
        description="Bought together instead: items that the same people had within this many days;"
        " what they had at other times counts less, and fills lists. batchrec counts this itself,"
        " without Amazon Personalize. 0: at the same time.",
        examples=[7],
        json_schema_extra={"minimum": 0},
    )
    order: Column | None = Field(
        default=None,
        description="Bought together instead: the column of the ratings with the order's number, by"
        " name or position as in ratings.columns. What a person had in one order counts fully, and"
        " so does what they had within_days, if it is set. A row without a number is in no order."
        " interactions.latest_per_pair leaves out earlier purchases of an item before orders are"
        " seen; duplicates: drop leaves out only rows of the same order. The interactions"
        " get a column ORDER_ID, on which Amazon Personalize does not train.",
        examples=["order_id"],
    )
    events: list[str] | None = Field(
        default=None,
        description="Bought together: only events of these types count. Default: of any.",
        examples=[["purchase"]],
    )
    least_people: int = Field(
        default=FEWEST_PEOPLE,
        description="Bought together: how many people must have had both items, at least"
        f" {FEWEST_PEOPLE}, so that no list shows what one person bought.",
        json_schema_extra={"minimum": FEWEST_PEOPLE},
    )
    filter: str | None = Field(
        default=None,
        description="A Personalize filter expression on Items. With a recipe it may compare with"
        " CurrentItem, the item whose list it is.",
        examples=['INCLUDE ItemID WHERE Items.STATUS IN ("active")'],
    )
    filter_values: FilterValues = Field(
        default_factory=dict,
        description="The value of each $PLACEHOLDER of the filter.",
        examples=[{"GENRES": ["Horror", "War"]}],
    )
    rules: ListRules | None = Field(
        default=None,
        description="What a shop says of these lists: block, only, price (near the item's own"
        " price), max_per and pin, whose `for` is a condition on the item whose list it"
        " is.",
    )
    columns: list[str] | None = Field(
        default=None,
        description="What the published table and all sinks have of each similar item, in this"
        " order: title, image, link, and categories and numbers by their names in items.columns."
        " Default: the title, where items have one.",
        examples=[["title", "image", "link", "PRICE"]],
    )
    gate: Gate | None = Field(
        default=None,
        description="When these lists are published, by the metrics of the recipe's model. Default:"
        " not with an NDCG@25 that is much lower than that of the published lists.",
    )
    retention: Retention | None = Field(
        default=None,
        description="How many editions of these lists are kept. Default: the pipeline's retention.",
    )
    sinks: Sinks = Field(default_factory=Sinks, description="Where these lists are used.")

    _length_in_range = validate_range("num_results", least=1, most=MAX_RESULTS)
    _days_in_range = validate_range("within_days", least=0)
    _people_in_range = validate_range("least_people", least=FEWEST_PEOPLE)

    @field_validator("filter")
    @classmethod
    def _filter_is_possible(cls, expression: str | None) -> str | None:
        if expression is None or "{{" in expression:
            return expression
        if not 1 <= len(expression) <= MAX_LENGTH:
            raise ValueError(f"Personalize takes 1 to {MAX_LENGTH} characters")
        traits = filter_check.find_traits(expression)
        if traits.filters_users:
            raise ValueError("these lists have items: write ItemID instead of UserID")
        has_users = any(part.users for part in parse(expression))
        if traits.uses_interactions or has_users:
            raise ValueError(
                "an item's list is the same for everybody: write a condition on Items, without"
                " Interactions and CurrentUser"
            )
        return expression

    _filter_values_can_be_written = validate_filter_values()

    @model_validator(mode="after")
    def _every_placeholder_has_values(self) -> Self:
        require_filter_values(self.filter, self.filter_values, "every item")
        return self

    @model_validator(mode="after")
    def _table_has_a_name_of_its_own(self) -> Self:
        postgres = self.sinks.postgres
        if postgres is not None and "table" not in postgres.model_fields_set:
            named = postgres.model_copy(update={"table": SIMILAR_ITEMS})
            self.sinks = self.sinks.model_copy(update={"postgres": named})
        return self

    @model_validator(mode="after")
    def _settings_fit_how_items_are_found(self) -> Self:
        raise_field_errors(self._find_problems_of_way())
        return self

    def _find_problems_of_way(self) -> Iterator[tuple[Keys, str]]:
        """The settings that do not go with the way in which similar items are found."""
        if self.is_bought_together:
            if self.recipe is not None:
                yield (
                    ("recipe",),
                    "items bought together need no recipe, as batchrec counts them itself: leave"
                    " out recipe, or within_days and order",
                )
            if self.gate is not None:
                yield (
                    ("gate",),
                    "items bought together are counted, so there is no model to measure: leave out"
                    " gate, or within_days and order",
                )
            if self._uses_current_item:
                yield (
                    ("filter",),
                    "CurrentItem works only with a recipe: for items bought together, write a"
                    " condition on Items",
                )
            return
        for name in ("events", "least_people"):
            if name in self.model_fields_set:
                yield (
                    (name,),
                    "is for items bought together: set within_days or order too, or leave it out",
                )
        if self._uses_current_item and self.recipe == SIMS:
            yield ("filter",), f"CurrentItem works only with recipe: {SIMILAR_ITEMS_RECIPE}"

    @model_validator(mode="after")
    def _rules_are_for_items(self) -> Self:
        if self.rules is not None:
            raise_field_errors(_find_problems_of_rules(self.rules, self.num_results))
        return self

    @property
    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide what is in the lists, without defaults, for fingerprints."""
        others = {"description", "gate", "retention", "sinks"}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=others)

    @property
    def is_bought_together(self) -> bool:
        """Whether batchrec counts what people had together, instead of training a recipe."""
        return self.within_days is not None or self.order is not None

    @property
    def recommendations(self) -> RecommendationSettings:
        """The same settings as those of lists for people, whose steps read them."""
        return RecommendationSettings.model_construct(
            num_results=self.num_results,
            exclude_seen=False,
            filter=self.filter,
            filter_values=self.filter_values,
            rules=self.rules,
            columns=self.columns,
        )

    def choose_recipe(self, *, has_item_data: bool) -> str | None:
        """The recipe that finds similar items; None where they are bought together.

        has_item_data: whether Personalize gets anything of the items besides their ids.
        """
        if self.is_bought_together:
            return None
        return self.recipe or (SIMILAR_ITEMS_RECIPE if has_item_data else SIMS)

    @property
    def _uses_current_item(self) -> bool:
        if self.filter is None or "{{" in self.filter:
            return False
        return filter_check.find_traits(self.filter).uses_current_item


def _find_problems_of_rules(rules: ListRules, num_results: int) -> Iterator[tuple[Keys, str]]:
    """The rules that make no sense for lists of items, or that cannot be met."""
    if rules.exclude_seen is not None:
        yield (
            ("rules", "exclude_seen"),
            "an item's list is the same for everybody, whatever they had: leave it out. In a list"
            " for people, such as one of `lists`, it works",
        )
    if rules.price is not None and rules.price.events is not None:
        yield (
            ("rules", "price", "events"),
            "here `within` is in prices of the item whose list it is, and no event has another:"
            " leave it out",
        )
    conflict = rules.find_conflict(num_results)
    if conflict:
        name, _, text = conflict.partition(" ")
        yield ("rules", name.rstrip(":")), text
    if rules.block is not None and "{{" not in rules.block.source:
        try:
            parse_source(rules.block.source)
        except SourceError as error:
            yield ("rules", "block", "source"), str(error)
