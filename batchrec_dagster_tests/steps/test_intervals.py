"""Tests that every text has a group, and that intervals are those of known statistics."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy  # scipy.stats, which takes a second, once it is used
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.config.publication import Experiment
from batchrec_dagster.personalize.split import GROUPS, assign_groups
from batchrec_dagster.steps.judge.intervals import (
    estimate_ratio,
    estimate_share,
    find_student_quantile,
)
from batchrec_dagster.steps.outcomes.arms import CONTROL, assign_arm, assign_arms

USERS = pl.Series([f"user {number}" for number in range(20_000)])


@given(st.text(), st.text(max_size=5))
def test_every_text_is_in_an_arm_and_a_group(user: str, salt: str) -> None:
    test = Experiment(name="a", salt=salt, control_share=0.5)
    assert assign_arm(user, test) == assign_arms(pl.Series([user]), test).item()
    assert 0 <= assign_groups(pl.Series([user])).item() < GROUPS


def test_groups_are_even_and_independent_of_the_arms() -> None:
    groups = assign_groups(USERS)
    is_control = (assign_arms(USERS, Experiment(name="holdout")) == CONTROL).to_numpy()
    for members in (groups, groups[is_control]):
        counts = np.bincount(members, minlength=GROUPS)
        assert scipy.stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("freedom", [1, 2, *range(9, 100)])
def test_the_quantile_of_students_t_is_scipys(freedom: int) -> None:
    expected = scipy.stats.t.ppf(0.975, freedom)
    assert find_student_quantile(freedom) == pytest.approx(expected, rel=1e-9)


def test_intervals_are_those_of_student_and_about_the_exact_ones_of_shares() -> None:
    values = np.random.default_rng(1).exponential(size=50)
    mean = estimate_ratio(values, np.ones(50))
    assert mean is not None
    low, high = scipy.stats.t.interval(0.95, 49, values.mean(), scipy.stats.sem(values))
    assert (mean.low, mean.high) == pytest.approx((low, high))
    for hits, users in ((30, 1000), (0, 50), (50, 50), (8, 20)):
        chosen = np.repeat([1.0, 0.0], [hits, users - hits])
        share = estimate_share(chosen, np.ones(users), users=users)
        exact = scipy.stats.binomtest(hits, users).proportion_ci(method="exact")
        assert share is not None
        assert (share.low, share.high) == pytest.approx((exact.low, exact.high), abs=0.05)
    # Few users prove nothing, and a single group gives no interval.
    two = estimate_share([1.0, 1.0], [1.0, 1.0], users=2, least=-1.0)
    one_group = estimate_ratio([3, 0], [2, 0])
    assert two is not None
    assert one_group is not None
    assert (two.low, two.high) == (-1, 1)
    assert (one_group.value, one_group.ends) == (1.5, None)
    assert (estimate_ratio([0, 0], [0, 0]), estimate_share([], [], users=0)) == (None, None)
