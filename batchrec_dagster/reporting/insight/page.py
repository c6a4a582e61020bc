"""All that the page about a list says, as facts: `views` shows them.

The page is saved as a record next to its HTML. So a night that is refused or fails shows on it,
although nothing is counted again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from batchrec_dagster.personalize.measurements import COVERAGE, join_words, name_ndcg
from batchrec_dagster.reporting.insight.changes import (
    Changes,
    read_ndcg_number,
    read_popular_ndcg_number,
)
from batchrec_dagster.reporting.insight.measured import describe_engine, describe_tested_users
from batchrec_dagster.reporting.insight.nights import ListedNight
from batchrec_dagster.reporting.insight.numbers import Number, Unit
from batchrec_dagster.reporting.insight.people import People
from batchrec_dagster.reporting.insight.verdict import Verdict, give_verdict
from batchrec_dagster.steps.arms import MODEL
from batchrec_dagster.steps.judge_quality import measure_lead
from batchrec_dagster.steps.outcomes import Outcome
from batchrec_dagster.storage.edition import Edition, Finding, Level

# The start of the sources of generated data.
GENERATED = "sample://"


class CheckResult(BaseModel, frozen=True):
    """The newest result of an asset check."""

    asset: str
    check: str
    level: Level
    text: str
    """What was found."""
    expectation: str = ""
    """What has to hold."""
    time: datetime | None = None
    """When it ran; None if that is not known."""


class PopularComparison(NamedTuple):
    """The NDCG of the model, compared with that of popular items."""

    metric: str
    """What the NDCG is called, with the events that it counts."""
    model: Number
    popular: Number
    lead: Number | None
    """By how much the model is better; None if nobody compared them on the same users."""


class Page(BaseModel):
    """All that the page says."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    address: str
    """Of the list, such as `shop` or `shop/newsletter`."""
    description: str | None = None
    made_at: datetime
    """When the page was made."""
    edition: Edition
    """The live edition."""
    findings: tuple[Finding, ...]
    """What was found of it last."""
    nights: tuple[ListedNight, ...]
    """The oldest comes first."""
    changes: Changes | None = None
    """What changed since what readers had before; None if that is not kept."""
    outcomes: tuple[Outcome, ...] = ()
    """What people did with the model's lists of each edition, the newest last."""
    experiment: tuple[str, ...] = ()
    """What an experiment shows, in sentences."""
    people: People = People()
    checks: tuple[CheckResult, ...] = ()
    """Of all that the lists are made of."""
    missing_checks: tuple[str, ...] = ()
    """The names of the checks that have no result."""
    has_newer_data: bool = False
    """Whether the lists were made from earlier data than the newest interactions, which the
    histories show."""

    @property
    def verdict(self) -> Verdict:
        """Whether the lists can be sent."""
        return give_verdict(self.findings)

    @property
    def live_since(self) -> datetime:
        """Since when people have these lists."""
        for night in reversed(self.nights):
            if night.is_of(self.edition):
                return night.time
        return self.edition.live_since

    @property
    def last_night(self) -> ListedNight | None:
        """How the last run ended; None if none is known."""
        return self.nights[-1] if self.nights else None

    @property
    def open_findings(self) -> list[Finding]:
        """What needs somebody: the worst first, and then what other checks of the run warn of."""
        named = {finding.name for finding in self.findings}
        findings = [finding for finding in self.findings if not finding.passed]
        findings += [
            Finding(f"{check.check} of {check.asset}", check.level, check.text)
            for check in self.checks
            if check.level != "good" and check.check not in named
        ]
        return sorted(findings, key=lambda finding: finding.level != "refuse")

    @property
    def measured_by(self) -> str:
        """What measured the model, and on whom, in words."""
        edition = self.edition
        engine = describe_engine(edition.engine)
        people = describe_tested_users(None if edition.groups is None else edition.groups.tested)
        counted = f", by {join_words(edition.success)} alone" if edition.success else ""
        return f"Measured by {engine}, on {people}{counted}"

    @property
    def source(self) -> str:
        """Where the ratings are from, in words."""
        source = self.edition.source or "an unknown source"
        is_generated = source.startswith(GENERATED)
        return f"generated, no real people ({source})" if is_generated else source

    @property
    def newest_outcome(self) -> Outcome | None:
        """What people did with the newest edition of which that is known, if anybody did."""
        for outcome in reversed(self.outcomes):
            if outcome.hit_rate is not None:
                return outcome
        return None

    @property
    def metrics(self) -> list[tuple[str, Number]]:
        """The metrics of the model that were measured, each with its name."""
        return [*_list_metrics(self.edition)]

    @property
    def comparison(self) -> PopularComparison | None:
        """The model compared with popular items; None if one of them was not measured."""
        edition = self.edition
        ndcg, popular = read_ndcg_number(edition), read_popular_ndcg_number(edition)
        if ndcg is None or popular is None:
            return None
        lead = measure_lead(edition)
        difference = None if lead is None else Number.of_estimate(lead.difference, "score")
        return PopularComparison(name_ndcg(edition.success), ndcg, popular, difference)

    @property
    def popular_name(self) -> str:
        """What the popular items are called that the model is compared with."""
        lead = measure_lead(self.edition)
        return "popular items" if lead is None else lead.over.removeprefix("the ")


def _list_metrics(edition: Edition) -> Iterator[tuple[str, Number]]:
    ndcg = read_ndcg_number(edition)
    if ndcg is not None:
        yield name_ndcg(edition.success), ndcg
    others: dict[str, tuple[str, Unit]] = {
        "precision_at_10": ("Precision@10", "share"),
        "mean_reciprocal_rank_at_25": ("MRR@25", "score"),
        COVERAGE: ("Coverage", "share"),
    }
    for key, (name, unit) in others.items():
        if key in edition.metrics:
            yield name, Number(value=edition.metrics[key], unit=unit)


def select_model_outcomes(outcomes: list[Outcome]) -> tuple[Outcome, ...]:
    """The outcomes of the model's lists, without those of an experiment's control."""
    return tuple(outcome for outcome in outcomes if outcome.arm == MODEL)
