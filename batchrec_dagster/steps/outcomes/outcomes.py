"""The outcomes of published editions: how often users later chose items from their lists."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.personalize.schemas import SECONDS_A_DAY, TIMESTAMP
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.judge.intervals import estimate_ratio, estimate_share
from batchrec_dagster.steps.judge.quality import Behaviour
from batchrec_dagster.steps.outcomes.arms import CONTROL, MODEL, UserGroups
from batchrec_dagster.steps.outcomes.experiments import ExperimentResult, summarize_experiment
from batchrec_dagster.steps.outcomes.periods import Period, find_periods
from batchrec_dagster.steps.outcomes.sums import (
    SUMS_SCHEMA,
    LaterInteractions,
    PeriodLists,
    format_events,
    sum_period,
)
from batchrec_dagster.steps.outcomes.users_without_lists import read_users_without_lists
from batchrec_dagster.steps.thresholds import RECENT_DAYS
from batchrec_dagster.storage.objects import DamagedObjectError

log = logging.getLogger(__name__)

# The consequence of deleting damaged sums, for an error message.
MEASURED_AGAIN = "the kept editions are measured again, and older numbers are lost"
# The fields of an outcome that have an interval.
RATES = (
    "hit_rate",
    "recall",
    "list_share",
    "gain",
    "popular_hit_rate",
    "event_value",
    "list_event_value",
)
# The column types of fields that hold no float. All other columns, such as rates, hold floats.
_TYPES: dict[object, pl.DataType] = {
    int: pl.Int64(),
    str: pl.String(),
    datetime: pl.Datetime("us", "UTC"),
}


class Outcome(BaseModel, frozen=True):
    """The interactions of an arm's users in the period of an edition, compared with their lists.

    The fields named popular_… say what the rates would be if everyone had got the items that were
    popular when the edition was made. If nobody was active, all rates but the event values are
    None. If the arm had no lists, the rates of its lists are None, and the fields named popular_…
    still have values.
    """

    edition: int
    since: str
    """`publication` if the period starts with the edition's publication, `data` if the period
    starts with the end of the edition's data."""
    start: datetime
    """The start of the period (UTC). Only interactions after the start count."""
    end: datetime
    """The end of the period (UTC). Interactions after the end do not count."""
    experiment: str
    """The experiment's name; empty without an experiment."""
    arm: str
    list_length: int
    """The number of items on the longest list."""
    users: int
    """The number of users in the arm. Users without a list count only in an experiment."""
    active_users: int
    """The number of users with a new interaction."""
    interactions: int
    """The number of interactions that the users had in the period."""
    new_interactions: int
    """The number of distinct items that users chose in the period, summed over users.

    If lists leave out the items that their user had, such items do not count."""
    on_list: int
    """The number of new interactions with an item on the user's list."""
    hit_rate: Estimate | None
    """The share of active users who chose an item from their list."""
    recall: Estimate | None
    """The share of a user's new interactions with items on the user's list, as a mean over active
    users."""
    list_share: Estimate | None
    """The share of all new interactions that were with an item on the user's list."""
    gain: Estimate | None
    """hit_rate - popular_hit_rate."""
    popular_hit_rate: Estimate | None
    popular_recall: float | None
    popular_list_share: float | None
    success: str = ""
    """The only types of events that count; empty if all types count."""
    event_value: Estimate | None = None
    """The sum of EVENT_VALUE per user and day. This field and the next two are None unless there
    are events of success with values."""
    list_event_value: Estimate | None = None
    """The sum of EVENT_VALUE per user and day over interactions with the items of hits."""
    popular_event_value: float | None = None
    """The list_event_value that lists of popular items would have had."""

    def row(self) -> dict[str, object]:
        """Return the table row of this outcome.

        A rate takes three columns: NAME, NAME_low and NAME_high.
        """
        row: dict[str, object] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name not in RATES:
                row[name] = value
                continue
            for column, part in _list_columns(name):
                row[column] = None if value is None else getattr(value, part)
        return row


def _list_columns(name: str) -> list[tuple[str, str]]:
    """Return the columns of a rate, each with the field of `Estimate` that it holds."""
    return [(name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")]


SCHEMA = {
    column: _TYPES.get(field.annotation, pl.Float64())
    for name, field in Outcome.model_fields.items()
    for column, _ in (_list_columns(name) if name in RATES else [(name, "")])
}


@dataclass(frozen=True)
class MeasuredOutcomes:
    """The measured outcomes of all published editions."""

    sums: pl.DataFrame
    """The sums by period, arm and group of users, with the columns of SUMS_SCHEMA."""
    outcomes: list[Outcome]
    """The outcomes by period and arm, oldest first."""

    @property
    def experiment(self) -> ExperimentResult | None:
        """The result of the newest experiment; None without any experiment."""
        return summarize_experiment(self.sums)

    @property
    def table(self) -> pl.DataFrame:
        """The table of outcomes, with a row for each outcome."""
        return pl.DataFrame([outcome.row() for outcome in self.outcomes], schema=SCHEMA)


def measure_outcomes(step: StepContext, published: ListTable) -> MeasuredOutcomes:
    """Measure the outcomes of every kept edition of the list, and store the sums.

    Earlier measurements of editions that are no longer kept stay, even if they count other types of
    events.

    Raises UserError.
    """
    files, pipeline = step.files_of(published), step.pipeline
    with step.storage.local_file(files.interactions) as path:
        editions = files.editions.live_and_older()
        interactions = scan_interactions(path)
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        periods = find_periods(editions, newest, files.editions.record().publications)
        last_sums = read_sums(files)
        measured_again = {edition.name for edition in editions}
        parts: list[pl.DataFrame] = []
        if periods:
            since = min(min(period.start, period.known_until) for period in periods)
            days, success = pipeline.popularity.days, pipeline.solution.success
            later, groups = LaterInteractions(interactions, since, days, success), UserGroups()
            for period in periods:
                try:
                    parts.append(sum_period(period, _read_lists(files, period), later, groups))
                except (DamagedObjectError, pl.exceptions.PolarsError) as error:
                    edition = period.edition
                    log.warning(f"{edition.uri} is damaged, and is not measured again: {error}")
                    measured_again.discard(edition.name)
        is_kept = ~pl.col("name").is_in(sorted(measured_again))
        measured = pl.concat([last_sums.filter(is_kept), *parts]).sort(
            "start", "edition", "arm", "group"
        )
        if not measured.equals(last_sums):
            files.write_parquet(files.keys.outcome_sums, measured)
    return MeasuredOutcomes(measured, [*estimate_outcomes(measured)])


def _read_lists(files: ListFiles, period: Period) -> PeriodLists:
    """Read the lists of the period's edition. Raises UserError."""
    edition = period.edition
    # Users who were dropped later count too: the outcome of an edition must not change afterwards.
    whole = files.editions.find_whole_copy(edition)
    rows = files.editions.read_rows(whole).select("user_id", "rank", "item_id")
    users_without, experiment = pl.Series("user_id", [], pl.String), None
    if edition.experiment is not None:
        experiment = Experiment.model_validate(edition.experiment)
        users_without = read_users_without_lists(files, edition)
    return PeriodLists(rows, users_without, experiment, edition.exclude_seen)


def read_sums(files: ListFiles) -> pl.DataFrame:
    """Read the sums that earlier runs measured: a table with the columns of SUMS_SCHEMA.

    The table is empty if there are no sums. If the stored sums are damaged, log a warning and
    return an empty table, because lists must not fail for lack of outcomes. Raises UserError.
    """
    try:
        sums = files.read_parquet(files.keys.outcome_sums, MEASURED_AGAIN)
    except DamagedObjectError as error:
        log.warning(str(error))
        sums = None
    return pl.DataFrame(schema=SUMS_SCHEMA) if sums is None else sums


def estimate_outcomes(sums: pl.DataFrame) -> Iterator[Outcome]:
    """Yield the outcome of each period and arm.

    sums: a table with the columns of SUMS_SCHEMA.
    """
    keys = ["start", "end", "edition", "since", "experiment", "length", "arm", "success"]
    for values, part in sums.group_by(keys, maintain_order=True):
        yield _estimate_outcome(dict(zip(keys, values, strict=True)), part)


def pool_outcomes(sums: pl.DataFrame, success: Sequence[str]) -> Behaviour | None:
    """Return the outcome of all recent editions together, as evidence of the users' behaviour.

    Returns None if nobody was active, or if so few users were active that nothing can be concluded.

    sums: a table with the columns of SUMS_SCHEMA.
    success: the types of events that count as success. Sums that count other types are left out.
    """
    counted = sums.filter(arm=MODEL, success=format_events(success))
    since = pl.col("end").max() - RECENT_DAYS.value * SECONDS_A_DAY
    counted = counted.filter(pl.col("end") > since)
    groups = counted.group_by("group").agg(pl.col("hit_users", "popular_hit_users", "active").sum())
    # A user counts as 1 if only the user's list had a hit, and as -1 if only the list of popular
    # items had one. Other users count as 0.
    gained, active = groups["hit_users"] - groups["popular_hit_users"], groups["active"]
    users = int(active.sum())
    gain = estimate_share(gained, active, users, least=-1.0)
    # An interval from -1 to 1 excludes nothing.
    if gain is None or gain.ends == (-1, 1):
        return None
    editions = counted.get_column("edition").n_unique()
    return Behaviour(gain, users, editions)


def _estimate_outcome(key: Mapping[str, Any], part: pl.DataFrame) -> Outcome:
    """Return the outcome of a period and an arm.

    key: the values that all rows of the part have in common, by column.
    part: the sums of the period and arm: a row for each group of users, with the columns of
        SUMS_SCHEMA.
    """
    experiment = Experiment.model_validate_json(key["experiment"]) if key["experiment"] else None
    active = int(part["active"].sum())
    has_lists = experiment is None or experiment.control != "none" or key["arm"] != CONTROL
    user_days = part["users"] * ((key["end"] - key["start"]) / SECONDS_A_DAY)
    # A user counts as 1 if only the user's list had a hit, and as -1 if only the list of popular
    # items had one. Other users count as 0.
    gained = part["hit_users"] - part["popular_hit_users"]

    def estimate_mean(
        numerators: pl.Series, of: str = "active", least: float = 0.0
    ) -> Estimate | None:
        return estimate_share(numerators, part[of], active, least)

    def estimate_value(column: str) -> Estimate | None:
        if part[column].is_null().all():
            return None
        return estimate_ratio(part[column].fill_null(0), user_days)

    popular_value = estimate_value("popular_hit_value")
    popular_recall = estimate_mean(part["popular_recall"])
    popular_list_share = estimate_mean(part["popular_hits"], of="new")
    return Outcome(
        edition=key["edition"],
        since=key["since"],
        start=datetime.fromtimestamp(key["start"], UTC),
        end=datetime.fromtimestamp(key["end"], UTC),
        experiment=experiment.name if experiment else "",
        arm=key["arm"],
        list_length=key["length"],
        users=int(part["users"].sum()),
        active_users=active,
        interactions=int(part["interactions"].sum()),
        new_interactions=int(part["new"].sum()),
        on_list=int(part["hits"].sum()),
        hit_rate=estimate_mean(part["hit_users"]) if has_lists else None,
        recall=estimate_mean(part["recall"]) if has_lists else None,
        list_share=estimate_mean(part["hits"], of="new") if has_lists else None,
        gain=estimate_mean(gained, least=-1.0) if has_lists else None,
        popular_hit_rate=estimate_mean(part["popular_hit_users"]),
        popular_recall=None if popular_recall is None else popular_recall.value,
        popular_list_share=None if popular_list_share is None else popular_list_share.value,
        success=key["success"],
        event_value=estimate_value("value"),
        list_event_value=estimate_value("hit_value") if has_lists else None,
        popular_event_value=None if popular_value is None else popular_value.value,
    )
