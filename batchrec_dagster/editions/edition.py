"""The facts of an edition of lists, and the results of the checks that it passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from batchrec_dagster.editions.subjects import SUBJECTS, USERS, ListSubject
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.personalize.measured_ndcg import GroupSums, MeasuredPopularity

# A level is `good` if nothing speaks against publication, `watch` if somebody should look, and
# `refuse` if no later step may run. The levels are ordered from the best to the worst.
Level = Literal["good", "watch", "refuse"]
Numbers = dict[str, int | float]


@dataclass(frozen=True)
class Finding:
    """The result of a check of data, a model or lists, and its effect on publication."""

    name: str
    level: Level
    text: str
    """The result with its numbers and, if the level is not `good`, advice on what to do."""
    headline: str = ""
    """The result in a few words, for a verdict, such as `the model beats popular items`.

    Empty if no verdict has to name the finding.
    """
    numbers: Numbers = field(default_factory=dict)
    """The numbers in the text, by name."""
    makes_output_unusable: bool = False
    """Whether a batch job's output is unusable if the level is `refuse`.

    No run should read such an output again.
    """

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    @property
    def passed(self) -> bool:
        """Whether the level is `good`."""
        return self.level == "good"

    @property
    def blocks(self) -> bool:
        """Whether the finding stops the steps after the check."""
        return self.level == "refuse"


def watch_unless(holds: bool) -> Level:
    """Return `good` if the condition holds, or else `watch`."""
    return "good" if holds else "watch"


def refuse_unless(holds: bool) -> Level:
    """Return `good` if the condition holds, or else `refuse`."""
    return "good" if holds else "refuse"


class ListedItem(BaseModel, frozen=True):
    """An item that is on many lists."""

    item: str
    title: str | None = None
    lists: int
    """The number of lists that the item is on."""
    interactions: int
    """The number of interactions with the item."""


class CategoryShare(BaseModel, frozen=True):
    """The shares of the lists and of the histories that items with a value of a category take."""

    value: str
    lists: float
    """The share of all rows of lists."""
    histories: float
    """The share of all interactions."""


class ListCounts(BaseModel, frozen=True):
    """Counts of a table of lists, and of the users' histories for comparison.

    Numbers about histories count interactions. Only tables of users' lists have them.
    """

    rows: int = 0
    requested: int = 0
    """The number of users, items or segments that were to have a list."""
    subjects: int = 0
    """The number of requested users, items or segments that have a list."""
    failed: int = 0
    """The number of requested ids without a list because Personalize returned an error."""
    full: int = 0
    """The number of lists that have as many items as were asked for."""
    longest: int = 0
    """The number of items on the longest list."""
    untitled: int = 0
    """The number of results left out because lists show titles and the item has no title."""
    cold: int = 0
    """The number of requested users without interactions."""
    few: int = 0
    """The number of requested users with 1 to 4 interactions."""
    median_history: float = 0.0
    """The number of interactions of the median requested user."""
    items: int = 0
    """The number of distinct items on the lists."""
    catalogue: int = 0
    """The number of distinct items in the interactions, the items file and the lists."""
    top_lists: float = 0.0
    """The share of the rows that the most recommended 1 % of the catalogue take."""
    top_histories: float = 0.0
    """The share of the interactions that the most popular 1 % of the catalogue take."""
    most_recommended: tuple[ListedItem, ...] = ()
    """The items that are on the most lists; empty if the lists contain users' ids."""
    categories: dict[str, tuple[CategoryShare, ...]] = {}
    """The most frequent values of each category, by the name of the category.

    An item with several values counts for each value.
    """
    seen_items_dropped: int = 0
    """The number of results left out because the user had already seen the item."""
    items_without_score: int = 0
    """The number of rows with popular items that Personalize added without a score."""


class DataCounts(BaseModel, frozen=True):
    """Counts of the interactions that lists were made from."""

    interactions: int
    users: int
    items: int
    first_day: str
    """The day of the first interaction, such as 2026-11-30; empty if interactions have no times."""
    last_day: str
    """The day of the last interaction; empty if interactions have no times."""
    events: dict[str, float] = {}
    """The share of each event type; empty if there are no event types."""
    mean_value: float | None = None
    """The mean value of the events; None if events have no values."""
    heaviest_share: float = 0.0
    """The share of the interactions that belong to the user with the most interactions."""
    new_items: int | None = None
    """The number of items that appeared after the newest interaction of the previous edition.

    None if there is no previous edition, or if interactions have no times.
    """
    vanished_items: int | None = None
    """The decrease in the number of items since the previous edition, not counting new items.

    None if `new_items` is None.
    """


@dataclass
class RuleCounts:
    """The effect of a rule on the lists of a run."""

    rule: str
    """The rule's key in the declaration."""
    removed: int = 0
    """The number of results that the rule left out.

    For a filter, these are all results that it does not allow. For max_per, these are the results
    that it refused on a list with free ranks.
    """
    added: int = 0
    """The number of rows that the rule put on lists."""
    emptied: int = 0
    """The number of lists from which the rule removed the model's last remaining result."""
    unmet: int = 0
    """The number of lists on which the rule could not be met."""


@dataclass
class FillCounts:
    """Counts of how the lists of a run were filled."""

    lists: int = 0
    """The number of lists, including the empty ones."""
    of_model: int = 0
    """The number of lists that the model answered for.

    All other lists have popular items from the start.
    """
    short_of_model: int = 0
    """The number of the model's lists that were short after the rules, before popular items."""
    popular_rows: int = 0
    """The number of rows with popular items that were added to these short lists."""
    empty: int = 0
    """The number of empty lists."""
    seen: int = 0
    """The number of rows with an item that exclude_seen should have left out. It should be 0."""


class PopularFacts(BaseModel, frozen=True):
    """The definition of popular items, and their number."""

    days: int
    """The number of days before the newest interaction that count."""
    items: int = 0
    """The number of popular items."""


class NewcomerFacts(BaseModel, frozen=True):
    """The users without interactions."""

    users: int
    get: str | dict[str, str] | None
    """The value of the setting `newcomers`, which says what lists newcomers get."""


class Withdrawn(BaseModel, frozen=True):
    """Lists that a rollback replaced, and the inputs that would reproduce these lists."""

    number: int
    """The number of the lists' edition."""
    marks: tuple[dict[str, str], ...] = ()
    """Parts of the withdrawn edition's `made_of`, by which the lists are recognised.

    Lists count as withdrawn if their own `made_of` has all entries of one of these parts.
    """

    def recognises(self, made_of: Mapping[str, str]) -> bool:
        """Return whether these inputs would reproduce the withdrawn lists."""
        return any(mark.items() <= made_of.items() for mark in self.marks)

    def matches(self, edition: Edition) -> bool:
        """Return whether the edition has the withdrawn lists."""
        return self.number == edition.number or self.recognises(edition.made_of)


class Edition(BaseModel, frozen=True):
    """The facts of an edition of lists, as they are in the footer of its file.

    A value of None is not known, or does not apply.
    """

    address: str
    """The address of the list, such as `shop` or `shop/newsletter`."""
    subject: Literal["user", "item", "segment"] = "user"
    """The kind of subject that each list is for."""
    number: int
    """The number of the edition, from 1. It stays when users are dropped."""
    version: str
    """The version of the content. It stays when users are dropped."""
    made_at: datetime
    run: str
    """The id of the run that published it."""
    root_run: str
    """The id of the first run if `run` is a retry; otherwise the id of `run`."""
    seconds: float | None = None
    """The seconds from the start of the run until the lists were live."""
    cost_usd: float = 0.0
    """The cost of the run in US dollars."""

    counts: ListCounts = ListCounts()
    data: DataCounts | None = None
    """The interactions that the edition was made from."""
    findings: tuple[Finding, ...] = ()
    """The findings of the checks that the edition passed."""
    rules: tuple[RuleCounts, ...] = ()
    """The effect of each rule, in the order of application."""
    filled: FillCounts | None = None
    """Counts of the lists that popular items filled after the rules."""
    popularity: PopularFacts | None = None
    """The facts of the popular items; None if lists have no such items."""
    newcomers: NewcomerFacts | None = None
    """The newcomers; None if no setting declares their lists."""
    reasons: dict[str, int] = {}
    """The number of rows with each reason."""
    users_dropped: int = 0
    """The number of users who lost their lists in this file since its first publication."""
    rows_against_only: int | None = None
    """The number of rows that break `rules.only`, counted at the last rollback to this edition.

    None without that rule, or without a rollback.
    """

    live_since: datetime
    because: Literal["published", "rollback"] = "published"
    """The reason why the edition became live at `live_since`."""
    live_by: str
    """The id of the run that made the edition live, or of the first run if that run is a retry."""
    replaced: int | None = None
    """The number of the edition that was live before; None if there was none."""
    withdrawn: tuple[Withdrawn, ...] = ()
    """The lists that were rolled back so far. No run publishes them again by itself."""

    made_of: dict[str, str]
    """The version of each input, of the settings and of the code, by name."""
    settings: dict[str, Any] = {}
    """The settings that decide the content of lists, by path such as interactions.min_rating."""
    source: str = ""
    """The sources of the ratings, without the secrets in URLs."""
    sizes: dict[str, dict[str, Any]] = {}
    """The sizes of each part of the data."""
    data_version: str
    data_until: int | None = None
    """The time of the newest interaction, in epoch seconds."""
    exclude_seen: bool = False
    """Whether lists leave out all items that their user had seen."""
    experiment: dict[str, Any] | None = None

    job_arn: str | None = None
    """The ARN of the batch inference job that made the edition."""
    job_output: str | None = None
    """A fingerprint of the job's output."""
    results_asked_for: int | None = None
    """The number of results that the job was asked for, for each user or item."""
    inference_cost_usd: float | None = None
    """The price of the job at Amazon in US dollars, even if another engine ran the job."""

    solution_version_arn: str | None = None
    """The ARN of the model's solution version."""
    recipe: str | None = None
    engine: str | None = None
    """The engine that trained the model, in words."""
    trained_on: str | None = None
    """The first digits of the version of the data that the model was trained on."""
    trained_at: datetime | None = None
    measured_on: str
    """A fingerprint of the interactions that the model's metrics count.

    The metrics of two editions are compared only if their fingerprints are equal.
    """
    success: tuple[str, ...] = ()
    """The event types that the metrics count; empty if they count all types."""
    metrics: dict[str, float] = {}
    """The metrics of the model, by Personalize's names."""
    ndcg: Estimate | None = None
    """The NDCG@25 of the model."""
    groups: GroupSums | None = None
    """NDCG@25 by groups of tested users; None if Amazon Personalize measured it."""
    measured_popularity: MeasuredPopularity | None = None
    """The measured NDCG@25 of recommending popular items; None if it was not measured."""

    uri: str = Field("", exclude=True)
    """The URI of the file that the edition was read from."""

    @property
    def columns(self) -> ListSubject:
        """The names of the columns that depend on the kind of subject."""
        return SUBJECTS[self.subject]

    @property
    def users(self) -> int | None:
        """The number of users with a list in this file; None if the lists are not for users."""
        if self.columns is not USERS:
            return None
        return self.counts.subjects - self.users_dropped

    @property
    def name(self) -> str:
        """The edition's name among the kept editions."""
        return f"{self.number:06}-{self.version}"

    def is_copy_of(self, other: Edition | None) -> bool:
        """Return whether `other` is this edition, even if a file of the edition has lost users."""
        return other is not None and self.name == other.name
