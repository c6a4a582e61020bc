"""Arms and intervals: known numbers, and how often an interval holds the truth."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import scipy  # scipy.stats, which takes a second, once it is used
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.personalize.split import GROUPS, assign_groups
from batchrec_dagster.steps.arms import CONTROL, assign_arm, assign_arms
from batchrec_dagster.steps.intervals import compare_means, estimate_ratio, estimate_share

USERS = pl.Series([f"user {number}" for number in range(20_000)])
TEST = Experiment(name="holdout")


def test_groups_are_even_and_independent_of_the_arms() -> None:
    groups = pl.Series(assign_groups(USERS))
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


def test_a_share_has_about_the_exact_interval_and_few_users_prove_nothing() -> None:
    for hits, users in ((30, 1000), (0, 50), (50, 50), (8, 20)):
        values = np.repeat([1.0, 0.0], [hits, users - hits])
        share = estimate_share(values, np.ones(users), users=users)
        exact = scipy.stats.binomtest(hits, users).proportion_ci(method="exact")
        assert share is not None
        assert (share.low, share.high) == pytest.approx((exact.low, exact.high), abs=0.05)
        assert share.low <= share.value <= share.high
    two = estimate_share([1.0, 1.0], [1.0, 1.0], users=2, least=-1.0)
    assert two is not None
    assert (two.low, two.high) == (-1, 1)


def test_a_difference_of_arms_is_about_welchs() -> None:
    chance = np.random.default_rng(2)
    first, second = chance.normal(5, 1, 100), chance.normal(4, 3, 100)
    ones = np.ones(100)
    difference, lift = compare_means((first, ones), (second, ones))
    welch = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    # Here a group has users of both arms, and chance makes them go together a little.
    assert (difference.low, difference.high) == pytest.approx((welch.low, welch.high), abs=0.1)
    assert lift is not None
    assert -1 < lift.low < lift.value < lift.high
    assert compare_means((first, ones), (0 * second, ones))[1] is None


def test_nothing_is_said_without_users_and_nothing_certain_with_one_group() -> None:
    assert estimate_ratio([0, 0], [0, 0]) is None
    assert estimate_share([], [], users=0) is None
    one_group = estimate_ratio([3, 0], [2, 0])
    assert one_group is not None
    assert (one_group.value, one_group.low, one_group.high) == (1.5, -math.inf, math.inf)
