"""Compares each published edition with what its users did after it."""

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
    """What came of the published editions."""

    sums: pl.DataFrame
    """The columns of steps/outcome_sums.py."""
    outcomes: list[Outcome]
    """The oldest comes first."""

    @property
    def experiment(self) -> ExperimentResult | None:
        """What the newest experiment shows."""
        return summarize_experiment(self.sums)

    @property
    def table(self) -> pl.DataFrame:
        """A row for each outcome."""
        return pl.DataFrame([outcome.row() for outcome in self.outcomes], schema=SCHEMA)


def measure_outcomes(work: Work) -> MeasuredOutcomes:
    """Measure every edition that is kept. What was measured of other editions before stays.

    Raises StorageError.
    """
    files = work.files
    with work.storage.local_file(files.interactions) as path:
        editions = [edition for edition in [files.table.current(), *files.table.older()] if edition]
        interactions = scan_interactions(path).select(USER_ID, ITEM_ID, TIMESTAMP)
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        periods = find_periods(editions, newest, Rollbacks(files).read_times())
        last_sums = read_sums(files)
        parts = [last_sums.filter(~pl.col("name").is_in([edition.name for edition in editions]))]
        if periods:
            known_until = [period.known_until for period in periods]
            since = min(min(period.start, period.known_until) for period in periods)
            later = LaterInteractions(interactions, since, known_until)
            groups = UserGroups()
            parts += [
                sum_period(period, _read_lists(work, period), later, groups) for period in periods
            ]
        measured = pl.concat(parts).sort("start", "edition", "arm", "group")
        if not measured.equals(last_sums):
            files.write_parquet(files.storage_keys.outcome_sums, measured)
    return MeasuredOutcomes(measured, [*estimate_outcomes(measured)])


def _read_lists(work: Work, period: Period) -> PeriodLists:
    about = period.edition.about
    exclude_seen = about.get("exclude_seen", work.pipeline.recommendations.exclude_seen)
    rows = work.files.table.read_edition(period.edition).select("user_id", "rank", "item_id")
    users_without, experiment = pl.Series("user_id", [], pl.String), None
    if "experiment" in about:
        experiment = Experiment.model_validate(about["experiment"])
        users_without = read_users_without_lists(work, period.edition)
    return PeriodLists(rows, users_without, experiment, bool(exclude_seen))


MEASURE_AGAIN = (
    "delete it, and run the refresh, which measures the kept editions again; what was measured of"
    " older ones is lost"
)


def read_sums(files: PipelineFiles) -> pl.DataFrame:
    """The sums that an earlier run measured, which may have no rows.

    They have the columns of outcome_sums.SCHEMA. Raises StorageError.
    """
    sums = files.parquet(files.storage_keys.outcome_sums, MEASURE_AGAIN)
    return pl.DataFrame(schema=SUMS_SCHEMA) if sums is None else sums


def estimate_outcomes(sums: pl.DataFrame) -> Iterator[Outcome]:
    """Yield the outcome of each period and arm."""
    keys = ["start", "end", "edition", "since", "experiment", "length", "arm"]
    for values, part in sums.group_by(keys, maintain_order=True):
        yield _estimate_outcome(dict(zip(keys, values, strict=True)), part)


def _estimate_outcome(key: Mapping[str, Any], part: pl.DataFrame) -> Outcome:
    experiment = Experiment.model_validate_json(key["experiment"]) if key["experiment"] else None
    active = float(part["active"].sum())
    without_lists = (
        experiment is not None and experiment.control == "none" and key["arm"] == CONTROL
    )

    def estimate(numerator: str, denominator: str) -> Rate | None:
        if without_lists:
            return None
        return estimate_share(part[numerator], part[denominator], active)

    def estimate_popular(numerator: str, denominator: str) -> float | None:
        share = estimate_share(part[numerator], part[denominator], active)
        return None if share is None else share.value

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
        hit_rate=estimate("hit_users", "active"),
        recall=estimate("recall", "active"),
        list_share=estimate("hits", "new"),
        gain=None if without_lists else _estimate_gain(part, active),
        popular_hit_rate=estimate_popular("popular_hit_users", "active"),
        popular_recall=estimate_popular("popular_recall", "active"),
        popular_list_share=estimate_popular("popular_hits", "new"),
    )


def _estimate_gain(part: pl.DataFrame, active: float) -> Rate | None:
    """hit_rate - popular_hit_rate.

    Each user counts as -1, 0 or 1. Scaled to 0 to 1 it is a share, whose interval is right for few
    users too.
    """
    gained = part["hit_users"] - part["popular_hit_users"]
    share = estimate_share((gained + part["active"]) / 2, part["active"], active)
    if share is None:
        return None
    return Rate(2 * share.value - 1, 2 * share.low - 1, 2 * share.high - 1)
