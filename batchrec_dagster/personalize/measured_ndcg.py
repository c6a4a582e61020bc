"""NDCG@25 as it was measured, with confidence intervals.

A hash of the user id decides which users are tested, and which of 100 groups a user is in
(`personalize/split.py`). So all models and popular items are tested on the same users, and two
measurements are compared group by group. A group with a low NDCG in one measurement mostly has a
low NDCG in the other measurement too. Such a group hardly widens the interval of the difference.
The sums of each group are stored, but no ids are stored. Amazon Personalize reports only a mean,
without the sums of the groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from batchrec_dagster.personalize.estimate import Estimate, measure_error

# An interval needs at least this many tested users.
LEAST_USERS = 10
# Half of a 95% interval in standard errors, by the normal distribution. Student's t distribution
# for 100 groups gives nearly the same number.
STANDARD_ERRORS = 1.96


class GroupSums(BaseModel):
    """The NDCG@25 of tested users, as one sum for each group of users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: tuple[int, ...]
    """(groups,) the number of tested users."""
    ndcg: tuple[float, ...]
    """(groups,) the sum of the tested users' NDCG@25."""

    @property
    def tested(self) -> int:
        """The number of tested users."""
        return sum(self.users)

    @property
    def mean(self) -> Estimate | None:
        """The mean NDCG@25 of the tested users; None if nobody was tested."""
        if not self.tested:
            return None
        return _estimate(self._mean_without(None), self._list_means_without_groups(), self.tested)

    def compare(self, other: GroupSums) -> Estimate | None:
        """Return this mean minus the mean of `other`; None if either has no tested users.

        The interval of the difference is narrow if groups with high means here also have high means
        in `other`.
        Without common users, the interval is as wide as for two independent means.
        """
        if not self.tested or not other.tested:
            return None
        differences = [
            mean - mean_of_other
            for mean, mean_of_other in zip(
                self._list_means_without_groups(), other._list_means_without_groups(), strict=True
            )
        ]
        difference = self._mean_without(None) - other._mean_without(None)
        return _estimate(difference, differences, min(self.tested, other.tested))

    def _list_means_without_groups(self) -> list[float]:
        """Return the mean without each group, in the order of the groups."""
        return [self._mean_without(group) for group in range(len(self.users))]

    def _mean_without(self, group: int | None) -> float:
        """Return the mean without one group, or the mean of all groups if `group` is None.

        The mean is NaN if no other group has tested users.
        """
        users, ndcg = self.tested, sum(self.ndcg)
        if group is not None:
            users, ndcg = users - self.users[group], ndcg - self.ndcg[group]
        return ndcg / users if users else math.nan


class MeasuredPopularity(BaseModel):
    """The NDCG@25 of recommending popular items, measured like a model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int | None
    """The number of last days that count for popularity; None for all time."""
    groups: GroupSums

    @property
    def ndcg(self) -> float:
        """The mean NDCG@25 of the popular items; 0 if nobody was tested."""
        return self.groups.mean.value if self.groups.mean is not None else 0.0

    @property
    def name(self) -> str:
        """The words for the items, such as `the most popular items of the last 30 days`."""
        if self.days is None:
            return "the most popular items"
        return f"the most popular items {name_window(self.days)}"


def name_window(days: int) -> str:
    """Return the words for the days that popularity counts, such as `of the last 30 days`."""
    return "of the last day" if days == 1 else f"of the last {days} days"


def _estimate(value: float, without_group: Sequence[float], users: int) -> Estimate:
    """Return the number with its interval, or without one if too few users were tested.

    users: the number of tested users.
    """
    if users < LEAST_USERS:
        return Estimate(value=value)
    # If one group has all users, the error is NaN, and `Estimate.around` leaves out the interval.
    return Estimate.around(value, STANDARD_ERRORS * measure_error(value, without_group))
