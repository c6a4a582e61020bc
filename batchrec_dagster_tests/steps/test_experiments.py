"""Experiments in a world whose rule is known: how often the interval holds the true lift."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.reporting.insight.experiment import ExperimentState
from batchrec_dagster.reporting.insight.outcomes import describe_control, describe_result
from batchrec_dagster.steps.arms import CONTROL, MODEL, UserGroups, assign_arms
from batchrec_dagster.steps.experiments import (
    ExperimentResult,
    summarize_experiment,
)
from batchrec_dagster.steps.outcome_periods import PUBLICATION, Period
from batchrec_dagster.steps.outcome_sums import (
    LaterInteractions,
    PeriodLists,
    sum_period,
)
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.editions import make_edition

DAY = 86_400
NIGHTS, ITEMS, LENGTH = 14, 200, 5
SEEDS = repeats(50, 20)


def simulate_world(seed: int, lift: float, users: int = 600) -> pl.DataFrame:
    """The sums of 14 nights, of people of whom some do much and others little, every night alike.

    Half of what they do is from their list. The lists of the model make each person do more, by the
    share `lift` on average.
    """
    chance = np.random.default_rng(seed)
    experiment = Experiment(name=f"seed{seed}", control_share=0.3)
    ids = pl.Series([f"u{number}" for number in range(users)])
    factor = np.where(assign_arms(ids, experiment) == MODEL, 1 + lift, 1.0)
    activity = chance.gamma(1.5, 0.3, users) * factor
    lists = np.array([chance.permutation(ITEMS)[:LENGTH] for _ in range(users)])
    user_rows = np.repeat(np.arange(users), NIGHTS)
    night = np.tile(np.arange(NIGHTS), users)
    clicks = chance.poisson(activity[user_rows])
    user_rows, night = np.repeat(user_rows, clicks), np.repeat(night, clicks)
    own = lists[user_rows, chance.integers(0, LENGTH, len(user_rows))]
    item = np.where(
        chance.random(len(user_rows)) < 0.5, own, chance.integers(0, ITEMS, len(user_rows))
    )
    later_interactions = LaterInteractions(
        pl.LazyFrame(
            {
                "USER_ID": ids.gather(user_rows),
                "ITEM_ID": pl.Series(item).cast(pl.String),
                "TIMESTAMP": night * DAY + chance.integers(1, DAY, len(user_rows)),
            }
        ),
        0,
        30,
    )
    rows = pl.LazyFrame(
        {
            "user_id": ids.gather(np.repeat(np.arange(users), LENGTH)),
            "rank": np.tile(np.arange(1, LENGTH + 1), users),
            "item_id": pl.Series(lists.ravel()).cast(pl.String),
        }
    )
    nobody = pl.Series("user_id", [], pl.String)
    period_lists = PeriodLists(rows, nobody, experiment, exclude_seen=False)
    sums = []
    for night_number in range(NIGHTS):
        period = Period(
            make_edition({"number": night_number + 1, "version": "v"}),
            0,
            night_number * DAY,
            (night_number + 1) * DAY,
            PUBLICATION,
        )
        sums.append(sum_period(period, period_lists, later_interactions, UserGroups()))
    return pl.concat(sums)


def simulate_results(lift: float) -> list[ExperimentResult]:
    summaries = [summarize_experiment(simulate_world(seed, lift)) for seed in range(SEEDS)]
    return [summary for summary in summaries if summary is not None]


def covers_lift(result: ExperimentResult, lift: float, measure: int = 0) -> bool:
    interval = result.effects[measure].lift
    assert interval is not None
    return interval.low <= lift <= interval.high


@pytest.mark.slow
def test_the_interval_holds_the_true_lift() -> None:
    results = simulate_results(0.2)
    assert len(results) == SEEDS
    for measure in (0, 1):
        assert sum(covers_lift(result, 0.2, measure) for result in results) >= 0.9 * SEEDS
    lifts = [result.effects[0].lift.value for result in results if result.effects[0].lift]
    assert np.mean(lifts) == pytest.approx(0.2, abs=0.04)
    assert not any(result.uneven for result in results)


@pytest.mark.slow
def test_equal_arms_are_not_said_to_differ_more_often_than_by_chance() -> None:
    results = simulate_results(0.0)
    for measure in (0, 1):
        # More than 6 of 50 would come by chance once in 80 times, more than 3 of 20 once in 60.
        uncovered = sum(not covers_lift(result, 0.0, measure) for result in results)
        assert uncovered <= repeats(6, 3)


def test_a_result_is_that_of_a_plain_count() -> None:
    table = simulate_world(1, 0.2)
    summary = summarize_experiment(table)
    assert summary is not None
    assert (summary.editions, summary.name) == (NIGHTS, "seed1")
    assert summary.model_users + summary.control_users == 600
    totals = table.group_by("arm").agg(pl.col("interactions").sum(), pl.col("hits").sum())
    for arm, interactions, hits in totals.iter_rows():
        users = {MODEL: summary.model_users, CONTROL: summary.control_users}[arm]
        for effect, count in zip(summary.effects, (interactions, hits), strict=True):
            assert getattr(effect, arm).value == pytest.approx(count / users / NIGHTS)


def test_a_result_is_said_with_its_interval_and_its_doubts() -> None:
    table = simulate_world(1, 0.8)
    result = summarize_experiment(table)
    summary_without_lift = summarize_experiment(simulate_world(2, 0.0))
    assert result is not None
    assert summary_without_lift is not None
    (sizes, effect, hits) = describe_result(result)
    lift = result.effects[0].lift
    assert lift is not None
    assert f"{result.control_users} in the control get the most popular items" in sizes
    interval = f"95% interval {lift.low:+.1%} to {lift.high:+.1%}"
    assert f"a lift of {lift.value:+.1%} ({interval}; 1970-01-01 to 1970-01-15, 14 " in effect
    assert effect.startswith("Interactions per user and day: ")
    assert hits.startswith("New interactions on the list per user and day: ")
    doubtful = result.model_copy(update={"since": "data", "uneven": True, "effects": ()})
    assert [line.split(":")[0].split(",")[0] for line in describe_result(doubtful)][1:] == [
        "Do not trust it",
        "The data end before the lists were published",
        "One of the arms has too few users to compare.",
    ]
    assert "no certain difference: " in [*describe_result(summary_without_lift)][1]

    measured = " ".join(ExperimentState("shop", result.name, result).sentences)
    assert "nothing is measured" not in measured
    assert sizes in measured
    (without,) = ExperimentState("shop", None, None).sentences
    assert "There is no experiment" in without
    (unmeasured,) = ExperimentState("shop", "first", None).sentences
    assert "lists are of the experiment first, of which nothing is measured yet" in unmeasured
    newer = " ".join(ExperimentState("shop", "second", result).sentences)
    assert "lists are of the experiment second, of which nothing is measured yet" in newer


def test_a_newer_experiment_and_other_kinds_of_periods_are_apart() -> None:
    table = simulate_world(1, 0.2)
    assert summarize_experiment(table.clear()) is None
    assert summarize_experiment(table.with_columns(experiment=pl.lit(""))) is None
    replay = table.with_columns(since=pl.lit("data"), start=pl.col("start") - 90 * DAY)
    older = table.with_columns(
        experiment=pl.lit(Experiment(name="old").model_dump_json()),
        start=pl.col("start") - 40 * DAY,
    )
    assert summarize_experiment(pl.concat([older, replay, table])) == summarize_experiment(table)


def test_without_enough_users_in_the_control_there_is_no_effect() -> None:
    table = simulate_world(1, 0.2)
    few = (pl.col("arm") == MODEL) | (pl.col("group") < 9)
    for part in (pl.col("arm") == MODEL, few):
        summary = summarize_experiment(table.filter(part))
        assert summary is not None
        assert summary.effects == ()
        assert summary.uneven


def test_an_experiment_says_which_popular_items_its_control_gets() -> None:
    def describe(number: int, name: str = "holdout", **facts: Any) -> Edition:
        experiment = {"name": name, "control": "popular"}
        return make_edition({"number": number, "experiment": experiment, **facts})

    old, new = (describe(number, popularity={"days": 30}) for number in (1, 2))
    assert [*describe_control([new, old, describe(3, "other")], "holdout")] == [
        "In edition 2 these are the most popular items of the last 30 days."
    ]
    assert not [*describe_control([], "holdout")]
