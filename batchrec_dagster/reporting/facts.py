"""All that the report tells, as numbers and text; how it looks is the page's affair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.reporting.catalogue import Offer, offer
from batchrec_dagster.reporting.counts import Audience, Counts, audience, counts
from batchrec_dagster.reporting.history import Training, Verdict
from batchrec_dagster.reporting.people import MOST_PEOPLE, People, people
from batchrec_dagster.reporting.published import Tables

NDCG = "normalized_discounted_cumulative_gain_at_25"
# A drop of the NDCG by a tenth since the model before is worth a look.
DROP = 0.9


@dataclass(frozen=True)
class Run:
    """What is told of a run beside its tables. metrics, popularity: by Personalize's names;
    trainings: the models so far, oldest first, this one last; earlier_data: whether the
    lists are of other data than the tables' interactions, as after a rollback; trained: when the
    model was trained, if on earlier data than the lists were inferred with."""

    pipeline: str
    description: str | None
    source: str
    recipe: str
    made: datetime
    solution_version: str
    metrics: Mapping[str, float]
    popularity: Mapping[str, float]
    trainings: Sequence[Training] = ()
    verdicts: Sequence[Verdict] = ()
    earlier_data: bool = False
    trained: datetime | None = None


@dataclass(frozen=True)
class Data:
    """The interactions of the tables: how many, and the days of the first and the last."""

    interactions: int
    users: int
    items: int
    first: str
    last: str


@dataclass(frozen=True)
class Segment:
    """A segment: what it is of, how many users are in it, and the ids of the first of them."""

    of: str
    title: str | None
    users: int
    first: list[str]


@dataclass(frozen=True)
class Facts:
    """The whole report."""

    run: Run
    data: Data
    audience: Audience
    offer: Offer
    people: People
    segments: list[Segment] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What someone should look at, in words; empty when all is well."""
        run = self.run
        told = [
            f"The check {verdict.check} of {verdict.asset} warns: {verdict.found}."
            for verdict in run.verdicts
            if not verdict.passed
        ]
        ndcg, popular = run.metrics.get(NDCG, 0.0), run.popularity.get(NDCG)
        if popular is not None and ndcg <= popular:
            told.append(
                f"The model is not better than showing everyone the most popular items: NDCG@25 is"
                f" {ndcg:.4f}, beside {popular:.4f}."
            )
        before = run.trainings[-2].metrics.get("ndcg_at_25", 0.0) if len(run.trainings) > 1 else 0
        if ndcg < DROP * before:
            told.append(
                f"The model is worse than the one before: NDCG@25 was {before:.4f} and is"
                f" {ndcg:.4f}."
            )
        without = self.audience.asked - self.audience.served
        if without > 0:
            told.append(f"{without:,} of {self.audience.asked:,} users got no list.")
        return told


def facts(run: Run, tables: Tables, most_people: int = MOST_PEOPLE) -> Facts:
    """Count all that the report tells; at most `most_people` can be looked at one by one."""
    counted = counts(tables)
    return Facts(
        run=run,
        data=_data(counted),
        audience=audience(tables, counted),
        offer=offer(tables, counted),
        people=people(tables, counted, most_people),
        segments=_segments(tables.segments),
    )


def _data(counted: Counts) -> Data:
    return Data(
        interactions=int(counted.users.get_column("interactions").sum()),
        users=counted.users.height,
        items=counted.items.height,
        first=_day(counted.first),
        last=_day(counted.last),
    )


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


FIRST_USERS = 10


def _segments(table: pl.DataFrame | None) -> list[Segment]:
    if table is None:
        return []
    return [
        Segment(
            of=str(of),
            title=group.get_column("title").item(0) if "title" in group.columns else None,
            users=group.height,
            first=group.sort("rank").get_column("user_id").head(FIRST_USERS).to_list(),
        )
        for (of,), group in table.group_by("segment", maintain_order=True)
    ]
