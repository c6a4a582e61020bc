"""Holds each published edition against what its users did after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from batchrec_dagster.config.recommendations import Experiment
from batchrec_dagster.outcomes.arms import CONTROL
from batchrec_dagster.outcomes.estimates import estimate_share
from batchrec_dagster.outcomes.experiment import ExperimentResult, summarize_experiment
from batchrec_dagster.outcomes.outcome import SCHEMA, Outcome, Rate
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID, scan_interactions
from batchrec_dagster.steps.batches import read_users_without_lists
from batchrec_dagster.steps.outcome_sums import SCHEMA as SUMS_SCHEMA
from batchrec_dagster.steps.outcome_sums import (
    LaterInteractions,
    Period,
    PeriodLists,
    UserGroups,
    find_periods,
    sum_period,
)
from batchrec_dagster.steps.publishing import Rollbacks
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.paths import PipelineFiles


@dataclass(frozen=True)
class MeasuredOutcomes:
    """The outcomes, oldest first. sums: see steps/outcome_sums.py; table: a row for each of
    `estimate_outcomes`."""

    sums: pl.DataFrame
    outcomes: list[Outcome]

    @property
    def experiment(self) -> ExperimentResult | None:
        """What the newest experiment shows."""
        return summarize_experiment(self.sums)

    @property
    def table(self) -> pl.DataFrame:
        return pl.DataFrame([one.row() for one in self.outcomes], schema=SCHEMA)


def measure_outcomes(work: Work) -> MeasuredOutcomes:
    """Measure every edition that is kept; what was measured of others before, stays. Raises
    StorageError."""
    files = work.files
    with work.storage.local_file(files.interactions) as path:
        editions = [edition for edition in [files.table.current(), *files.table.older()] if edition]
        interactions = scan_interactions(path).select(USER_ID, ITEM_ID, TIMESTAMP)
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        spans = find_periods(editions, newest, Rollbacks(files).times())
        before = read_sums(files)
        found = [before.filter(~pl.col("name").is_in([edition.name for edition in editions]))]
        if spans:
            known = [span.known_until for span in spans]
            since = min(min(span.start, span.known_until) for span in spans)
            later, hashed = LaterInteractions(interactions, since, known), UserGroups()
            found += [sum_period(span, _read_lists(work, span), later, hashed) for span in spans]
        measured = pl.concat(found).sort("start", "edition", "arm", "group")
        if not measured.equals(before):
            files.write_parquet(files.places.outcome_sums, measured)
    return MeasuredOutcomes(measured, [*estimate_outcomes(measured)])


def _read_lists(work: Work, period: Period) -> PeriodLists:
    about = period.edition.about
    excluded = about.get("exclude_seen", work.pipeline.recommendations.exclude_seen)
    rows = work.files.table.read_edition(period.edition).select("user_id", "rank", "item_id")
    without, experiment = pl.Series("user_id", [], pl.String), None
    if "experiment" in about:
        experiment = Experiment.model_validate(about["experiment"])
        without = read_users_without_lists(work, period.edition)
    return PeriodLists(rows, without, experiment, bool(excluded))


MEASURE_AGAIN = (
    "delete it, and run the refresh, which measures the kept editions again; what was measured of"
    " older ones is lost"
)


def read_sums(files: PipelineFiles) -> pl.DataFrame:
    """What an earlier run measured, with the columns of outcome_sums.SCHEMA; may have no rows.
    Raises StorageError."""
    found = files.parquet(files.places.outcome_sums, MEASURE_AGAIN)
    return pl.DataFrame(schema=SUMS_SCHEMA) if found is None else found


def estimate_outcomes(sums: pl.DataFrame) -> Iterator[Outcome]:
    """The outcome of each period and arm."""
    keys = ["start", "end", "edition", "since", "experiment", "length", "arm"]
    for values, part in sums.group_by(keys, maintain_order=True):
        yield _estimate_outcome(dict(zip(keys, values, strict=True)), part)


def _estimate_outcome(key: Mapping[str, Any], part: pl.DataFrame) -> Outcome:
    experiment = Experiment.model_validate_json(key["experiment"]) if key["experiment"] else None
    active = float(part["active"].sum())
    without_lists = (
        experiment is not None and experiment.control == "none" and key["arm"] == CONTROL
    )

    def own(of: str, to: str) -> Rate | None:
        return None if without_lists else estimate_share(part[of], part[to], active)

    def popular(of: str, to: str) -> float | None:
        found = estimate_share(part[of], part[to], active)
        return None if found is None else found.value

    return Outcome(
        edition=key["edition"],
        since=key["since"],
        start=datetime.fromtimestamp(key["start"], UTC),
        end=datetime.fromtimestamp(key["end"], UTC),
        experiment=experiment.name if experiment else "",
        arm=key["arm"],
        list_length=key["length"],
        users=int(part["users"].sum()),
        active_users=int(active),
        interactions=int(part["interactions"].sum()),
        new_interactions=int(part["new"].sum()),
        on_list=int(part["hits"].sum()),
        hit_rate=own("hit_users", "active"),
        recall=own("recall", "active"),
        list_share=own("hits", "new"),
        gain=None if without_lists else _estimate_gain(part, active),
        popular_hit_rate=popular("popular_hit_users", "active"),
        popular_recall=popular("popular_recall", "active"),
        popular_list_share=popular("popular_hits", "new"),
    )


def _estimate_gain(part: pl.DataFrame, active: float) -> Rate | None:
    """hit_rate less popular_hit_rate: each user counts -1, 0 or 1. Stretched to 0 to 1 it is a
    share, whose interval is honest for a few users too."""
    gained = part["hit_users"] - part["popular_hit_users"]
    found = estimate_share((gained + part["active"]) / 2, part["active"], active)
    if found is None:
        return None
    return Rate(*(2 * one - 1 for one in (found.value, found.low, found.high)))
