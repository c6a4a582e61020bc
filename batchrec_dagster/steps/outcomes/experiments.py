"""The results of experiments.

A result covers all editions of an experiment together. Each user counts with the days of every
period in which the user took part. A user is in the same group in all editions, so the interval
accounts for the dependence between the days of one user.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.steps.judge.intervals import compare_means, estimate_ratio
from batchrec_dagster.steps.outcomes.arms import CONTROL, MODEL

# The size of an arm may differ from its share by this many standard errors. By chance, the
# difference is larger only once in a thousand experiments, so a larger difference is a sign of a
# fault.
UNEVEN = 3.29
# An arm needs this many groups of users: the variation between fewer groups says little.
MIN_GROUPS = 10


class Effect(BaseModel, frozen=True):
    """A measure per user and day, compared between the arms."""

    measure: str
    """The measure in words, such as `event value`."""
    model: Estimate
    control: Estimate
    difference: Estimate
    """model - control."""
    lift: Estimate | None
    """model / control - 1; None if one of the two is 0, or becomes 0 without one group of users."""


class ExperimentResult(BaseModel, frozen=True):
    """The result of the newest experiment."""

    name: str
    control: str
    """The setting `control`: the kind of list that the control group gets."""
    control_share: float
    since: str
    """The start of the periods: `publication` of an edition, or the end of its `data`."""
    start: datetime
    end: datetime
    editions: int
    model_users: int
    """The number of users in the model's arm in the newest edition."""
    control_users: int
    """The number of users in the control arm in the newest edition."""
    uneven: bool
    """Whether the sizes of the arms differ from their shares by more than chance explains."""
    success: str = ""
    """The only types of events that count; empty if all types count."""
    other_editions: int = 0
    """The number of editions that are left out because they count other types of events."""
    effects: tuple[Effect, ...] = ()
    """The effects, the main measure first.

    Empty if an arm has users in fewer than MIN_GROUPS groups."""


def summarize_experiment(sums: pl.DataFrame) -> ExperimentResult | None:
    """Return the result of the newest experiment; None without any experiment.

    sums: a table with the columns of `outcome_sums.SUMS_SCHEMA`.
    """
    of_experiments = sums.filter(pl.col("experiment") != "")
    if of_experiments.is_empty():
        return None
    newest = of_experiments.sort("start", "edition").row(-1, named=True)
    of_newest = of_experiments.filter(experiment=newest["experiment"], since=newest["since"])
    counted = of_newest.filter(success=newest["success"])
    other_sums = of_newest.filter(pl.col("success") != newest["success"])
    experiment = Experiment.model_validate_json(newest["experiment"])
    sizes = dict(counted.filter(start=newest["start"]).group_by("arm").agg(_sum("users")).rows())
    model_users, control_users = int(sizes.get(MODEL, 0)), int(sizes.get(CONTROL, 0))
    return ExperimentResult(
        name=experiment.name,
        control=experiment.control,
        control_share=experiment.control_share,
        since=newest["since"],
        start=datetime.fromtimestamp(counted.select(pl.col("start").min()).item(), UTC),
        end=datetime.fromtimestamp(counted.select(pl.col("end").max()).item(), UTC),
        editions=counted.get_column("name").n_unique(),
        model_users=model_users,
        control_users=control_users,
        uneven=_is_uneven(model_users, control_users, experiment.control_share),
        success=newest["success"],
        other_editions=other_sums.get_column("name").n_unique(),
        effects=tuple(_estimate_effects(counted, experiment, newest["success"])),
    )


def _is_uneven(model_users: int, control_users: int, share: float) -> bool:
    """Return whether chance makes arms this uneven less than once in a thousand experiments."""
    users = model_users + control_users
    error = math.sqrt(users * share * (1 - share))
    return abs(control_users - users * share) > UNEVEN * error


def _estimate_effects(sums: pl.DataFrame, experiment: Experiment, success: str) -> list[Effect]:
    """Return the effect on each measure; no effects if an arm has users in too few groups.

    success: the only types of events that count; empty if all types count.
    """
    groups = _sum_groups(sums)
    user_days = {arm: groups[f"days_{arm}"] for arm in (MODEL, CONTROL)}
    if min((days > 0).sum() for days in user_days.values()) < MIN_GROUPS:
        return []
    effects = []
    for column, measure in _name_measures(sums, experiment, success).items():
        model, control = ((groups[f"{column}_{arm}"], user_days[arm]) for arm in (MODEL, CONTROL))
        means = estimate_ratio(*model), estimate_ratio(*control)
        assert means[0] is not None
        assert means[1] is not None
        difference, lift = compare_means(model, control)
        effects.append(
            Effect(
                measure=measure,
                model=means[0],
                control=means[1],
                difference=difference,
                lift=lift,
            )
        )
    return effects


def _name_measures(sums: pl.DataFrame, experiment: Experiment, success: str) -> Mapping[str, str]:
    """Return the columns of the sums to compare between the arms, each with a description."""
    of_type = f" of type {success}" if success else ""
    has_values = not sums.get_column("value").is_null().all()
    measures = {"interactions": f"interactions{of_type}"}
    if has_values:
        measures["value"] = "event value"
    if experiment.control != "none":
        measures["hits"] = f"new interactions{of_type} on the list"
        if has_values:
            measures["hit_value"] = "event value of items on the list"
    return measures


def _sum_groups(sums: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each group of users, with sums for each arm, such as hits_model.

    The columns days_model and days_control are sums over users of the days of their periods.
    """
    columns = ["days", "interactions", "value", "hits", "hit_value"]
    days = pl.col("users") * (pl.col("end") - pl.col("start")) / SECONDS_A_DAY
    sums = sums.with_columns(days=days)
    groups = sums.select("group").unique().sort("group")
    for arm in (MODEL, CONTROL):
        of_arm = sums.filter(arm=arm).group_by("group").agg(_sum(name) for name in columns)
        of_arm = of_arm.rename({name: f"{name}_{arm}" for name in columns})
        groups = groups.join(of_arm, on="group", how="left", maintain_order="left")
    return groups.fill_null(0.0)


def _sum(column: str) -> pl.Expr:
    return pl.col(column).sum()
