"""One edition of lists: what is known of it, and the verdicts of the checks that it passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from batchrec_dagster.storage.estimate import Estimate
from batchrec_dagster.storage.list_subjects import SUBJECTS
from batchrec_dagster.storage.measured_ndcg import GroupSums, MeasuredPopularity

# `good` if nothing speaks against publishing, `watch` if somebody should look, `refuse` if nothing
# may come after it. They go from the best to the worst.
Level = Literal["good", "watch", "refuse"]
Numbers = dict[str, int | float]


@dataclass(frozen=True)
class Finding:
    """What was found of data, of a model or of lists, and what that means for their publication."""

    name: str
    level: Level
    text: str
    """What was found with its numbers and, if it is not good, what to do."""
    headline: str = ""
    """The same in a few words, for a verdict, such as `the model beats popular items`. Empty if no
    verdict has to name it."""
    numbers: Numbers = field(default_factory=dict)
    """The numbers in the text, by name."""
    makes_output_unusable: bool = False
    """Whether it means, if it refuses, that a batch job's output is of no use, so that no run
    should read it again."""

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    @property
    def passed(self) -> bool:
        """Whether it is good."""
        return self.level == "good"

    @property
    def blocks(self) -> bool:
        """Whether it stops what comes after it."""
        return self.level == "refuse"


def watch_unless(holds: bool) -> Level:
    """The level of what somebody should look at unless it holds."""
    return "good" if holds else "watch"


def refuse_unless(holds: bool) -> Level:
    """The level of what stops what comes after it unless it holds."""
    return "good" if holds else "refuse"


class ListedItem(BaseModel, frozen=True):
    """An item that is on many lists."""

    item: str
    title: str | None = None
    lists: int
    """On how many lists it is."""
    interactions: int
    """How many interactions it has."""


class CategoryShare(BaseModel, frozen=True):
    """How much of lists and of histories the items with a value of a category take."""

    value: str
    lists: float
    """Their share of all rows of lists."""
    histories: float
    """Their share of all interactions."""


class ListCounts(BaseModel, frozen=True):
    """What is in a table of lists, and how that compares with what people had.

    The numbers of histories count interactions, and only lists of users have them.
    """

    rows: int = 0
    requested: int = 0
    """How many users, items or segments were to have a list."""
    subjects: int = 0
    """How many of them have one."""
    failed: int = 0
    """How many of them have none, because Personalize returned an error."""
    full: int = 0
    """How many lists have all the items that are asked for."""
    longest: int = 0
    """How many items the longest list has."""
    untitled: int = 0
    """How many results were left out, as they have no title although lists show it."""
    cold: int = 0
    """How many requested users have no interaction."""
    few: int = 0
    """How many requested users have 1 to 4 interactions."""
    median_history: float = 0.0
    """How many interactions the median requested user has."""
    items: int = 0
    """How many distinct items are in the lists."""
    catalogue: int = 0
    """How many items there are in the interactions, the items file and the lists."""
    top_lists: float = 0.0
    """The share of the rows that the most recommended 1 % of the catalogue take."""
    top_histories: float = 0.0
    """The share of the interactions that the most popular 1 % of the catalogue take."""
    most_recommended: tuple[ListedItem, ...] = ()
    """The items on most lists; none if the lists are of users' ids."""
    categories: dict[str, tuple[CategoryShare, ...]] = {}
    """The most frequent values of each category, by its name. An item with several values counts
    for each."""
    seen_items_dropped: int = 0
    """How many results were left out because their user had already seen the item."""
    items_without_score: int = 0
    """How many rows are popular items that Personalize added without a score."""


class DataCounts(BaseModel, frozen=True):
    """The interactions that lists were made from, in numbers."""

    interactions: int
    users: int
    items: int
    first_day: str
    """The day of the first interaction, such as 2026-11-30; empty if they have no times."""
    last_day: str
    """The day of the last interaction; empty if they have no times."""
    events: dict[str, float] = {}
    """The share of each type of events; empty without types."""
    mean_value: float | None = None
    """The mean value of the events; None without values."""
    heaviest_share: float = 0.0
    """The share of the interactions that belong to the user with the most."""
    new_items: int | None = None
    """How many items were first had after the data of the edition before end; None if there is no
    such edition, or if the interactions have no times."""
    vanished_items: int | None = None
    """How many items fewer there are than in the edition before, apart from new ones; None as
    above."""


@dataclass
class RuleCounts:
    """What a rule did to the lists of a run."""

    rule: str
    """Its key in the declaration."""
    removed: int = 0
    """How many results it left out: of a filter all that it does not allow, of max_per those that
    it refused on a list with free ranks."""
    added: int = 0
    """How many rows it put on lists."""
    emptied: int = 0
    """On how many lists it left out the last result of the model."""
    unmet: int = 0
    """How many lists cannot have what it asks for."""


@dataclass
class FillCounts:
    """How the lists of a run were filled."""

    lists: int = 0
    """How many lists there are, with those of users for whom nothing is left."""
    of_model: int = 0
    """How many of them the model answered for; the others are of popular items from the start."""
    short_of_model: int = 0
    """For how many lists of the model the rules left fewer of its results than a list has items."""
    popular_rows: int = 0
    """How many popular items fill these short lists."""
    empty: int = 0
    """How many lists are empty."""
    seen: int = 0
    """How many rows have an item that exclude_seen leaves out. There should be none."""


class PopularFacts(BaseModel, frozen=True):
    """Which items were popular."""

    days: int
    """Those of the last days count, of this number."""
    items: int = 0
    """How many there were."""


class NewcomerFacts(BaseModel, frozen=True):
    """The users without interactions."""

    users: int
    get: str | dict[str, str] | None
    """What they got, as it is declared."""


class Withdrawn(BaseModel, frozen=True):
    """Lists that a rollback replaced, and by what they are known if they are made again."""

    number: int
    """Of their edition."""
    marks: tuple[dict[str, str], ...] = ()
    """Parts of `Edition.made_of`. Lists that are made of all of one of them are these again."""

    def recognises(self, made_of: Mapping[str, str]) -> bool:
        """Whether lists that are made of this are these again."""
        return any(mark.items() <= made_of.items() for mark in self.marks)

    def matches(self, edition: Edition) -> bool:
        """Whether this edition has these lists."""
        return self.number == edition.number or self.recognises(edition.made_of)


class Edition(BaseModel, frozen=True):
    """What is known of one edition of lists; the footer of its file has all of it.

    What is None is not known, or does not apply.
    """

    address: str
    """Of the list, such as `shop` or `shop/newsletter`."""
    subject: Literal["user", "item", "segment"] = "user"
    """Whose lists they are."""
    number: int
    """From 1. It stays when users are dropped."""
    version: str
    """It differs if the content does. It stays when users are dropped."""
    made_at: datetime
    run: str
    """The id of the run that published it."""
    root_run: str
    """The id of the first of that run and its retries."""
    seconds: float | None = None
    """How long the run took from its start until the lists were live."""
    cost_usd: float = 0.0
    """What the run paid."""

    counts: ListCounts = ListCounts()
    data: DataCounts | None = None
    """The interactions that it was made from."""
    findings: tuple[Finding, ...] = ()
    """Of the checks that it passed."""
    rules: tuple[RuleCounts, ...] = ()
    """What each rule did, in the order of application."""
    filled: FillCounts | None = None
    """How lists that rules left short were filled."""
    popularity: PopularFacts | None = None
    """Which items were popular, if lists have such items."""
    newcomers: NewcomerFacts | None = None
    """The newcomers, if it is declared what they get."""
    reasons: dict[str, int] = {}
    """How many rows have each reason."""
    users_dropped: int = 0
    """How many users have no list in this file any more, since it was first published."""
    rows_against_only: int | None = None
    """How many rows have items that `rules.only` leaves out, as it was at the last rollback to it;
    None without that rule, or without a rollback."""

    live_since: datetime
    because: Literal["published", "rollback"] = "published"
    """Why it became live then."""
    live_by: str
    """The id of the first of the run that made it live and its retries."""
    replaced: int | None = None
    """The number of the edition that was live before; None if there was none."""
    withdrawn: tuple[Withdrawn, ...] = ()
    """The lists that were rolled back so far, and may not come back by themselves."""

    made_of: dict[str, str]
    """The version of each input, of the settings and of the code, by name."""
    settings: dict[str, Any] = {}
    """The settings that decide what is in the lists, by path such as interactions.min_rating."""
    source: str = ""
    """The sources of the ratings, without the secrets of URLs."""
    sizes: dict[str, dict[str, Any]] = {}
    """How much there was of each part of the data."""
    data_version: str
    data_until: int | None = None
    """The time of the newest interaction, in epoch seconds."""
    exclude_seen: bool = False
    """Whether lists have nothing that their user had seen."""
    experiment: dict[str, Any] | None = None

    job_arn: str | None = None
    """That of the batch inference job that made it."""
    job_output: str | None = None
    """A fingerprint of the job's output."""
    results_asked_for: int | None = None
    """How many results the job was asked for, for each user or item."""
    inference_cost_usd: float | None = None
    """What the job costs where Amazon runs it."""

    solution_version_arn: str | None = None
    """That of the model."""
    recipe: str | None = None
    engine: str | None = None
    """What trained the model, in words."""
    trained_on: str | None = None
    """The first digits of the version of the data that the model was trained on."""
    trained_at: datetime | None = None
    measured_on: str
    """A fingerprint of the interactions that the model's metrics count. Metrics are compared if it
    is the same."""
    success: tuple[str, ...] = ()
    """The types of events that the metrics count alone; empty if they count all."""
    metrics: dict[str, float] = {}
    """The model's, by Personalize's names."""
    ndcg: Estimate | None = None
    """The NDCG@25 of the model."""
    groups: GroupSums | None = None
    """NDCG@25 by groups of tested users; None if Amazon Personalize measured it."""
    measured_popularity: MeasuredPopularity | None = None
    """What recommending popular items reaches; None if it was not measured."""

    uri: str = Field("", exclude=True)
    """Where the file is that this was read from."""

    @property
    def subject_column(self) -> str:
        """The column of whose lists they are."""
        return SUBJECTS[self.subject].column

    @property
    def users(self) -> int | None:
        """How many users have a list in this file; None if the lists are of items."""
        return self.counts.subjects - self.users_dropped if self.subject == "user" else None

    @property
    def name(self) -> str:
        """Its name among the kept editions."""
        return f"{self.number:06}-{self.version}"

    def is_copy_of(self, other: Edition | None) -> bool:
        """Whether both are the same edition, perhaps without users who were dropped later."""
        return other is not None and self.name == other.name
