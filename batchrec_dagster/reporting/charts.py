"""Charts as SVG, in one drawing for light and dark pages.

The page's policy forbids inline styles, so shapes have attributes. Colours are CSS variables, which
differ between light and dark pages.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal, NamedTuple

from markupsafe import Markup

# The width of the longest label, in Latin letters. Wide characters count for two.
LONGEST_LABEL = 22

# Characters that XML 1.0 cannot represent.
UNWRITABLE = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def make_labels(texts: Iterable[str]) -> dict[str, str]:
    """A label for each text: one line, short, distinct, and valid in XML."""
    labels: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        short_text = _shorten(" ".join(UNWRITABLE.sub("\ufffd", text).split()))
        label = short_text
        number = 1
        while label in labels.values():
            number += 1
            label = f"{short_text} ({number})"
        labels[text] = label
    return labels


def _shorten(text: str) -> str:
    for length in range(len(text)):
        if _measure_width(text[: length + 1]) > LONGEST_LABEL:
            return text[:length].rstrip() + "…"
    return text


def _measure_width(text: str) -> int:
    """The width of the text, in Latin letters."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


# Sizes in pixels of the drawing, which the page scales to its column.
WIDTH = 360
# The height of a horizontal bar with the space around it.
ROW = 19
# The height of the plot in all other charts.
PLOT_HEIGHT = 140
MARGIN = 8
# About the width of a letter.
LETTER = 7
LINE_HEIGHT = 16
# The space for the title of an axis.
TITLE = 24
# The length of a letter of a slanted label, across and down, as a share of its width.
SLANT = 0.7

COLOURS = ("var(--accent)", "var(--quiet)", "var(--bad-ink)")
# About how many steps the axis of the values has.
TICKS = 5

ChartKind = Literal["bars", "horizontal bars", "lines"]

ChartRow = tuple[str, *tuple[float | None, ...]]
"""A label, and the value of each series. No value is negative; it is None if a series has none."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """What a chart shows."""

    kind: ChartKind
    """Horizontal bars leave room for long labels."""
    labels: str
    """The title of the labels' axis."""
    values: str
    """The title of the values' axis."""
    series: Sequence[str]
    """The names of the series, in the order of COLOURS."""
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
        return any(interval is not None for row in self.intervals for interval in row)

    @property
    def has_grey_bars(self) -> bool:
        """Whether bars are grey because they have no interval."""
        return self.needs_intervals and any(
            self.get_interval(row, number) is None
            for row, values in enumerate(self.rows)
            for number, value in enumerate(values[1:])
            if value is not None
        )

    def get_interval(self, row: int, series: int) -> Interval | None:
        """The interval of the value in this row and series; None if it has none."""
        return self.intervals[row][series] if self.intervals else None

    def draw_svg(self) -> Markup:
        """The chart as an SVG element."""
        drawing = _Drawing(self)
        return Markup(
            '<svg viewBox="0 0 {} {:.0f}" font-family="system-ui, sans-serif" font-size="12"'
            ' fill="var(--ink)" aria-hidden="true" focusable="false">{}</svg>'
        ).format(WIDTH, drawing.height, Markup().join(drawing.draw()))


class _Point(NamedTuple):
    """A value of a chart."""

    label: str
    series: int
    value: float
    interval: Interval | None


class _Drawing:
    """Where the parts of a chart are, and how they are drawn.

    The plot is the area of the bars or lines. The labels share out one side of it evenly, each in a
    band of its own.
    """

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._is_horizontal = chart.kind == "horizontal bars"
        self._labels = make_labels(label for label, *_ in chart.rows)
        self._are_slanted = not self._is_horizontal and len(self._labels) > 4
        self._points = [
            _Point(label, number, value, chart.get_interval(row, number))
            for row, (label, *values) in enumerate(chart.rows)
            for number, value in enumerate(values)
            if value is not None
        ]
        ends = [point.interval[1] for point in self._points if point.interval]
        largest = max([*(point.value for point in self._points), *ends])
        self._ticks = _choose_ticks(largest, percent=chart.percent)
        self._top = max(self._ticks)

        label_width = LETTER * max(map(_measure_width, self._labels.values()))
        tick_width = LETTER * max(map(len, self._ticks.values()))
        slanted_width = label_width * SLANT if self._are_slanted else 0
        # The first of the slanted labels reaches out to the left of the plot.
        space_left = label_width if self._is_horizontal else max(tick_width, slanted_width - 20)
        self._left = TITLE + 6 + space_left
        self._plot_width = WIDTH - self._left - 16
        self._plot_height = (
            len(self._labels) * len(chart.series) * ROW if self._is_horizontal else PLOT_HEIGHT
        )
        self._bottom = MARGIN + self._plot_height
        self._title_y = self._bottom + TITLE + LINE_HEIGHT + slanted_width
        self.height = self._title_y + MARGIN

        length = self._plot_height if self._is_horizontal else self._plot_width
        self._band = length / len(self._labels)

    @cached_property
    def _positions(self) -> dict[str, float]:
        """The middle of each label's band, from the start of the axis."""
        return {label: (number + 0.5) * self._band for number, label in enumerate(self._labels)}

    def draw(self) -> Iterator[Markup]:
        """The shapes, from back to front."""
        yield from self._draw_ticks()
        yield from self._draw_labels()
        yield from self._draw_titles()
        if self._chart.kind == "lines":
            yield from self._draw_lines()
        else:
            yield from self._draw_bars()

    def _draw_ticks(self) -> Iterator[Markup]:
        for value, text in self._ticks.items():
            if self._is_horizontal:
                x = self._left + self._plot_width * value / self._top
                yield _draw_line(x, MARGIN, x, self._bottom)
                yield _draw_text(x, self._bottom + LINE_HEIGHT, text, "middle")
            else:
                y = MARGIN + self._plot_height * (1 - value / self._top)
                yield _draw_line(self._left, y, self._left + self._plot_width, y)
                yield _draw_text(self._left - 6, y + 4, text, "end")

    def _draw_labels(self) -> Iterator[Markup]:
        # Where the bands are narrower than a line of text, some labels are left out.
        step = max(1, math.ceil(LINE_HEIGHT / self._band)) if self._are_slanted else 1
        # The last label, which is the newest, is among the others.
        first = (len(self._positions) - 1) % step
        for label, position in [*self._positions.items()][first::step]:
            text = self._labels[label]
            x, y = self._left + position, self._bottom + LINE_HEIGHT
            if self._is_horizontal:
                yield _draw_text(self._left - 6, MARGIN + position + 4, text, "end")
            elif self._are_slanted:
                yield _draw_text(x, y, text, "end", turn=-45)
            else:
                yield _draw_text(x, y, text, "middle")

    def _draw_titles(self) -> Iterator[Markup]:
        x_title, y_title = self._chart.labels, self._chart.values
        if self._is_horizontal:
            x_title, y_title = y_title, x_title
        yield _draw_text(self._left + self._plot_width / 2, self._title_y, x_title, "middle")
        yield _draw_text(12, MARGIN + self._plot_height / 2, y_title, "middle", turn=-90)

    def _draw_bars(self) -> Iterator[Markup]:
        """The bars of a label stand next to each other, in four fifths of its band."""
        thickness = self._band * 0.8 / len(self._chart.series)
        intervals = []
        for point in self._points:
            start = self._positions[point.label] - self._band * 0.4 + point.series * thickness
            size = point.value / self._top
            colour = COLOURS[point.series]
            is_grey = self._chart.needs_intervals and point.interval is None
            if self._is_horizontal:
                x, y = self._left, MARGIN + start
                width, height = self._plot_width * size, thickness
            else:
                x, y = self._left + start, MARGIN + self._plot_height * (1 - size)
                width, height = thickness, self._plot_height * size
            yield _draw_bar(x, y, width, height, colour, is_grey=is_grey)
            if point.interval is not None:
                middle = start + thickness / 2
                half = min(4.0, thickness / 3)
                intervals.append(self._draw_interval(point.interval, middle, half, "var(--ink)"))
        yield from intervals

    def _draw_lines(self) -> Iterator[Markup]:
        """A line for each series, with a dot at each value."""
        line = Markup('<path d="M{}" fill="none" stroke="{}" stroke-width="2"/>')
        dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"/>')
        # The number of the series, x and y.
        positions = sorted(
            (
                point.series,
                self._left + self._positions[point.label],
                MARGIN + self._plot_height * (1 - point.value / self._top),
            )
            for point in self._points
        )
        half = min(4.0, self._band / 3)
        for point in self._points:
            if point.interval is not None:
                position, colour = self._positions[point.label], COLOURS[point.series]
                yield self._draw_interval(point.interval, position, half, colour)
        for number, group in groupby(positions, lambda position: position[0]):
            dots = [(x, y) for _, x, y in group]
            if self._chart.series[number] not in self._chart.unconnected:
                yield line.format("L".join(f"{x:.1f} {y:.1f}" for x, y in dots), COLOURS[number])
            yield from (dot.format(x, y, COLOURS[number]) for x, y in dots)

    def _draw_interval(
        self, interval: Interval, position: float, half: float, colour: str
    ) -> Markup:
        """A line along the values' axis, with a short one across at both ends.

        position: where it is on the labels' axis, from its start.
        half: half the length of the short lines.
        """
        low, high = (max(0.0, end) / self._top for end in interval)
        if self._is_horizontal:
            y = MARGIN + position
            x_low, x_high = (self._left + self._plot_width * end for end in (low, high))
            path = f"M{x_low:.1f} {y:.1f}H{x_high:.1f}"
            path += "".join(f"M{x:.1f} {y - half:.1f}v{2 * half:.1f}" for x in (x_low, x_high))
        else:
            x = self._left + position
            y_low, y_high = (MARGIN + self._plot_height * (1 - end) for end in (low, high))
            path = f"M{x:.1f} {y_low:.1f}V{y_high:.1f}"
            path += "".join(f"M{x - half:.1f} {y:.1f}h{2 * half:.1f}" for y in (y_low, y_high))
        return Markup('<path d="{}" fill="none" stroke="{}" stroke-width="1.5"/>').format(
            path, colour
        )


def _choose_ticks(largest: float, *, percent: bool) -> dict[float, str]:
    """Round values from zero to the largest or more, and the label of each."""
    rough_step = (largest if largest > 1e-6 else 1.0) / TICKS
    power = 10.0 ** math.floor(math.log10(rough_step))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough_step * 0.999)
    digits = max(0, -math.floor(math.log10(step * (100 if percent else 1)) + 1e-9))
    last = max(1, math.ceil(largest / step - 1e-9))
    pattern = "{:.{}%}" if percent else "{:,.{}f}"
    return {number * step: pattern.format(number * step, digits) for number in range(last + 1)}


def _draw_text(x: float, y: float, text: str, anchor: str, turn: int = 0) -> Markup:
    """Text whose start, middle or end (`anchor`) is at x and y, turned by this many degrees."""
    return Markup(
        '<text text-anchor="{}" transform="translate({:.1f} {:.1f}) rotate({})">{}</text>'
    ).format(anchor, x, y, turn, text)


def _draw_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" stroke="var(--line)"/>').format(
        x1, y1, x2, y2
    )


def _draw_bar(
    x: float, y: float, width: float, height: float, colour: str, *, is_grey: bool
) -> Markup:
    """A bar. A grey one has its colour at its edge only, which is dashed."""
    style = Markup('fill="{}"').format(colour)
    if is_grey:
        style = Markup('fill="var(--line)" stroke="{}" stroke-dasharray="3 2"').format(colour)
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1" {}/>').format(
        x, y, width, height, style
    )
