"""The report's page: its numbers and verdict, and the escaping of text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, Literal

from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster.config.publication import Gate
from batchrec_dagster.editions.edition import DataCounts, Finding, ListCounts
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.reporting.insight.verdict import UNPROVED_OPENING, give_verdict
from batchrec_dagster.reporting.markdown import escape as escape_markdown
from batchrec_dagster.reporting.views.html import encode_json
from batchrec_dagster.reporting.views.plain import escape_invisible
from batchrec_dagster.steps.judge.quality import Behaviour, ModelFacts
from batchrec_dagster.steps.judge.verdicts import ListFacts, judge_lists, judge_model
from batchrec_dagster.steps.lists.checks import check_lists_full, check_rows_titled
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster_tests.guard.seams.editions import (
    make_edition,
    make_groups,
    make_popularity,
)

# The time at which lists are judged.
NOW = datetime(2026, 5, 2, 3, tzinfo=UTC)


@dataclass(frozen=True)
class Person:
    """A user that the report shows. Items are named by their titles, or else by their ids."""

    history: tuple[str, ...]
    """The items of the user's history, newest first."""
    listed: tuple[str, ...]
    """The items of the user's list, best first."""
    reasons: tuple[str, ...]
    """For each item of the list, the history item that explains it, or an empty text."""


# A cell of a table: a text, a number, or a number with the two ends of its interval.
Cell = str | float | tuple[float, float, float]


@dataclass(frozen=True)
class Page:
    """The content of a report."""

    verdict: str
    """The text that says whether the lists can be sent, and why."""
    numbers: Mapping[str, float]
    """The numbers in the page's sentences and tiles, by their names in NUMBERS."""
    tables: Mapping[str, list[list[Cell]]]
    """The rows of the page's tables, by the tables' names in TABLES."""
    people: Mapping[str, Person]
    """The users that can be looked up on the page, by id."""
    strip: str = ""
    """The text of the strip: the edition at a glance, and the last night."""


# The ids that the page uses for its numbers and tables.
NUMBERS = {
    "interactions": "interactions",
    "users with interactions": "users",
    "items with interactions": "items",
    "users requested": "requested",
    "users served": "served",
    "items each": "longest",
    "users without interactions": "cold",
    "users with 1 to 4 interactions": "few",
    "interactions of the median user": "median",
    "items recommended": "recommended",
    "items in the catalogue": "catalogue",
    "share of the top 1% in lists": "top_lists",
    "share of the top 1% in histories": "top_histories",
    "NDCG of the model": "ndcg",
    "NDCG of popular items": "popular_ndcg",
    "share of a list that was kept": "overlap",
    "lists with the same items": "same_lists",
    "lists compared": "compared",
    "people who have a list now": "gained",
    "people who had a list": "lost",
    "hit rate": "hit_rate",
}
TABLES = {
    "categories": "category1",
    "data that changed": "changed-data",
    "failed checks": "failed-checks",
    "items up and down": "changed-items",
    "metrics that changed": "changed-quality",
    "most recommended": "most",
    "nights": "nights",
    "outcomes": "outcomes",
    "passed checks": "checks",
    "quality": "quality",
    "reach": "reach",
    "settings that changed": "changed-settings",
}


def read_page(html: str) -> Page:
    """Parse the report's HTML, and return its content for a program to compare."""
    reader = _PageReader(html)
    data = json.loads(reader.data)
    titles = [row[0] if row[1] is None else row[1] for row in data["items"]]
    people = {}
    for user, _, history, listed in data["people"]:
        people[user] = Person(
            tuple(titles[item] for item, _ in history),
            tuple(titles[item] for item, _, _ in listed),
            tuple("" if because is None else titles[because] for _, because, _ in listed),
        )
    tables = {
        name: [
            [_read_cell(cell) for cell in row]
            for part in ("table", "more-table")
            for row in reader.tables.get(f"{key}-{part}", [])[1:]
        ]
        for name, key in TABLES.items()
    }
    return Page(
        " ".join(reader.verdict.split()),
        {name: reader.facts[key] for name, key in NUMBERS.items() if key in reader.facts},
        {name: rows for name, rows in tables.items() if rows},
        people,
        " ".join(reader.strip.split()),
    )


def _read_cell(parts: tuple[str | float, ...]) -> Cell:
    numbers = [part for part in parts if isinstance(part, float)]
    if len(numbers) == 3:
        return numbers[0], numbers[1], numbers[2]
    return numbers[0] if numbers else "".join(map(str, parts)).strip()


class _PageReader(HTMLParser):
    """A parser that collects the page's numbers, tables, verdict and strip, and its users' data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.facts: dict[str, float] = {}
        # Each cell holds the texts up to its first number, and its numbers.
        self.tables: dict[str, list[list[tuple[str | float, ...]]]] = {}
        self.data = self.verdict = self.strip = ""
        self._fact = self._table = ""
        self._is_in_people = self._is_in_verdict = self._is_in_strip = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "span":
            self._fact = attributes.get("data-fact") or ""
        elif tag == "data":
            value = float(attributes["value"] or "")
            if self._fact:
                assert self.facts.setdefault(self._fact, value) == value, self._fact
            if self._table:
                self.tables[self._table][-1][-1] += (value,)
        elif tag == "table":
            self._table = attributes["id"] or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("th", "td"):
            self.tables[self._table][-1].append(())
        elif tag == "section":
            self._is_in_verdict = "verdict" in (attributes.get("class") or "")
            self._is_in_strip = attributes.get("class") == "strip"
        elif tag == "script":
            self._is_in_people = attributes.get("id") == "people-data"

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""
        elif tag == "span":
            self._fact = ""
        elif tag == "section":
            self._is_in_verdict = self._is_in_strip = False
        elif tag == "script":
            self._is_in_people = False

    def handle_data(self, data: str) -> None:
        if self._is_in_people:
            self.data += data
        elif self._is_in_verdict:
            self.verdict += data
        elif self._is_in_strip:
            self.strip += data
        elif self._table and self.tables[self._table] and self.tables[self._table][-1]:
            cells = self.tables[self._table][-1]
            if not any(isinstance(part, float) for part in cells[-1]):
                cells[-1] += (data,)


@dataclass(frozen=True)
class ShownPerson:
    """The texts that a browser shows about a user."""

    name: str
    history: tuple[str, ...]
    listed: tuple[str, ...]


def look_up(tab: Any, user: str) -> ShownPerson | None:
    """Type a user's id into the opened report, and return the texts that the report shows.

    Return None if the report says that nobody is found.
    """
    tab.get_by_label("Find a user").fill(user)
    if not tab.locator("#shown").is_visible():
        return None
    return ShownPerson(
        tab.locator("#person-name").text_content(),
        tuple(tab.locator("#shown .history li > :is(a, span) bdi").all_text_contents()),
        tuple(tab.locator("#shown .listed li > :is(a, span) bdi").all_text_contents()),
    )


def as_markdown(text: str) -> str:
    """Return a line of Dagster's Markdown that shows the text and nothing else."""
    return escape_markdown(text)


def as_data(value: object) -> str:
    """Return the JSON that the page's script element for users would hold."""
    return encode_json(value)


def as_terminal(text: str) -> str:
    """Return the text escaped for a terminal, which then shows the text and nothing else."""
    return escape_invisible(text)


@dataclass(frozen=True)
class JudgedFacts:
    """The facts for judging lists. The defaults describe good lists."""

    ndcg: float = 0.19
    popular_ndcg: float = 0.06
    """The NDCG of the most popular items."""
    margin: float | None = 0.02
    """Half the width of the model's and the popular items' 95% intervals; None for no intervals."""
    tested_users: int = 211
    ndcg_before: float | None = None
    """The NDCG of the live edition's model, measured in the same way.

    None without a live edition.
    """
    requested_users: int = 2_000
    served_users: int = 2_000
    full_lists: int = 2_000
    rows: int = 50_000
    rows_without_title: int = 0
    heaviest_share: float = 0.01
    """The share of all interactions that the most active user has."""
    users_before: int | None = None
    """The number of users with interactions in the live edition's data.

    None without a live edition. The new data have 2,000 such users.
    """
    warnings: tuple[str, ...] = ()
    """The names of the checks that warn."""
    overruled: tuple[str, ...] = ()
    """The names of the checks that refused the lists before somebody published them anyway."""
    gain: tuple[float, float, float] | None = None
    """The lead of earlier lists over popular items, and the two ends of its 95% interval.

    The lead is a difference of shares of users who had an item of their list. None if the lead is
    unknown.
    """
    top_lists: float = 0.2
    """The share of the lists' rows that the top 1% of items take.

    The items' share of the histories is always 0.1.
    """
    age_days: float = 1.0
    """The age of the newest interaction, in days."""
    max_age_days: float | None = None
    """The largest age of the data that the gate accepts, in days; None for any age."""


def judge(facts: JudgedFacts) -> Literal["good", "unproved", "watch", "refuse"]:
    """Return the verdict on the lists.

    `good`: the lists are good. `watch`: somebody should look at them. `refuse`: they should not be
    sent. `unproved`: all checks passed, but nothing proves that the lists are good.
    """
    verdict = give_verdict(_list_findings(facts))
    return "unproved" if verdict.opening == UNPROVED_OPENING else verdict.level


def read_verdict(facts: JudgedFacts) -> str:
    """Return the sentence with the verdict that readers of the report see."""
    return str(give_verdict(_list_findings(facts)))


def _list_findings(facts: JudgedFacts) -> list[Finding]:
    findings = [*_judge_model(facts), *judge_lists(_describe_lists(facts))]
    length = facts.rows // max(1, facts.full_lists)
    settings = RecommendationSettings(num_results=length)
    return [
        *findings,
        check_lists_full(facts.full_lists, facts.served_users, length, settings, "lists"),
        check_rows_titled(facts.rows - facts.rows_without_title, facts.rows_without_title),
        *(Finding(name, "watch", "it warns") for name in facts.warnings),
    ]


def _judge_model(facts: JudgedFacts) -> list[Finding]:
    margin, users = facts.margin, facts.tested_users
    model = ModelRecord(
        made_of={},
        version="new",
        solution_version_arn="arn:new",
        data_version="data",
        metrics={NDCG: facts.ndcg, "coverage": 0.2},
        groups=make_groups(facts.ndcg, margin, users),
        measured_popularity=make_popularity(facts.popular_ndcg, margin, users),
    )
    live = None
    if facts.ndcg_before is not None:
        live = make_edition(
            {
                "solution_version_arn": "arn:old",
                "measured_on": "all",
                "metrics": {NDCG: facts.ndcg_before},
                "groups": make_groups(facts.ndcg_before, margin, users, pattern=2),
            }
        )
    behaviour = None
    if facts.gain is not None:
        gain, low, high = facts.gain
        estimate = Estimate(value=gain, low=low, high=high)
        behaviour = Behaviour(estimate, users=500, editions=3)
    model_facts = ModelFacts(
        model,
        "all",
        live,
        behaviour=behaviour,
        data_until=int(NOW.timestamp() - facts.age_days * 86_400),
        now=NOW,
        publish_anyway=bool(facts.overruled),
    )
    gate = Gate(max_age_days=facts.max_age_days, min_ndcg_at_25=1.0 if facts.overruled else 0.0)
    return judge_model(model_facts, gate)


def _describe_lists(facts: JudgedFacts) -> ListFacts:
    counts = ListCounts(
        rows=facts.rows,
        requested=facts.requested_users,
        subjects=facts.served_users,
        top_lists=facts.top_lists,
        top_histories=0.1,
    )
    data = DataCounts(
        interactions=50_000,
        users=2_000,
        items=500,
        first_day="2026-01-01",
        last_day="2026-05-01",
        heaviest_share=facts.heaviest_share,
    )
    live = None
    if facts.users_before is not None:
        data_before = data.model_copy(update={"users": facts.users_before})
        live = make_edition({"data": data_before})
    return ListFacts(counts, facts.requested_users, data, live)
