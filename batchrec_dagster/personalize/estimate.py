"""Estimates: numbers that were measured on some users, with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel


class Estimate(BaseModel, frozen=True):
    """A number, such as a mean over users or a difference of means, with its 95% interval."""

    value: float
    low: float | None = None
    """The lower end; None without an interval, like `high`."""
    high: float | None = None

    @classmethod
    def around(cls, value: float, margin: float) -> Self:
        """Return the number with an interval around it, or without one if the margin is not finite.

        margin: half of the interval's length.
        """
        if not math.isfinite(margin):
            return cls(value=value)
        return cls(value=value, low=value - margin, high=value + margin)

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends of the interval; None without an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def margin(self) -> float | None:
        """Half of the interval's length; None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval is above 0; False without an interval."""
        return self.low is not None and self.low > 0

    @property
    def is_negative(self) -> bool:
        """Whether the whole interval is below 0; False without an interval."""
        return self.high is not None and self.high < 0


def measure_error(value: float, without_group: Sequence[float]) -> float:
    """Return the standard error of a number, by the delete-a-group jackknife.

    The error is the square root of (G - 1) / G times a sum of squares. The sum is over the G
    groups, and each term is the squared change of the number when the group is left out.
    Source: Kott, "The delete-a-group jackknife", Journal of Official Statistics 17 (2001).

    without_group: (G,) the number without each group of users.
    """
    groups = len(without_group)
    squares = math.fsum((changed - value) ** 2 for changed in without_group)
    return math.sqrt((groups - 1) / groups * squares)
