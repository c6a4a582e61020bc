"""NDCG@25 as it was measured, with what tells it from chance.

A hash of the id says who is tested, and in which of 100 groups (`personalize/split.py`). So what
was measured of a model, of popular items, or of another model on these people is compared pairwise:
a group that is hard for one is hard for the other, and that is no part of their difference. Only
sums over groups are kept, and no ids. Amazon Personalize gives the mean alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from batchrec_dagster.storage.estimate import Estimate, measure_error

# Fewer users have no interval.
LEAST_USERS = 10
# Half of a 95% interval, in standard errors. Of 100 groups Student's t is nearly the same, but
# comes with an extra.
STANDARD_ERRORS = 1.96


class GroupSums(BaseModel):
    """The NDCG@25 of tested users, as sums over groups of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: tuple[int, ...]
    """(groups,) how many were tested."""
    ndcg: tuple[float, ...]
    """(groups,) the sum of their NDCG@25."""

    @property
    def tested(self) -> int:
        """How many users were tested."""
        return sum(self.users)

    @property
    def mean(self) -> Estimate | None:
        """Their mean; None if nobody was tested."""
        if not self.tested:
            return None
        return _estimate(self._mean_without(None), self._list_means_without_groups(), self.tested)

    def compare(self, other: GroupSums) -> Estimate | None:
        """By how much the mean is above the other one; None if nobody was tested for one of them.

        The more alike the groups are in both, the narrower is its interval. With no user in common
        it is that of two independent means.
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
        """(groups,) the mean without each group."""
        return [self._mean_without(group) for group in range(len(self.users))]

    def _mean_without(self, group: int | None) -> float:
        """The mean without a group, or of all. It is NaN if nobody else was tested."""
        users, ndcg = self.tested, sum(self.ndcg)
        if group is not None:
            users, ndcg = users - self.users[group], ndcg - self.ndcg[group]
        return ndcg / users if users else math.nan


class MeasuredPopularity(BaseModel):
    """What recommending popular items reaches, measured as a model is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: int | None
    """The items are those that were popular in this many days; None for all time."""
    groups: GroupSums

    @property
    def ndcg(self) -> float:
        """Their NDCG@25."""
        return self.groups.mean.value if self.groups.mean is not None else 0.0

    @property
    def name(self) -> str:
        """What the items are called."""
        if self.days is None:
            return "the most popular items"
        return f"the most popular items {name_window(self.days)}"


def name_window(days: int) -> str:
    """Of which time interactions count for popularity, such as `of the last 30 days`."""
    return "of the last day" if days == 1 else f"of the last {days} days"


def _estimate(value: float, without_group: Sequence[float], users: int) -> Estimate:
    """The number with its interval, if enough users were tested for one.

    users: how many it was measured on.
    """
    if users < LEAST_USERS:
        return Estimate(value=value)
    # The error is NaN if one group has all users.
    return Estimate.around(value, STANDARD_ERRORS * measure_error(value, without_group))
