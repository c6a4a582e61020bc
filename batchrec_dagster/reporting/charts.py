"""What a chart shows. `drawing` draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

ChartKind = Literal["horizontal bars", "lines"]

ChartRow = tuple[str, *tuple[float | None, ...]]
"""A label, and the value of each series. No value is negative; it is None if a series has none."""

Interval = tuple[float, float]


class Point(NamedTuple):
    """A value of a chart."""

    row: int
    """The place of its row in the chart."""
    series: int
    """The place of its series in the chart."""
    value: float
    interval: Interval | None
    """None if the value has none."""


@dataclass(frozen=True)
class Chart:
    """What a chart shows."""

    kind: ChartKind
    """Horizontal bars have room for a label each. Lines are for what has an order, such as days:
    where the labels are too long to stand next to each other, some are left out."""
    labels: str
    """The title of the labels' axis, in few words. It is empty where the figure's title says it
    already."""
    values: str
    """The title of the values' axis."""
    series: Sequence[str]
    """The names of the series, at most three."""
    rows: Sequence[ChartRow]
    percent: bool = False
    """Whether the values are shares."""
    intervals: Sequence[Sequence[Interval | None]] = ()
    """The interval of each row's value in each series; None if it has none. Empty if no row has
    one."""
    needs_intervals: bool = False
    """For bars: whether those without an interval are grey, because their values may be chance."""
    unconnected: Sequence[str] = ()
    """For lines: the series that are dots only."""

    @property
    def has_intervals(self) -> bool:
        """Whether any value has an interval."""
        return any(point.interval is not None for point in self.list_points())

    @property
    def has_grey_bars(self) -> bool:
        """Whether bars are grey because they have no interval."""
        return any(self.is_grey(point) for point in self.list_points())

    @property
    def largest_value(self) -> float:
        """The largest value or end of an interval; 0 if there is no value."""
        points = [*self.list_points()]
        ends = [point.interval[1] for point in points if point.interval is not None]
        return max([0.0, *(point.value for point in points), *ends])

    def list_points(self) -> Iterator[Point]:
        """The values, row by row."""
        for row, (_, *values) in enumerate(self.rows):
            for series, value in enumerate(values):
                if value is not None:
                    interval = self.intervals[row][series] if self.intervals else None
                    yield Point(row, series, value, interval)

    def is_grey(self, point: Point) -> bool:
        """Whether the point's bar is grey."""
        return self.needs_intervals and point.interval is None
