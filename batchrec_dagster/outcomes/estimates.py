"""Rates with 95% intervals, estimated from sums over groups of users."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from batchrec_dagster.outcomes.outcome import Rate

# The level of intervals.
LEVEL = 0.95


@dataclass(frozen=True)
class RateEstimate:
    """A rate, or a difference of rates, and its 95% interval, from sums over groups of users.

    A user's actions depend on each other, within a night and over nights, so intervals must count
    users and not actions. Users are hashed into groups that stay the same, and the uncertainty is
    what varies between the groups, whatever the dependencies within them. This takes a few numbers
    for each group and no random numbers, so the same data give the same intervals.

    Sources: delete-a-group jackknife: Kott, "The delete-a-group jackknife", Journal of Official
    Statistics 17 (2001). Shares: Korn and Graubard, "Confidence intervals for proportions with
    small expected number of positive counts estimated from survey data", Survey Methodology 24
    (1998). Differences of two arms: Welch, Biometrika 34 (1947), with Satterthwaite's degrees of
    freedom.
    """

    value: float
    low: float
    high: float
    variance: float = math.nan
    """The variance of `value`; nan if it is unknown, as with one group."""
    degrees: float = math.nan
    """The degrees of freedom of the variance."""


def to_rate(estimate: RateEstimate) -> Rate:
    """The estimate without its variance."""
    return Rate(estimate.value, estimate.low, estimate.high)


def estimate_ratio(numerators: ArrayLike, denominators: ArrayLike) -> RateEstimate | None:
    """The sum of the numerators divided by that of the denominators, with a t interval.

    None if all denominators are 0.

    numerators, denominators: sums over the users of each group, in the same order of groups.
    """
    tops, bottoms = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    is_counted = bottoms > 0
    tops, bottoms = tops[is_counted], bottoms[is_counted]
    group_count = len(bottoms)
    if not group_count:
        return None
    value = float(tops.sum() / bottoms.sum())
    degrees = group_count - 1
    if not degrees:
        return RateEstimate(value, -math.inf, math.inf)
    ratios_without_group = (tops.sum() - tops) / (bottoms.sum() - bottoms)
    variance = float(degrees / group_count * ((ratios_without_group - value) ** 2).sum())
    return _estimate_with_interval(value, variance, degrees)


def estimate_share(numerators: ArrayLike, denominators: ArrayLike, users: float) -> Rate | None:
    """As `estimate_ratio`, for a share: its interval is within 0 and 1, also if it is 0 or 1.

    users: how many users it was measured on.
    """
    from scipy import special  # It belongs to an extra.

    ratio = estimate_ratio(numerators, denominators)
    if ratio is None:
        return None
    value, variance = min(max(ratio.value, 0.0), 1.0), ratio.variance
    size = users
    if variance > 0 and 0 < value < 1:
        factor = special.ndtri((1 + LEVEL) / 2) / special.stdtrit(ratio.degrees, (1 + LEVEL) / 2)
        # The users of a simple random sample with this variance.
        size = value * (1 - value) / variance * factor**2
    hits = value * size
    low = special.betaincinv(hits, size - hits + 1, (1 - LEVEL) / 2) if value > 0 else 0.0
    high = special.betaincinv(hits + 1, size - hits, (1 + LEVEL) / 2) if value < 1 else 1.0
    return Rate(value, float(low), float(high))


def estimate_difference(first: RateEstimate, second: RateEstimate) -> RateEstimate:
    """first - second, which are rates of different users."""
    variance, degrees = _add_variances(
        first.variance, first.degrees, second.variance, second.degrees
    )
    return _estimate_with_interval(first.value - second.value, variance, degrees)


def estimate_lift(first: RateEstimate, second: RateEstimate) -> RateEstimate | None:
    """first / second - 1, which are rates of different users; None unless both are above 0.

    The interval is that of the logarithm (delta method), so it stays above -1.
    """
    if first.value <= 0 or second.value <= 0:
        return None
    variance, degrees = _add_variances(
        first.variance / first.value**2,
        first.degrees,
        second.variance / second.value**2,
        second.degrees,
    )
    log = _estimate_with_interval(math.log(first.value / second.value), variance, degrees)
    low, high = (math.expm1(min(end, 700.0)) for end in (log.low, log.high))
    return RateEstimate(math.expm1(log.value), low, high, variance, degrees)


def _estimate_with_interval(value: float, variance: float, degrees: float) -> RateEstimate:
    from scipy import special  # It belongs to an extra.

    half = (
        float(special.stdtrit(degrees, (1 + LEVEL) / 2)) * math.sqrt(variance) if variance else 0.0
    )
    half = math.inf if math.isnan(half) else half
    return RateEstimate(value, value - half, value + half, variance, degrees)


def _add_variances(
    first: float, first_degrees: float, second: float, second_degrees: float
) -> tuple[float, float]:
    """The variance of a difference, and its degrees of freedom."""
    variance = first + second
    parts = first**2 / first_degrees + second**2 / second_degrees
    return variance, variance**2 / parts if parts > 0 else min(first_degrees, second_degrees)
