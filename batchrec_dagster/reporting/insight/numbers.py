"""Numbers as people read them: with a unit, a 95% interval, and the number of measured users."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel

from batchrec_dagster.personalize.estimate import Estimate

Unit = Literal["count", "share", "score", "amount", "usd", "seconds"]


class Number(BaseModel, frozen=True):
    """A number with its unit and the facts that show how certain it is."""

    value: float
    unit: Unit = "count"
    """The unit of the value.

    A `share` is shown as a percentage, a `score` is a metric, and an `amount` has no known unit.
    """
    low: float | None = None
    """The lower end of the 95% interval; None if there is no interval."""
    high: float | None = None
    """The upper end of the 95% interval; None if there is no interval."""
    measured_on: int | None = None
    """The number of users that were measured; None if all were counted, or if it is not known."""

    @classmethod
    def of_estimate(cls, estimate: Estimate, unit: Unit, measured_on: int | None = None) -> Self:
        """Return a number for the estimate, with the estimate's interval if it has one."""
        low, high = estimate.low, estimate.high
        return cls(value=estimate.value, unit=unit, low=low, high=high, measured_on=measured_on)

    @property
    def text(self) -> str:
        """The value without its interval, such as `46.3%`."""
        return format_value(self.value, self.unit)

    @property
    def ends(self) -> tuple[str, str] | None:
        """The ends of the interval, with the decimals of the value; None without an interval."""
        if self.low is None or self.high is None:
            return None
        if self.unit == "score":
            decimals = _count_decimals(self.value)
            return f"{self.low:.{decimals}f}", f"{self.high:.{decimals}f}"
        return format_value(self.low, self.unit), format_value(self.high, self.unit)

    @property
    def interval(self) -> str:
        """The interval, such as `42.1% to 50.5%`; empty without an interval."""
        return "" if self.ends is None else " to ".join(self.ends)

    @property
    def sentence(self) -> str:
        """The number with all facts, such as `46.3% (95% interval 42.1% to 50.5%, 80 users)`."""
        notes = []
        if self.interval:
            notes.append(f"95% interval {self.interval}")
        if self.measured_on is not None:
            notes.append(format_count(self.measured_on, "user"))
        return f"{self.text} ({', '.join(notes)})" if notes else self.text


def format_value(value: float, unit: Unit) -> str:
    """Return the value as text.

    A metric has two decimals, or two significant digits if it is small.
    """
    match unit:
        case "share":
            return f"{value:.1%}"
        case "score":
            return f"{value:.{_count_decimals(value)}f}"
        case "usd":
            return f"${value:,.2f}"
        case "amount":
            return f"{value:,.2f}" if abs(value) >= 1 or not value else f"{value:.3g}"
        case "seconds":
            return format_duration(value)
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def format_count(number: int, noun: str) -> str:
    """Return the number with its noun, such as `1 user` or `1,200 users`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _count_decimals(score: float) -> int:
    """Return the number of decimals for a metric: two, or more for two significant digits."""
    if abs(score) >= 0.1 or abs(score) < 1e-6:
        return 2
    return 1 - math.floor(math.log10(abs(score)))


def format_duration(seconds: float | None) -> str:
    """Return the duration as `0.4 s`, `12 s`, `3 min 05 s` or `2 h 10 min`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remaining_seconds:02} s" if minutes else f"{remaining_seconds} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
