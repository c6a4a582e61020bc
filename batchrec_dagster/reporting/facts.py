"""The content of the report as numbers and text; `page` lays it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import dagster as dg
import polars as pl
from pydantic import PlainSerializer, PlainValidator

from batchrec_dagster.personalize.evidence import ALL, NDCG, Evidence
from batchrec_dagster.reporting.editions import DataFacts, Drift, EditionDiff
from batchrec_dagster.reporting.markdown import unescape
from batchrec_dagster.reporting.people import MOST_PEOPLE, People, collect_people
from batchrec_dagster.reporting.published import RunTables
from batchrec_dagster.reporting.sections import ReportSection
from batchrec_dagster.reporting.statistics import (
    Audience,
    Catalogue,
    count_audience,
    count_catalogue,
    count_tables,
)
from batchrec_dagster.reporting.verdict import (
    PreviousEdition,
    Provenance,
    Verdict,
    VerdictFacts,
    judge_edition,
)

LISTS_FULL = "lists_full"
MOST_TRAININGS = 20
# Materializations to read: most of them reuse a model that an earlier one trained.
MOST_MATERIALIZATIONS = 200


@dataclass(frozen=True)
class TrainingRecord:
    """A solution version as Dagster remembers it.

    made: when it first appeared; metrics: by their names in the UI (ndcg_at_25, precision_at_10,
    mrr_at_25, coverage; with the prefix popularity_, those of popularity); interactions: the
    pipeline's settings of that name.
    """

    arn: str
    made: datetime
    recipe: str
    metrics: dict[str, float]
    interactions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckRecord:
    """The newest result of an asset check."""

    asset: str
    check: str
    passed: bool
    message: str


def read_trainings(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[TrainingRecord]:
    """The newest solution versions, each once, oldest first."""
    trainings_by_arn: dict[str, TrainingRecord] = {}
    # Newest first, so that the oldest materialization of each remains.
    for record in instance.fetch_materializations(key, limit=MOST_MATERIALIZATIONS).records:
        if record.asset_materialization is None:
            continue
        metadata: dict[str, Any] = {
            name: value.value for name, value in record.asset_materialization.metadata.items()
        }
        arn = str(metadata.get("solution_version_arn", ""))
        numbers = {k: float(v) for k, v in metadata.items() if isinstance(v, (int, float))}
        trainings_by_arn[arn] = TrainingRecord(
            arn,
            datetime.fromtimestamp(record.timestamp, UTC),
            str(metadata.get("recipe", "")),
            numbers,
            metadata.get("interactions", {}),
        )
    return sorted(trainings_by_arn.values(), key=lambda training: training.made)[-MOST_TRAININGS:]


def read_check_records(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]
) -> list[CheckRecord]:
    """The newest result of each check that has run."""
    records = []
    for key in checks:
        record = instance.get_latest_asset_check_evaluation_record(key)
        evaluation = record.evaluation if record else None
        # A check planned in a run under way has no evaluation yet.
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            asset, message = key.asset_key.path[-1], unescape(evaluation.description or "")
            records.append(CheckRecord(asset, key.name, evaluation.passed, message))
    return records


@dataclass(frozen=True)
class ReportedRun:
    """What the report says about a run, apart from its tables.

    metrics, popularity: of the model and of recommending the most popular items, by Personalize's
    names; trainings: the models so far, oldest first, this one last; checks: the newest results;
    earlier_data: whether the lists were made from earlier data than the interactions, as after a
    rollback; trained: when the model was trained, if on earlier data than the lists'; engine: what
    trained and measured the model, in words; evidence: how sure the metrics are, where known;
    edition: its number; before, unchanged, full: see VerdictFacts; requested: the users whom lists
    were made for, None if unknown.
    """

    pipeline: str
    description: str | None
    source: str
    recipe: str
    made: datetime
    solution_version: str
    metrics: Mapping[str, float]
    popularity: Mapping[str, float]
    trainings: Sequence[TrainingRecord] = ()
    checks: Sequence[CheckRecord] = ()
    earlier_data: bool = False
    trained: datetime | None = None
    engine: str = "an unknown engine"
    evidence: Sequence[Evidence] = ()
    edition: int = 0
    before: PreviousEdition | None = None
    unchanged: str | None = None
    full: int | None = None
    requested: int | None = None

    @property
    def tested(self) -> Evidence | None:
        """The evidence over all tested users."""
        return next((one for one in self.evidence if one.group == ALL), None)


@dataclass(frozen=True)
class Segment:
    """A user segment: the item or value it is for, its number of users, the ids of the best."""

    name: str
    title: str | None
    users: int
    first: list[str]


Ids = Annotated[
    pl.Series,
    PlainValidator(lambda ids: pl.Series(ids, dtype=pl.String)),
    PlainSerializer(lambda ids: ids.to_list()),
]


@dataclass(frozen=True)
class Tallies:
    """What follows from the tables alone. item_ids: of the interactions, sorted."""

    data: DataFacts
    audience: Audience
    catalogue: Catalogue
    people: People
    item_ids: Ids
    segments: list[Segment]


@dataclass(frozen=True)
class Facts(Tallies):
    """The whole report.

    drift: since the last run with other data; changes: since the edition before; sections: more of
    them, which stand before the users.
    """

    run: ReportedRun
    drift: Drift | None = None
    changes: EditionDiff | None = None
    sections: Sequence[ReportSection] = ()

    @property
    def provenance(self) -> Provenance:
        tested = self.run.tested
        return Provenance(
            self.run.engine,
            self.run.source,
            self.data.first,
            self.data.last,
            tested.users if tested else None,
        )

    @property
    def requested(self) -> int:
        """Users who should get one of these lists. After a rollback there may be newer users."""
        return self.audience.requested if self.run.requested is None else self.run.requested

    @property
    def warnings(self) -> list[str]:
        """The checks that warn, in sentences; empty when none does."""
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
        run, top = self.run, self.catalogue.exposure.top
        return VerdictFacts(
            ndcg=run.metrics.get(NDCG, 0.0),
            popular=run.popularity.get(NDCG),
            tested=run.tested,
            before=run.before,
            requested=self.requested,
            served=self.audience.served,
            full=run.full,
            top_lists=top.recommendations,
            top_histories=top.interactions,
            heaviest=self.audience.heaviest,
            drift=self.drift.large_changes if self.drift and not run.unchanged else (),
            # That lists are short is said with numbers.
            checks=[c.check for c in run.checks if not c.passed and c.check != LISTS_FULL],
            unchanged=run.unchanged,
        )


def combine_facts(run: ReportedRun, tallies: Tallies) -> Facts:
    """Everything in the report but what compares it with earlier ones."""
    return Facts(run=run, **vars(tallies))


def count_tallies(tables: RunTables, most_people: int = MOST_PEOPLE) -> Tallies:
    """Count everything in the report, with at most `most_people` users to look up."""
    counts = count_tables(tables)
    return Tallies(
        data=counts.data,
        item_ids=counts.items.get_column("item").sort(),
        audience=count_audience(tables, counts),
        catalogue=count_catalogue(tables, counts),
        people=collect_people(tables, counts, most_people),
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
