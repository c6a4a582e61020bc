"""Arms and intervals: known numbers, and how often an interval holds the truth."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import scipy  # scipy.stats, which takes a second, once it is used
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.outcomes.arms import (
    CONTROL,
    GROUPS,
    assign_arm,
    assign_arms,
    assign_groups,
)
from batchrec_dagster.outcomes.estimates import (
    estimate_difference,
    estimate_lift,
    estimate_ratio,
    estimate_share,
)

USERS = pl.Series([f"user {number}" for number in range(20_000)])
TEST = Experiment(name="holdout")


def test_groups_are_even_and_independent_of_the_arms() -> None:
    groups = assign_groups(USERS)
    assert groups.unique().sort().to_list() == [*range(GROUPS)]
    counts = [*pl.Series(groups.value_counts()["count"])]
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    group_control = pl.DataFrame({"group": groups, "control": assign_arms(USERS, TEST) == CONTROL})
    per_group = group_control.group_by("group").agg(pl.col("control").sum())["control"]
    assert scipy.stats.chisquare(per_group.to_list()).pvalue > 0.001


@given(st.text(), st.text(max_size=5))
def test_every_text_is_in_an_arm_and_a_group(user: str, salt: str) -> None:
    test = Experiment(name="a", salt=salt, control_share=0.5)
    assert assign_arm(user, test) == assign_arms(pl.Series([user]), test).item()
    assert 0 <= assign_groups(pl.Series([user])).item() < GROUPS


def test_of_groups_of_one_user_each_a_mean_has_the_interval_of_students_t() -> None:
    values = np.random.default_rng(1).exponential(size=50)
    estimate = estimate_ratio(values, np.ones(50))
    assert estimate is not None
    low, high = scipy.stats.t.interval(0.95, 49, values.mean(), scipy.stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_a_share_of_single_users_has_the_exact_interval() -> None:
    hits = np.repeat([1.0, 0.0], [30, 970])
    estimate = estimate_share(hits, np.ones(1000), users=1000)
    assert estimate is not None
    exact = scipy.stats.binomtest(30, 1000).proportion_ci(method="exact")
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high), abs=2e-3)
    for value in (0.0, 1.0):
        estimate = estimate_share(np.full(20, value), np.ones(20), users=50)
        exact = scipy.stats.binomtest(int(50 * value), 50).proportion_ci(method="exact")
        assert estimate is not None
        assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))


def test_a_difference_is_welchs() -> None:
    chance = np.random.default_rng(2)
    first, second = chance.normal(5, 1, 90), chance.normal(4, 3, 40)
    means = [estimate_ratio(values, np.ones(len(values))) for values in (first, second)]
    assert means[0] is not None
    assert means[1] is not None
    estimate = estimate_difference(means[0], means[1])
    welch = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((welch.low, welch.high))


def test_nothing_is_said_without_users_and_nothing_certain_with_one_group() -> None:
    assert estimate_ratio([0, 0], [0, 0]) is None
    assert estimate_share([], [], users=0) is None
    estimate = estimate_ratio([3, 0], [2, 0])
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == (1.5, -math.inf, math.inf)
    two = estimate_ratio([1, 2], [1, 1])
    assert two is not None
    assert estimate_difference(estimate, two).high == math.inf
    no_estimate = estimate_ratio([0, 0], [1, 1])
    assert no_estimate is not None
    assert estimate_lift(two, no_estimate) is None
