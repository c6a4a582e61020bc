"""What an experiment shows.

All editions of the experiment are taken together. A user counts with each day on which they had its
lists, and is in the same group over all editions, so that the interval accounts for the same user.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.steps.arms import CONTROL, MODEL
from batchrec_dagster.steps.intervals import compare_means, estimate_ratio
from batchrec_dagster.storage.estimate import Estimate

# By how many standard errors the size of an arm may differ from its share. Chance makes it differ
# more once in a thousand times, so that a larger difference is a sign of a fault.
UNEVEN = 3.29
# How many groups of users an arm needs: what varies between fewer says little.
MIN_GROUPS = 10


class Effect(BaseModel, frozen=True):
    """What a user does in a day, in each arm."""

    measure: str
    """What is counted, in words."""
    model: Estimate
    control: Estimate
    difference: Estimate
    """model - control."""
    lift: Estimate | None
    """model / control - 1; None if one of them is 0."""


class ExperimentResult(BaseModel, frozen=True):
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
    effects: tuple[Effect, ...] = ()
    """The main measure comes first. Empty if an arm has too few users."""


def summarize_experiment(sums: pl.DataFrame) -> ExperimentResult | None:
    """The result of the newest experiment; None if there is none.

    sums: with the columns of `outcome_sums.SUMS_SCHEMA`.
    """
    of_experiments = sums.filter(pl.col("experiment") != "")
    if of_experiments.is_empty():
        return None
    newest = of_experiments.sort("start", "edition").row(-1, named=True)
    of_newest = of_experiments.filter(experiment=newest["experiment"], since=newest["since"])
    counted = of_newest.filter(success=newest["success"])
    others = of_newest.filter(pl.col("success") != newest["success"])
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
        other_editions=others.get_column("name").n_unique(),
        effects=tuple(_estimate_effects(counted, experiment, newest["success"])),
    )


def _is_uneven(model_users: int, control_users: int, share: float) -> bool:
    """Whether the arms are as uneven as chance makes them in one of a thousand divisions."""
    users = model_users + control_users
    error = math.sqrt(users * share * (1 - share))
    return abs(control_users - users * share) > UNEVEN * error


def _estimate_effects(sums: pl.DataFrame, experiment: Experiment, success: str) -> list[Effect]:
    """What users did in each arm; empty if an arm has too few users.

    success: the types of events that count alone; empty if all count.
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
    """The columns of the sums that arms are compared by, and what they count, in words."""
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
    """A row for each group of users, with the sums of each arm, such as hits_model.

    Those of days are of the days for which each user had a list.
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
