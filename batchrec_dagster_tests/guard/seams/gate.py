"""The quality gate, which decides from measurements whether lists may be published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import polars as pl

from batchrec_dagster.config.publication import Gate
from batchrec_dagster.personalize import split
from batchrec_dagster.personalize.measured_ndcg import GroupSums
from batchrec_dagster.personalize.measurements import EMBEDDED_ENGINE, NDCG
from batchrec_dagster.steps.data.data_sizes import DataSize, check_not_shrunk
from batchrec_dagster.steps.judge.quality import ModelFacts, judge_quality
from batchrec_dagster.steps.judge.verdicts import judge_change
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster_tests.guard.seams.editions import (
    make_edition,
    make_groups,
    make_popularity,
)


@dataclass(frozen=True)
class Judgement:
    """The gate's decision, and its text."""

    is_refused: bool
    text: str


def judge_model(
    gate: Mapping[str, float],
    *,
    ndcg: float,
    coverage: float = 0.2,
    popular: float | None = None,
    recent_popular: float | None = None,
    published_ndcg: float | None = None,
    is_published: bool = False,
    is_comparable: bool = True,
    tested_users: int = 200,
    engine: str = "the embedded engine",
    publish_anyway: bool = False,
) -> Judgement:
    """Decide whether a model's lists may be published.

    gate: the settings of the block `gate`.
    ndcg, coverage: the model's metrics.
    popular, recent_popular: the NDCG of the most popular items of all time, and of the last 30
        days. Only the higher NDCG counts. None if it was not measured.
    published_ndcg: the NDCG of the model of the published lists; None if no lists are published.
    is_published: whether the model of the published lists is this model.
    is_comparable: whether the published model and this model were measured on the same kind of
        interactions.
    tested_users: the number of users that the model was measured on.
    engine: the engine that measured the model. Only the embedded engine reports measurements for
        groups of tested users.
    publish_anyway: whether somebody asked to publish in spite of the gate.
    """
    popularity = None if popular is None else make_popularity(popular, users=tested_users)
    if recent_popular is not None and recent_popular > (popular or 0.0):
        popularity = make_popularity(recent_popular, 0.01, tested_users, days=30)
    is_embedded = engine == EMBEDDED_ENGINE
    metrics = {NDCG: ndcg, "coverage": coverage}
    model = ModelRecord(
        made_of={},
        version="new",
        solution_version_arn="arn:new",
        data_version="data",
        metrics=metrics,
        engine=engine,
        groups=make_groups(ndcg, 0.01, tested_users) if is_embedded else None,
        measured_popularity=popularity,
    )
    published = None
    if published_ndcg is not None:
        published = make_edition(
            {
                "solution_version_arn": "arn:new" if is_published else "arn:old",
                "measured_on": "all" if is_comparable else "good ratings",
                "metrics": {NDCG: published_ndcg},
            }
        )
    facts = ModelFacts(model, "all", published, publish_anyway=publish_anyway)
    check = judge_quality(facts, Gate(**gate))
    return Judgement(check.blocks, check.text)


def judge_next_model(before: Mapping[str, float], now: Mapping[str, float]) -> tuple[bool, str]:
    """Return whether the published lists' model was better than the new model, and the text.

    If the published model was better, somebody should look at the new lists.

    before, now: the NDCG@25 of each tested user with the published and the new model, by user id.
    """
    groups = []
    for ndcg in (before, now):
        users = split.assign_groups(pl.Series([*ndcg]))
        counts, sums = split.sum_groups(users, np.array([*ndcg.values()]))
        groups.append(GroupSums(users=tuple(counts), ndcg=tuple(sums)))
    model = ModelRecord(
        made_of={},
        version="new",
        solution_version_arn="arn:new",
        data_version="data",
        metrics={NDCG: fmean(now.values())},
        groups=groups[1],
    )
    facts = {"solution_version_arn": "arn:old", "measured_on": "all", "groups": groups[0]}
    finding = judge_change(ModelFacts(model, "all", make_edition(facts)))
    return not finding.passed, finding.text


@dataclass(frozen=True)
class Sizes:
    """The size of a part of the data."""

    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers of distinct values, such as the number of different users."""
    filled: Mapping[str, int] = field(default_factory=dict)
    """The number of rows with a value in a column, by the column's setting."""
    events: Mapping[str, int] = field(default_factory=dict)
    """The number of rows of each event type."""


def _make_size(sizes: Sizes) -> DataSize:
    return DataSize(
        rows=sizes.rows, distinct=sizes.counts, events=sizes.events, values=sizes.filled
    )


def judge_sizes(
    sizes: Sizes, published: Sizes, max_shrink: float, *, publish_anyway: bool = False
) -> Judgement:
    """Decide whether the data may be imported.

    sizes: the size of the new data.
    published: the size of the data that the published lists were made from.
    max_shrink: the largest share of the data that may be lost.
    """
    check = check_not_shrunk(
        "items",
        _make_size(sizes),
        _make_size(published),
        "edition 7",
        max_shrink,
        how_to_publish_anyway="",
        publish_anyway=publish_anyway,
    )
    return Judgement(check.blocks, check.text)
