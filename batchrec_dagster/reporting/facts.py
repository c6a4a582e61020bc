"""The content of the report as numbers and text. `page` lays it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import polars as pl
from pydantic import PlainSerializer, PlainValidator

from batchrec_dagster.personalize.measurements import ALL, NDCG, Evidence
from batchrec_dagster.reporting.audience import Audience, count_audience
from batchrec_dagster.reporting.catalogue import Catalogue, count_catalogue
from batchrec_dagster.reporting.drift import DataFacts, Drift
from batchrec_dagster.reporting.editions import EditionDiff
from batchrec_dagster.reporting.people import MOST_PEOPLE, People, collect_people
from batchrec_dagster.reporting.provenance import Provenance
from batchrec_dagster.reporting.report_counts import count_tables
from batchrec_dagster.reporting.run_records import CheckRecord
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.reporting.sections import ReportSection
from batchrec_dagster.reporting.verdict import (
    PreviousEdition,
    Verdict,
    VerdictFacts,
    judge_edition,
)
from batchrec_dagster.storage.measured_popularity import MeasuredPopularity

# The check of the lists' lengths.
LISTS_FULL, ROWS_TITLED = "lists_full", "rows_titled"


@dataclass(frozen=True)
class ReportedRun:
    """What the report says about a run, apart from its tables."""

    pipeline: str
    description: str | None
    source: str
    """The source of the ratings, without secrets."""
    recipe: str
    """The recipe of the model."""
    report_time: datetime
    """When the report was made."""
    solution_version: str
    """The ARN of the model; empty without one."""
    metrics: Mapping[str, float]
    """The model's metrics, by Personalize's names."""
    recent: MeasuredPopularity | None = None
    """What recommending recent popular items reaches; None if it was not measured."""
    checks: Sequence[CheckRecord] = ()
    """The newest results of the checks."""
    earlier_data: bool = False
    """Whether the lists were made from earlier data than the interactions, as after a rollback."""
    training_time: datetime | None = None
    """When the model was trained, if that was on earlier data than those of the lists."""
    engine: str = "an unknown engine"
    """What trained and measured the model, in words."""
    evidence: Sequence[Evidence] = ()
    """How sure the metrics are; empty if that is not known."""
    success: Sequence[str] = ()
    """The types of events that the metrics count alone; all if empty."""
    uncounted: str = ""
    """A sentence that says why the metrics do not count the events of success alone."""
    edition: int = 0
    """The number of the published edition."""
    before: PreviousEdition | None = None
    """The edition before; None if none is kept."""
    unchanged: str | None = None
    """Which edition is still published, if this run published none."""
    restored: str | None = None
    """Since when readers have these lists again, as after a rollback; None if they are new."""
    overruled: Sequence[str] = ()
    """The names of the checks that refused these lists, which somebody published anyway."""
    full: int | None = None
    """Users whose list has all its items; None if unknown."""
    rows: int = 0
    """The rows of all lists, as they were published, and the results without a title; 0 where lists
    show none."""
    untitled: int = 0
    """How many results are left out, as they have no title although lists show it."""
    requested: int | None = None
    """Users whom lists were made for; None if unknown."""
    failed: int = 0
    """Users without a list because Personalize returned an error for them."""
    dropped: int = 0
    """Users whose list was removed after the edition was published."""
    newcomers: str | None = None
    """What users without interactions get, in sentences; None if that is the model's choice."""
    similar_items: str = ""
    """Which published lists of similar items the page shows, in words; empty if there are none."""

    @property
    def tested(self) -> Evidence | None:
        """The evidence over all tested users; None if there is none."""
        for evidence in self.evidence:
            if evidence.group == ALL:
                return evidence
        return None


@dataclass(frozen=True)
class Segment:
    """A segment of users."""

    name: str
    """The item or the value that the users are likely to be interested in."""
    title: str | None
    users: int
    """How many users it has."""
    first: list[str]
    """The ids of the most likely users."""


# A column of ids that pydantic reads and writes as a list.
Ids = Annotated[
    pl.Series,
    PlainValidator(lambda ids: pl.Series(ids, dtype=pl.String)),
    PlainSerializer(lambda ids: ids.to_list()),
]


@dataclass(frozen=True)
class Tallies:
    """What follows from the tables alone."""

    data: DataFacts
    audience: Audience
    catalogue: Catalogue
    people: People
    item_ids: Ids
    """The ids of the items in the interactions, sorted."""
    segments: list[Segment]


@dataclass(frozen=True)
class Facts(Tallies):
    """The whole report."""

    run: ReportedRun
    drift: Drift | None = None
    """What changed in the data since the last edition with different data."""
    changes: EditionDiff | None = None
    """What changed since the edition before."""
    sections: Sequence[ReportSection] = ()
    """Further sections, which the page shows before the users."""

    @property
    def provenance(self) -> Provenance:
        """What made the lists, and from which data."""
        tested = self.run.tested
        return Provenance(
            engine=self.run.engine,
            source=self.run.source,
            first=self.data.first,
            last=self.data.last,
            tested=tested.users if tested else None,
            success=self.run.success,
        )

    @property
    def requested(self) -> int:
        """Users whom the published lists were made for, without those who were dropped later.

        After a rollback these are not the users who were requested last.
        """
        if self.run.requested is None:
            return self.audience.requested
        return self.run.requested - self.run.dropped

    @property
    def warnings(self) -> list[str]:
        """A sentence for each check that warns."""
        return [
            f"The check {check.check} of {check.asset} warns: {check.message.rstrip('.')}."
            for check in self.run.checks
            if not check.passed
        ]

    @property
    def verdict(self) -> Verdict:
        """Whether the lists are good and safe to send."""
        return judge_edition(self.verdict_facts)

    @property
    def verdict_facts(self) -> VerdictFacts:
        """What the verdict is made from."""
        run = self.run
        top = self.catalogue.top
        is_known = run.unchanged or run.restored
        return VerdictFacts(
            ndcg=run.metrics.get(NDCG, 0.0),
            recent=run.recent,
            tested=run.tested,
            before=run.before,
            requested=self.requested,
            served=self.audience.served,
            failed=run.failed,
            dropped=run.dropped,
            full=run.full,
            rows=run.rows,
            untitled=run.untitled,
            top_lists=top.recommendations,
            top_histories=top.interactions,
            heaviest=self.audience.heaviest,
            drift=self.drift.large_changes if self.drift and not is_known else (),
            # The verdict says with numbers that lists are short, or have no titles.
            checks=[
                record.check
                for record in run.checks
                if not record.passed and record.check not in (LISTS_FULL, ROWS_TITLED)
            ],
            unchanged=run.unchanged,
            success=run.success,
            uncounted=run.uncounted,
            restored=run.restored,
            overruled=run.overruled,
        )


def combine_facts(run: ReportedRun, tallies: Tallies) -> Facts:
    """The report without the comparison with earlier ones."""
    return Facts(run=run, **vars(tallies))


def count_tallies(
    tables: RunTables, named_people: Sequence[str] = (), most_people: int = MOST_PEOPLE
) -> Tallies:
    """The tallies of the tables.

    named_people: the ids of users to look up, if they have a list.
    most_people: how many others there are at most.
    """
    counts = count_tables(tables)
    people = collect_people(tables, counts, named_people, most_people)
    return Tallies(
        data=counts.data,
        item_ids=counts.items.get_column("item").sort(),
        audience=count_audience(tables, counts),
        catalogue=count_catalogue(tables, counts),
        people=people,
        segments=_group_segments(tables.segments),
    )


FIRST_USERS = 10


def _group_segments(table: pl.DataFrame | None) -> list[Segment]:
    if table is None:
        return []
    return [
        Segment(
            name=str(name),
            title=group.get_column("title").item(0) if "title" in group.columns else None,
            users=group.height,
            first=group.sort("rank").get_column("user_id").head(FIRST_USERS).to_list(),
        )
        for (name,), group in table.group_by("segment", maintain_order=True)
    ]
