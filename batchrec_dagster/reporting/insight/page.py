"""The content of the page about a list, as facts that `views` shows.

The page is saved as a record next to its HTML. So the page can show the ending of a later night
that was refused or failed, and nothing has to be counted again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from batchrec_dagster.editions.edition import Edition, Finding, Level
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
from batchrec_dagster.steps.judge.quality import measure_lead
from batchrec_dagster.steps.outcomes.arms import MODEL
from batchrec_dagster.steps.outcomes.outcomes import Outcome

# Sources of generated data start with this text.
GENERATED = "sample://"


class CheckResult(BaseModel, frozen=True):
    """The newest result of an asset check."""

    asset: str
    check: str
    level: Level
    text: str
    """The check's finding."""
    expectation: str = ""
    """The condition that has to hold."""
    time: datetime | None = None
    """The time at which the check ran; None if it is not known."""


class PopularComparison(NamedTuple):
    """The NDCG of the model, compared with the NDCG of popular items."""

    metric: str
    """The name of the NDCG, with the events that it counts."""
    model: Number
    popular: Number
    lead: Number | None
    """The model's lead over popular items; None if the two were not measured on the same users."""


class Page(BaseModel):
    """The content of the page."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    address: str
    """The address of the list, such as `shop` or `shop/newsletter`."""
    description: str | None = None
    made_at: datetime
    """The time at which the page was made."""
    edition: Edition
    """The live edition."""
    findings: tuple[Finding, ...]
    """The latest findings about the edition."""
    nights: tuple[ListedNight, ...]
    """The nights, oldest first."""
    changes: Changes | None = None
    """The changes since the edition that readers had before; None if that edition is not kept."""
    outcomes: tuple[Outcome, ...] = ()
    """The outcomes of the model's lists for each edition, newest last."""
    experiment: tuple[str, ...] = ()
    """Sentences on the results of an experiment."""
    people: People = People()
    checks: tuple[CheckResult, ...] = ()
    """The checks of all assets that the lists are made of."""
    missing_checks: tuple[str, ...] = ()
    """The names of the checks without a result."""
    has_newer_data: bool = False
    """Whether there are newer interactions than the lists were made from.

    The histories on the page show the newer interactions.
    """

    @property
    def verdict(self) -> Verdict:
        """The verdict on the lists: whether they can be sent."""
        return give_verdict(self.findings)

    @property
    def live_since(self) -> datetime:
        """The time since which people have these lists."""
        for night in reversed(self.nights):
            if night.is_of(self.edition):
                return night.time
        return self.edition.live_since

    @property
    def last_night(self) -> ListedNight | None:
        """The newest night; None if no night is known."""
        return self.nights[-1] if self.nights else None

    @property
    def open_findings(self) -> list[Finding]:
        """The findings that somebody should look at, the worst first.

        The findings also include other checks of the page that failed or warned.
        """
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
        """The engine that measured the model, and the tested users, in words."""
        edition = self.edition
        engine = describe_engine(edition.engine)
        people = describe_tested_users(None if edition.groups is None else edition.groups.tested)
        counted = f", by {join_words(edition.success)} alone" if edition.success else ""
        return f"Measured by {engine}, on {people}{counted}"

    @property
    def source(self) -> str:
        """The origin of the ratings, in words."""
        source = self.edition.source or "an unknown source"
        is_generated = source.startswith(GENERATED)
        return f"generated, no real people ({source})" if is_generated else source

    @property
    def newest_outcome(self) -> Outcome | None:
        """The outcome of the newest edition that has a hit rate; None if no edition has one."""
        for outcome in reversed(self.outcomes):
            if outcome.hit_rate is not None:
                return outcome
        return None

    @property
    def metrics(self) -> list[tuple[str, Number]]:
        """The measured metrics of the model, each with its name."""
        return [*_list_metrics(self.edition)]

    @property
    def comparison(self) -> PopularComparison | None:
        """The model compared with popular items; None if either was not measured."""
        edition = self.edition
        ndcg, popular = read_ndcg_number(edition), read_popular_ndcg_number(edition)
        if ndcg is None or popular is None:
            return None
        lead = measure_lead(edition)
        difference = None if lead is None else Number.of_estimate(lead.difference, "score")
        return PopularComparison(name_ndcg(edition.success), ndcg, popular, difference)

    @property
    def popular_name(self) -> str:
        """The name of the popular items that the model is compared with."""
        lead = measure_lead(self.edition)
        return "popular items" if lead is None else lead.over.removeprefix("the ")


def _list_metrics(edition: Edition) -> Iterator[tuple[str, Number]]:
    ndcg = read_ndcg_number(edition)
    if ndcg is not None:
        yield name_ndcg(edition.success), ndcg
    other_metrics: dict[str, tuple[str, Unit]] = {
        "precision_at_10": ("Precision@10", "share"),
        "mean_reciprocal_rank_at_25": ("MRR@25", "score"),
        COVERAGE: ("Coverage", "share"),
    }
    for key, (name, unit) in other_metrics.items():
        if key in edition.metrics:
            yield name, Number(value=edition.metrics[key], unit=unit)


def select_model_outcomes(outcomes: list[Outcome]) -> tuple[Outcome, ...]:
    """Return the outcomes of the model's lists, without the outcomes of an experiment's control."""
    return tuple(outcome for outcome in outcomes if outcome.arm == MODEL)
