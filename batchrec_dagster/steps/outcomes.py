"""Compares each published edition with what its users did after it."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.config import PublishedList
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.outcomes.arms import UserGroups
from batchrec_dagster.outcomes.experiment import ExperimentResult, summarize_experiment
from batchrec_dagster.outcomes.outcome import SCHEMA, Outcome
from batchrec_dagster.outcomes.outcome_estimates import estimate_outcomes
from batchrec_dagster.outcomes.periods import Period, find_periods
from batchrec_dagster.outcomes.sums import SCHEMA as SUMS_SCHEMA
from batchrec_dagster.personalize.file_formats import scan_interactions
from batchrec_dagster.personalize.schemas import TIMESTAMP
from batchrec_dagster.steps.batches import read_users_without_lists
from batchrec_dagster.steps.outcome_sums import LaterInteractions, PeriodLists, sum_period
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.layout import ListFiles


@dataclass(frozen=True)
class MeasuredOutcomes:
    """What came of the published editions."""

    sums: pl.DataFrame
    """With the columns of `outcomes.sums.SCHEMA`."""
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


def measure_outcomes(work: Work, published: PublishedList) -> MeasuredOutcomes:
    """Measure every edition of the list that is kept.

    What was measured of other editions before stays, also if it counts other events.

    Raises UserError.
    """
    files = work.files_of(published)
    with work.storage.local_file(files.interactions) as path:
        editions = files.editions.live_and_older()
        interactions = scan_interactions(path)
        success = work.pipeline.solution.success
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        periods = find_periods(editions, newest, files.editions.record().publications)
        last_sums = read_sums(files)
        parts = [last_sums.filter(~pl.col("name").is_in([edition.name for edition in editions]))]
        if periods:
            known_until = [period.known_until for period in periods]
            since = min(min(period.start, period.known_until) for period in periods)
            later = LaterInteractions(interactions, since, known_until, success)
            groups = UserGroups()
            parts += [
                sum_period(period, _read_lists(files, period), later, groups) for period in periods
            ]
        measured = pl.concat(parts).sort("start", "edition", "arm", "group")
        if not measured.equals(last_sums):
            files.write_parquet(files.keys.outcome_sums, measured)
    return MeasuredOutcomes(measured, [*estimate_outcomes(measured)])


def _read_lists(files: ListFiles, period: Period) -> PeriodLists:
    edition = period.edition
    # Who was dropped later counts too: what an edition brought must not change afterwards.
    whole = files.editions.find_whole_copy(edition)
    rows = files.editions.read_rows(whole).select("user_id", "rank", "item_id")
    users_without, experiment = pl.Series("user_id", [], pl.String), None
    if edition.experiment is not None:
        experiment = Experiment.model_validate(edition.experiment)
        users_without = read_users_without_lists(files, edition)
    return PeriodLists(rows, users_without, experiment, edition.exclude_seen)


MEASURE_AGAIN = (
    "delete it, and run the refresh, which measures the kept editions again; what was measured of"
    " older ones is lost"
)


def read_sums(files: ListFiles) -> pl.DataFrame:
    """The sums that an earlier run measured, which may have no rows.

    They have the columns of `outcomes.sums.SCHEMA`. Raises UserError.
    """
    sums = files.parquet(files.keys.outcome_sums, MEASURE_AGAIN)
    return pl.DataFrame(schema=SUMS_SCHEMA) if sums is None else sums
