"""Lines over an axis of labels in order, such as days."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from batchrec_dagster.reporting.charts import Chart, Interval, Point
from batchrec_dagster.reporting.drawing import shapes
from batchrec_dagster.reporting.drawing.labels import make_labels, measure_widest
from batchrec_dagster.reporting.drawing.layout import (
    BASELINE,
    LABEL_GAP,
    LINE_HEIGHT,
    MARGIN,
    WIDTH,
)
from batchrec_dagster.reporting.drawing.scale import make_scale

# The height of the plot.
PLOT_HEIGHT = 140


class LineDrawing:
    """Where the parts of a chart of lines are, and how they are drawn.

    The labels share out the width evenly, each in a band of its own.
    """

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._labels = make_labels(label for label, *_ in chart.rows)
        self._scale = make_scale(chart.largest_value, PLOT_HEIGHT, percent=chart.percent)
        self._label_width = measure_widest(self._labels)
        # Half of the first and of the last label may reach out of a narrow band.
        half_label = self._label_width / 2
        self._left = MARGIN + max(self._scale.label_width + LABEL_GAP, half_label)
        self._right = WIDTH - MARGIN - half_label
        self._band = (self._right - self._left) / max(1, len(self._labels))
        self._top = MARGIN + LINE_HEIGHT + LABEL_GAP
        self._bottom = self._top + PLOT_HEIGHT
        self.height = self._bottom + LINE_HEIGHT * (2 if chart.labels else 1) + MARGIN

    def draw(self) -> Iterator[Markup]:
        """The shapes, from back to front."""
        yield from self._draw_axes()
        yield from self._draw_lines()

    def _draw_axes(self) -> Iterator[Markup]:
        yield shapes.draw_title(MARGIN, MARGIN + LINE_HEIGHT / 2, self._chart.values, "start")
        for tick in self._scale.ticks:
            y = self._find_y(tick.value)
            yield shapes.draw_grid_line(self._left, y, self._right, y)
            yield shapes.draw_text(self._left - LABEL_GAP, y + BASELINE, tick.label, "end")
        # Where the labels are wider than the bands, some are left out, but never the last one: it
        # is often the newest.
        step = max(1, math.ceil((self._label_width + 2 * LABEL_GAP) / self._band))
        first_row = (len(self._labels) - 1) % step
        for row in range(first_row, len(self._labels), step):
            x = self._find_middle(row)
            yield shapes.draw_text(x, self._bottom + LINE_HEIGHT, self._labels[row], "middle")
        if self._chart.labels:
            x, y = (self._left + self._right) / 2, self._bottom + 2 * LINE_HEIGHT
            yield shapes.draw_title(x, y, self._chart.labels, "middle")

    def _draw_lines(self) -> Iterator[Markup]:
        """A line for each series, with a dot at each value."""
        points = [*self._chart.list_points()]
        for point in points:
            if point.interval is not None:
                x, colour = self._find_middle(point.row), shapes.COLOURS[point.series]
                yield self._draw_interval(x, point.interval, colour)
        for series, name in enumerate(self._chart.series):
            dots = [self._find_dot(point) for point in points if point.series == series]
            colour = shapes.COLOURS[series]
            if dots and name not in self._chart.unconnected:
                yield shapes.draw_connection(dots, colour)
            yield from (shapes.draw_dot(x, y, colour) for x, y in dots)

    def _draw_interval(self, x: float, interval: Interval, colour: str) -> Markup:
        low, high = interval
        return shapes.draw_vertical_interval(x, self._find_y(low), self._find_y(high), colour)

    def _find_dot(self, point: Point) -> tuple[float, float]:
        return self._find_middle(point.row), self._find_y(point.value)

    def _find_middle(self, row: int) -> float:
        """The middle of the row's band, from the left."""
        return self._left + self._band * (row + 0.5)

    def _find_y(self, value: float) -> float:
        return self._bottom - self._scale.locate(value)
