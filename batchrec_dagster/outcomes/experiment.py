"""What an experiment shows.

All editions of the experiment are taken together. A user counts with each day on which they had its
lists, and is in the same group over all editions, so that the interval accounts for the same user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.outcomes.arms import CONTROL, MODEL
from batchrec_dagster.outcomes.estimates import (
    RateEstimate,
    estimate_difference,
    estimate_lift,
    estimate_ratio,
    to_rate,
)
from batchrec_dagster.outcomes.outcome import Rate

# Arms as uneven as in one of a thousand divisions by chance are a sign of a fault.
UNEVEN = 0.001
# How many groups of users an arm needs: what varies between fewer says little.
MIN_GROUPS = 10


@dataclass(frozen=True)
class Effect:
    """What a user does in a day, in each arm."""

    measure: str
    """What is counted, in words."""
    model: Rate
    control: Rate
    difference: Rate
    """model - control."""
    lift: Rate | None
    """model / control - 1; None if one of them is 0."""


@dataclass(frozen=True)
class ExperimentResult:
    """What the newest experiment shows."""

    name: str
    control: str
    """The setting `control`: what the control gets."""
    control_share: float
    since: str
    """What its periods start with, as of `Outcome`."""
    start: datetime
    end: datetime
    editions: int
    model_users: int
    """How many users its newest edition has in the arm of the model."""
    control_users: int
    uneven: bool
    """Whether the sizes of the arms differ by more than chance."""
    success: str = ""
    """The types of events that count alone; empty if all count."""
    other_editions: int = 0
    """How many editions of the experiment count other events. They are left out."""
    effects: list[Effect] = field(default_factory=list)
    """The main measure comes first. Empty if an arm has too few users."""


def summarize_experiment(sums: pl.DataFrame) -> ExperimentResult | None:
    """The result of the newest experiment; None if there is none.

    sums: with the columns of `outcomes.sums.SCHEMA`.
    """
    experiment_sums = sums.filter(pl.col("experiment") != "")
    if experiment_sums.is_empty():
        return None
    newest = experiment_sums.sort("start", "edition").row(-1, named=True)
    own_sums = experiment_sums.filter(
        pl.col("experiment") == newest["experiment"], pl.col("since") == newest["since"]
    )
    newest_sums = own_sums.filter(pl.col("success") == newest["success"])
    other_sums = own_sums.filter(pl.col("success") != newest["success"])
    experiment = Experiment.model_validate_json(newest["experiment"])
    last_period = (
        newest_sums.filter(start=newest["start"]).group_by("arm").agg(pl.col("users").sum())
    )
    sizes = {arm: int(users) for arm, users in last_period.iter_rows()}
    model, control = sizes.get(MODEL, 0), sizes.get(CONTROL, 0)
    from scipy import stats  # It takes half a second to import, and only experiments need it.

    chance = stats.binomtest(control, model + control, experiment.control_share).pvalue
    return ExperimentResult(
        experiment.name,
        experiment.control,
        experiment.control_share,
        newest["since"],
        datetime.fromtimestamp(int(newest_sums["start"].min()), UTC),  # type: ignore[arg-type]
        datetime.fromtimestamp(int(newest_sums["end"].max()), UTC),  # type: ignore[arg-type]
        newest_sums.get_column("name").n_unique(),
        model,
        control,
        bool(chance < UNEVEN),
        newest["success"],
        other_sums.get_column("name").n_unique(),
        [*_estimate_effects(newest_sums, experiment)],
    )


def _estimate_effects(newest_sums: pl.DataFrame, experiment: Experiment) -> list[Effect]:
    [success] = newest_sums.get_column("success").unique()
    of_type = f" of type {success}" if success else ""
    measures = {"interactions": f"interactions{of_type}"}
    has_values = not newest_sums.get_column("value").is_null().all()
    if has_values:
        measures["value"] = "event value"
    if experiment.control != "none":
        measures["hits"] = f"new interactions{of_type} on the list"
        if has_values:
            measures["hit_value"] = "event value of items on the list"
    effects = []
    for column, measure in measures.items():
        model, control = (
            _estimate_per_day(newest_sums.filter(arm=arm), column) for arm in (MODEL, CONTROL)
        )
        if model is None or control is None:
            return []
        if not min(model.degrees, control.degrees) >= MIN_GROUPS - 1:
            return []
        lift = estimate_lift(model, control)
        effects.append(
            Effect(
                measure,
                to_rate(model),
                to_rate(control),
                to_rate(estimate_difference(model, control)),
                None if lift is None else to_rate(lift),
            )
        )
    return effects


def _estimate_per_day(sums: pl.DataFrame, column: str) -> RateEstimate | None:
    """The mean of the column for a user in a day; None without users."""
    groups = (
        sums.drop_nulls(column)
        .with_columns(days=pl.col("users") * (pl.col("end") - pl.col("start")) / 86_400)
        .group_by("group")
        .agg(pl.col(column, "days").sum())
        .sort("group")
    )
    return estimate_ratio(groups.get_column(column), groups.get_column("days"))
