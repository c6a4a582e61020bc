"""The settings of users' lists: a single list, or several lists of the same model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from batchrec_dagster.config.expressions import explain_open_filter, find_filter_traits
from batchrec_dagster.config.items_and_users import BatchUsers
from batchrec_dagster.config.problems import raise_problems
from batchrec_dagster.config.publication import Experiment, Gate, Retention
from batchrec_dagster.config.rules import ExcludeSeen, RuleSettings
from batchrec_dagster.config.settings import Settings
from batchrec_dagster.personalize.filters import EXCLUDE_SEEN, MAX_LENGTH
from batchrec_dagster.personalize.formats import MAX_RESULTS
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS


class Popularity(Settings):
    """The definition of popular items: the items that most people had in the last days.

    An experiment's control and newcomers get popular items. Popular items also fill lists that
    rules leave short. With solution.success, only events of the types named there count.
    """

    days: int = Field(
        default=30,
        ge=1,
        description="Only interactions of this many days before the newest one count.",
        examples=[30],
    )


class PopularBy(Settings):
    """Newcomers get items that are popular among people with the same value of a users' column."""

    popular_by: str = Field(
        description="A column of the users' file, such as a country.", examples=["COUNTRY"]
    )


# The number of the model's results for each place on a list. With so many results, most lists are
# still full after the rules.
CANDIDATES_PER_RESULT = 3
# The share of users whose lists may fail: one in a thousand. A few errors must not keep all other
# users from their lists.
MAX_FAILED_SHARE = 0.001


class RecommendationSettings(Settings):
    """The content of each user's list."""

    num_results: int = Field(
        default=25,
        ge=1,
        le=MAX_RESULTS,
        description=f"Items in each user's list, 1 to {MAX_RESULTS}.",
    )
    candidates: int | None = Field(
        default=None,
        ge=1,
        le=MAX_RESULTS,
        description="Results that the model is asked for, for each user, so that rules leave"
        f" enough of them: from num_results to {MAX_RESULTS}. What a user had that Personalize's"
        " own filter does not know is asked for in addition. Without rules, no more are asked for"
        " than a list has. Default: three times num_results.",
        examples=[200],
    )
    exclude_seen: bool | ExcludeSeen = Field(
        default=True,
        description="Exclude items that the user already interacted with: true, false, or which"
        " events and days count.",
        examples=[{"events": ["purchase"], "days": 60, "except": 'ITEMS.CONSUMABLE = "yes"'}],
    )
    filter: str | None = Field(
        default=None,
        description="A Personalize filter expression, in addition to exclude_seen.",
        examples=['EXCLUDE ItemID WHERE Items.GENRES IN ("Horror", "War")'],
    )
    exploration_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="How much aws-user-personalization explores, 0 to 1. On AWS, items with few"
        " interactions come into lists, other ones on each run; 0: lists are reproducible. The"
        " embedded engine: the largest share of a list for new items, chosen by their metadata.",
    )

    max_failed_share: float = Field(
        default=MAX_FAILED_SHARE,
        ge=0,
        le=1,
        description="The largest share of users, 0 to 1, for whom Personalize may return an error."
        " Up to it the lists are published without these users, who are counted and named; above"
        " it nothing is published.",
    )

    newcomers: Literal["popular", "leave_out"] | PopularBy | None = Field(
        default=None,
        description="What people without any interaction get: popular (the items that the block"
        " popularity counts as popular), leave_out (no list), or popular_by with a column of users"
        " (what is popular among people with the same value). Default: what the model gives, which"
        " is its own popular items, of all time.",
        examples=["popular"],
    )

    rules: RuleSettings | None = Field(
        default=None,
        description="What a shop says of its lists. The rules are applied after inference, to a"
        " longer list.",
    )

    columns: list[str] | None = Field(
        default=None,
        description="What the published table and all sinks have of each item, in this order:"
        " title, image, link, and categories and numbers by their names in items.columns; reason"
        " says why it is on the list, and reason_item, reason_title and reason_event which item of"
        " the person's own speaks for it, and what they did with that. Names are in lower case"
        " there. Default: the title, where items have one.",
        examples=[["title", "image", "link", "PRICE"]],
    )

    @field_validator("filter")
    @classmethod
    def _filter_is_possible(cls, expression: str | None) -> str | None:
        if expression is not None and len(_chain_filters(EXCLUDE_SEEN, expression)) > MAX_LENGTH:
            raise ValueError(
                f"Personalize takes at most {MAX_LENGTH} characters, including exclude_seen's"
            )
        traits = find_filter_traits(expression)
        if traits and traits.filters_users:
            raise ValueError("recommendations are items: write ItemID instead of UserID")
        return expression

    @model_validator(mode="after")
    def _candidates_fill_a_list(self) -> Self:
        least = self.num_results
        if self.candidates is not None and self.candidates < least:
            problem = f"write a number from {least}, which is num_results, to {MAX_RESULTS}"
            raise_problems([(("candidates",), problem)])
        return self

    @model_validator(mode="after")
    def _rules_fit_the_other_settings(self) -> Self:
        if len(self.filter_expression or "") > MAX_LENGTH:
            raise ValueError(
                f"exclude_seen.events and filter together are longer than the {MAX_LENGTH}"
                " characters that Personalize takes"
            )
        conflict = None if self.rules is None else self.rules.find_conflict(self.num_results)
        if conflict:
            raise ValueError(f"rules.{conflict}")
        return self

    def count_candidates(self) -> int:
        """Return the least number of results that rules choose from."""
        return self.candidates or min(MAX_RESULTS, CANDIDATES_PER_RESULT * self.num_results)

    @property
    def seen_items(self) -> ExcludeSeen | None:
        """The settings for leaving out seen items; None if lists leave out nothing."""
        if isinstance(self.exclude_seen, ExcludeSeen):
            return self.exclude_seen
        return ExcludeSeen() if self.exclude_seen else None

    @property
    def applied_rules(self) -> RuleSettings | None:
        """The rules that are applied after inference, to a longer list; None without rules.

        exclude_seen is applied together with the rules if it is a block of settings.
        """
        if self.rules is None and isinstance(self.exclude_seen, ExcludeSeen):
            return RuleSettings()
        return self.rules

    @property
    def rules_read_items(self) -> bool:
        """Whether a rule or exclude_seen depends on the data of the items."""
        is_read_by_rules = self.rules is not None and self.rules.reads_items
        return is_read_by_rules or (self.seen_items or ExcludeSeen()).unless is not None

    @property
    def lists_have_reasons(self) -> bool:
        """Whether rows give the reason for an item that is not one of the model's results."""
        return self.applied_rules is not None or self.newcomers not in (None, "leave_out")

    @property
    def excludes_all_seen(self) -> bool:
        """Whether lists leave out all items that users interacted with."""
        return self.seen_items == ExcludeSeen()

    @property
    def filter_expression(self) -> str | None:
        """The filter that combines exclude_seen and `filter`; None if neither gives one."""
        seen = self.seen_items.filter_expression if self.seen_items is not None else None
        expressions = [expression for expression in (seen, self.filter) if expression]
        return _chain_filters(*expressions) if expressions else None

    @property
    def open_filter(self) -> str | None:
        """The reason why `filter` lets through items that are missing in the items file.

        None if `filter` was not meant to leave out such items.
        """
        return explain_open_filter(self.filter)


def _chain_filters(*expressions: str) -> str:
    """Return one filter made of several, because a batch job takes only one."""
    return " | ".join(expressions)


class ListSettings(RecommendationSettings):
    """A list: what each user gets, who gets it, and where it goes.

    It has all settings of `recommendations`, and the blocks of the pipeline that may differ from
    list to list.
    """

    description: str | None = Field(default=None, description="What the list is for.")
    users: BatchUsers | None = Field(
        default=None, description="Who gets this list. Default: the pipeline's batch_users."
    )
    gate: Gate | None = Field(
        default=None,
        description="When this list is published. Default: the pipeline's gate. max_shrink is the"
        " pipeline's alone, as the data are compared once, before anything is imported.",
    )
    retention: Retention | None = Field(
        default=None,
        description="How many editions of this list are kept. Default: the pipeline's retention."
        " models is the pipeline's alone.",
    )
    experiment: Experiment | None = Field(
        default=None, description="An experiment on the users of this list."
    )
    sinks: Sinks = Field(default_factory=Sinks, description="Where this list is used.")

    @property
    def recommendations(self) -> RecommendationSettings:
        """The list's settings that the block `recommendations` has too."""
        settings = {
            name: getattr(self, name)
            for name in self.model_fields_set & RecommendationSettings.model_fields.keys()
        }
        return RecommendationSettings.model_construct(**settings)


def _require_list_names(lists: Mapping[str, ListSettings]) -> Mapping[str, ListSettings]:
    for name in lists:
        if name in (SIMILAR_ITEMS, SEGMENTS):
            raise ValueError(
                f"{name} is not a name for a list of users: declare the block {name}, or"
                " give the list another name"
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
            raise ValueError(
                f"{name!r} is not a name for a list: write a small letter, then small letters,"
                " digits and _, at most 32 in all"
            )
    return lists


NamedLists = Annotated[dict[str, ListSettings], AfterValidator(_require_list_names)]
"""The settings of each list, by the list's name."""
