"""Estimates with 95% intervals, from sums over groups of users.

The actions of a user depend on each other, within a day and over many days, so intervals must count
users and not actions. A hash always assigns a user to the same group. The uncertainty comes from
the variation between the groups, so dependencies within a group do no harm. The calculation needs
only a few numbers for each group. It uses no random numbers, so the same data give the same
intervals.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from batchrec_dagster.personalize.estimate import Estimate, measure_error

LEVEL = 0.95

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def measure_margin(value: float, without_group: Floats, least_error: float = 0.0) -> float:
    """Return half the width of a number's interval; infinite with fewer than two groups.

    without_group: the number's values when each group of users in turn is left out.
    least_error: the standard error to use if the groups give a smaller standard error.
    """
    groups = len(without_group)
    if groups < 2:
        return math.inf
    error = max(measure_error(value, without_group.tolist()), least_error)
    return find_student_quantile(groups - 1) * error


@cache
def find_student_quantile(freedom: int) -> float:
    """Return the half width, in standard errors, of an interval by Student's t distribution.

    The interval covers the share LEVEL of the distribution. The share between -t and t is a finite
    series in the cosine of the angle atan(t / sqrt(freedom)). Bisection finds the angle whose share
    is LEVEL. Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and
    26.7.4.

    freedom: the degrees of freedom.
    """
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        if _measure_share_within(angle, freedom) < LEVEL:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan(angle)


def _measure_share_within(angle: float, freedom: int) -> float:
    """Return the share of Student's t distribution between -t and t.

    angle: atan(t / sqrt(freedom)).
    """
    is_odd = freedom % 2
    term, total = math.cos(angle) if is_odd else 1.0, 0.0
    for power in range(is_odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if is_odd else share


def estimate_ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate | None:
    """Return the sum of the numerators divided by the sum of the denominators.

    Returns None if all denominators are 0. The estimate has no interval with fewer than two groups.

    numerators, denominators: sums over the users of each group, in the same order of groups.
    """
    tops, bottoms = _select_counted(numerators, denominators)
    if not len(bottoms):
        return None
    return _estimate(float(tops.sum() / bottoms.sum()), _leave_each_out(tops, bottoms))


def estimate_share(
    numerators: ArrayLike, denominators: ArrayLike, users: float, least: float = 0.0
) -> Estimate | None:
    """Estimate the mean over users of values that lie between `least` and 1.

    The mean is the sum of the numerators divided by the sum of the denominators. The mean and its
    interval stay between `least` and 1. The result is None if all denominators are 0.

    The standard error is at least 2 / users: a few users who agree prove little, because the next
    two users might be different.

    users: the number of measured users.
    least: the lowest value that a user can have.
    """
    tops, bottoms = _select_counted(numerators, denominators)
    if not len(bottoms):
        return None
    value = min(max(float(tops.sum() / bottoms.sum()), least), 1.0)
    margin = measure_margin(value, _leave_each_out(tops, bottoms), 2 / max(users, 1.0))
    return Estimate(value=value, low=max(value - margin, least), high=min(value + margin, 1.0))


def compare_means(
    model: tuple[ArrayLike, ArrayLike], control: tuple[ArrayLike, ArrayLike]
) -> tuple[Estimate, Estimate | None]:
    """Return the difference of the means of two arms and the lift.

    The difference is model - control, and the lift is model / control - 1. The interval of the lift
    is computed for its logarithm, so the interval stays above -1. The lift is None if a mean is 0,
    or becomes 0 without one of the groups.

    model, control: the numerators and denominators of each group of users, in the same order.
    """
    means, means_without = [], []
    for numerators, denominators in (model, control):
        tops, bottoms = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
        means.append(float(tops.sum() / bottoms.sum()))
        means_without.append(_leave_each_out(tops, bottoms))
    difference = _estimate(means[0] - means[1], means_without[0] - means_without[1])
    if min(means) <= 0 or min(map(np.min, means_without)) <= 0:
        return difference, None
    logarithm = math.log(means[0] / means[1])
    margin = measure_margin(logarithm, np.log(means_without[0] / means_without[1]))
    value, low, high = (
        math.expm1(min(end, 700.0)) for end in (logarithm, logarithm - margin, logarithm + margin)
    )
    return difference, Estimate(value=value, low=low, high=high)


def _estimate(value: float, without_group: Floats) -> Estimate:
    return Estimate.around(value, measure_margin(value, without_group))


def _select_counted(numerators: ArrayLike, denominators: ArrayLike) -> tuple[Floats, Floats]:
    """Return the numerators and denominators of the groups with a denominator above 0."""
    tops, bottoms = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    return tops[bottoms > 0], bottoms[bottoms > 0]


def _leave_each_out(tops: Floats, bottoms: Floats) -> Floats:
    """Return the ratios when each group in turn is left out; empty with fewer than two groups."""
    if len(bottoms) < 2:
        return np.zeros(0)
    without_group: Floats = (tops.sum() - tops) / (bottoms.sum() - bottoms)
    return without_group
