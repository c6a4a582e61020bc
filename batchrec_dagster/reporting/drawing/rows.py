"""Horizontal bars: a row for each label, which stands on the left of its bars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from markupsafe import Markup

from batchrec_dagster.reporting.charts import Chart, Point
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

BAR_HEIGHT = 14
# The space between the bars of two rows.
ROW_GAP = 8
LEAST_ROW_HEIGHT = 20


class RowDrawing:
    """Where the parts of a chart of horizontal bars are, and how they are drawn."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._labels = make_labels(label for label, *_ in chart.rows)
        # The title stands above the labels, as in a table.
        self._left = MARGIN + measure_widest([*self._labels, chart.labels]) + LABEL_GAP
        scale = make_scale(
            chart.largest_value,
            WIDTH - self._left - MARGIN,
            percent=chart.percent,
            are_labels_in_line=True,
        )
        # Half of the last tick's label is on the right of the axis.
        self._scale = replace(scale, length=scale.length - scale.label_width / 2)
        self._top = MARGIN + (LINE_HEIGHT if chart.labels else 0)
        self._row_height = max(LEAST_ROW_HEIGHT, BAR_HEIGHT * len(chart.series) + ROW_GAP)
        self._bottom = self._top + self._row_height * len(self._labels)
        self.height = self._bottom + 2 * LINE_HEIGHT + MARGIN

    def draw(self) -> Iterator[Markup]:
        """The shapes, from back to front."""
        yield from self._draw_axes()
        points = [*self._chart.list_points()]
        for point in points:
            yield shapes.draw_bar(
                self._left,
                self._find_middle(point) - BAR_HEIGHT / 2,
                self._scale.locate(point.value),
                BAR_HEIGHT,
                shapes.COLOURS[point.series],
                is_grey=self._chart.is_grey(point),
            )
        for point in points:
            if point.interval is not None:
                x1, x2 = (self._left + self._scale.locate(end) for end in point.interval)
                y = self._find_middle(point)
                yield shapes.draw_horizontal_interval(x1, x2, y, shapes.INK)

    def _draw_axes(self) -> Iterator[Markup]:
        if self._chart.labels:
            y = MARGIN + LINE_HEIGHT / 2
            yield shapes.draw_title(self._left - LABEL_GAP, y, self._chart.labels, "end")
        for tick in self._scale.ticks:
            x = self._left + self._scale.locate(tick.value)
            yield shapes.draw_grid_line(x, self._top, x, self._bottom)
            yield shapes.draw_text(x, self._bottom + LINE_HEIGHT, tick.label, "middle")
        for row, label in enumerate(self._labels):
            y = self._top + self._row_height * (row + 0.5) + BASELINE
            yield shapes.draw_text(self._left - LABEL_GAP, y, label, "end")
        middle = self._left + self._scale.length / 2
        title_y = self._bottom + 2 * LINE_HEIGHT
        yield shapes.draw_title(middle, title_y, self._chart.values, "middle")

    def _find_middle(self, point: Point) -> float:
        """The middle of the point's bar, from the top. The bars of a row touch each other."""
        middle_of_row = self._top + self._row_height * (point.row + 0.5)
        return middle_of_row + BAR_HEIGHT * (point.series - (len(self._chart.series) - 1) / 2)
