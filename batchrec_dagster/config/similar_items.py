"""The settings of similar items, found by a recipe or by counting what people bought together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from batchrec_dagster.config.items_and_users import ItemIds
from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster.config.problems import Keys, raise_problems
from batchrec_dagster.config.publication import Gate, Retention
from batchrec_dagster.config.rules import ItemRules, RuleSettings
from batchrec_dagster.config.settings import Settings
from batchrec_dagster.personalize.formats import MAX_RESULTS
from batchrec_dagster.personalize.recipes import SIMILAR_ITEMS as SIMILAR_ITEMS_RECIPE
from batchrec_dagster.personalize.recipes import SIMS
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.layout import SIMILAR_ITEMS


class ListedItems(ItemIds):
    """The items that get a list of their own, from a source that every refresh reads again."""

    block = "similar_items.items"


class SimilarItems(Settings):
    """Lists of the items that go with each item, for product pages.

    A list has either the similar items that a recipe of Amazon Personalize finds, or the items that
    people bought together with the item. batchrec counts the items bought together itself.
    """

    num_results: int = Field(
        default=25,
        ge=1,
        le=MAX_RESULTS,
        description=f"Items in each item's list, 1 to {MAX_RESULTS}.",
    )
    items: ListedItems | None = Field(
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
        ge=0,
        description="Bought together instead: items that the same people had within this many days;"
        " what they had at other times counts less, and fills lists. batchrec counts this itself,"
        " without Amazon Personalize. 0: at the same time.",
        examples=[7],
    )
    events: list[str] | None = Field(
        default=None,
        description="Bought together: only events of these types count. Default: of any.",
        examples=[["purchase"]],
    )
    rules: ItemRules | None = Field(
        default=None,
        description="What a shop says of these lists. What the rules leave short stays short.",
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

    @model_validator(mode="after")
    def _settings_fit_how_items_are_found(self) -> Self:
        raise_problems(self._find_conflicts())
        return self

    def _find_conflicts(self) -> Iterator[tuple[Keys, str]]:
        """Yield settings that do not fit the way of finding items: by a recipe or by counting."""
        if self.is_bought_together:
            if self.recipe is not None:
                yield (
                    ("recipe",),
                    "items bought together need no recipe, as batchrec counts them itself: leave"
                    " out recipe, or within_days",
                )
            if self.gate is not None:
                yield (
                    ("gate",),
                    "items bought together are counted, so there is no model to measure: leave out"
                    " gate, or within_days",
                )
        elif self.events is not None:
            yield (
                ("events",),
                "is for items bought together: set within_days too, or leave it out",
            )

    @property
    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide the content of lists, without defaults, for fingerprints."""
        excluded = {"gate", "retention", "sinks"}
        return self.model_dump(mode="json", exclude_defaults=True, exclude=excluded)

    @property
    def named_sinks(self) -> Sinks:
        """The sinks. Without a declared name, the PostgreSQL table is named similar_items."""
        postgres = self.sinks.postgres
        if postgres is None or "table" in postgres.model_fields_set:
            return self.sinks
        named = postgres.model_copy(update={"table": SIMILAR_ITEMS})
        return self.sinks.model_copy(update={"postgres": named})

    @property
    def is_bought_together(self) -> bool:
        """Whether batchrec counts items that people had together, instead of training a recipe."""
        return self.within_days is not None

    @property
    def recommendations(self) -> RecommendationSettings:
        """These settings in the form of users' lists, which the steps read for all lists."""
        return RecommendationSettings.model_construct(
            num_results=self.num_results,
            exclude_seen=False,
            rules=None if self.rules is None else RuleSettings(**dict(self.rules)),
            columns=self.columns,
        )

    def choose_recipe(self, *, has_item_data: bool) -> str | None:
        """Return the recipe that finds similar items; None if items bought together are counted.

        has_item_data: whether Personalize gets data on the items besides their ids.
        """
        if self.is_bought_together:
            return None
        return self.recipe or (SIMILAR_ITEMS_RECIPE if has_item_data else SIMS)
