"""What an experiment shows, and how many users one needs.

All editions of the experiment are taken together: a user counts with each day on which they had its
lists, in one group over all editions, so that the interval knows that it is the same user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.config.recommendations import Experiment
from batchrec_dagster.outcomes.arms import CONTROL, MODEL
from batchrec_dagster.outcomes.estimates import (
    RateEstimate,
    count_users_needed,
    estimate_difference,
    estimate_lift,
    estimate_ratio,
    to_rate,
)
from batchrec_dagster.outcomes.outcome import Rate

LIFTS = (0.01, 0.02, 0.05, 0.1, 0.2)
# Arms as uneven as in one of a thousand divisions by chance are a sign of a fault.
UNEVEN = 0.001
# Groups of users that an arm needs: what varies between fewer says little.
FEWEST = 10


@dataclass(frozen=True)
class Effect:
    """What a user does in a day, in each arm. lift: model / control - 1; None if one is 0."""

    measure: str
    model: Rate
    control: Rate
    difference: Rate
    lift: Rate | None


@dataclass(frozen=True)
class ExperimentResult:
    """The newest experiment. control, control_share: its settings; since: as of Period;
    model_users, control_users: of its newest edition; uneven: whether the arms' sizes differ by
    more than chance; effects: the main measure first; none if an arm has too few users."""

    name: str
    control: str
    control_share: float
    since: str
    start: datetime
    end: datetime
    editions: int
    model_users: int
    control_users: int
    uneven: bool
    effects: list[Effect]


@dataclass(frozen=True)
class ExperimentPlan:
    """How many users an experiment takes that lasts as long as the measured periods.

    interactions: of a user in a day; users: on the lists; days: measured; needed: (lift, users);
    smallest: the lift that the users there are can show.
    """

    interactions: float
    users: int
    days: float
    control_share: float
    needed: Sequence[tuple[float, int]]
    smallest: float


def summarize_experiment(sums: pl.DataFrame) -> ExperimentResult | None:
    """The result of the newest experiment in the outcomes' sums; None if there is none."""
    own = sums.filter(pl.col("experiment") != "")
    if own.is_empty():
        return None
    newest = own.sort("start", "edition").row(-1, named=True)
    same = [pl.col(name) == newest[name] for name in ("experiment", "since")]
    own = own.filter(*same)
    experiment = Experiment.model_validate_json(newest["experiment"])
    last = own.filter(start=newest["start"]).group_by("arm").agg(pl.col("users").sum())
    sizes = {arm: int(users) for arm, users in last.iter_rows()}
    model, control = sizes.get(MODEL, 0), sizes.get(CONTROL, 0)
    from scipy import stats  # half a second, for experiments alone

    chance = stats.binomtest(control, model + control, experiment.control_share).pvalue
    return ExperimentResult(
        experiment.name,
        experiment.control,
        experiment.control_share,
        newest["since"],
        datetime.fromtimestamp(int(own["start"].min()), UTC),  # type: ignore[arg-type]
        datetime.fromtimestamp(int(own["end"].max()), UTC),  # type: ignore[arg-type]
        own.get_column("name").n_unique(),
        model,
        control,
        bool(chance < UNEVEN),
        [*_estimate_effects(own, experiment)],
    )


def _estimate_effects(own: pl.DataFrame, experiment: Experiment) -> list[Effect]:
    measures = {"interactions": "interactions"}
    if experiment.control != "none":
        measures["hits"] = "new interactions on the list"
    found = []
    for column, measure in measures.items():
        model, control = (
            _estimate_per_day(own.filter(arm=arm), column) for arm in (MODEL, CONTROL)
        )
        if model is None or control is None:
            return []
        if not min(model.degrees, control.degrees) >= FEWEST - 1:
            return []
        more = estimate_lift(model, control)
        found.append(
            Effect(
                measure,
                to_rate(model),
                to_rate(control),
                to_rate(estimate_difference(model, control)),
                None if more is None else to_rate(more),
            )
        )
    return found


def plan_experiment(sums: pl.DataFrame, control_share: float) -> ExperimentPlan | None:
    """For the next experiment, from the newest kind of periods; None if nobody did anything."""
    if sums.is_empty():
        return None
    of_kind = sums.filter(pl.col("since") == sums.sort("start")["since"][-1])
    measured = _estimate_per_day(of_kind, "interactions")
    if measured is None or not measured.value or not measured.variance > 0:
        return None
    periods = of_kind.unique(["name", "start"])
    days = float((periods["end"] - periods["start"]).sum()) / 86_400
    users = float((of_kind["users"] * (of_kind["end"] - of_kind["start"])).sum()) / 86_400 / days
    needed = [(each, count_users_needed(measured, users, each, control_share)) for each in LIFTS]
    least, most = needed[0]
    return ExperimentPlan(
        measured.value, round(users), days, control_share, needed, least * math.sqrt(most / users)
    )


def _estimate_per_day(sums: pl.DataFrame, column: str) -> RateEstimate | None:
    """The column's mean of a user in a day."""
    groups = (
        sums.with_columns(days=pl.col("users") * (pl.col("end") - pl.col("start")) / 86_400)
        .group_by("group")
        .agg(pl.col(column, "days").sum())
        .sort("group")
    )
    return estimate_ratio(groups.get_column(column), groups.get_column("days"))
