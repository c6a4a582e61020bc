"""A chart as an SVG element."""

from __future__ import annotations

from markupsafe import Markup

from batchrec_dagster.reporting.charts import Chart
from batchrec_dagster.reporting.drawing.layout import FONT_SIZE, WIDTH
from batchrec_dagster.reporting.drawing.lines import LineDrawing
from batchrec_dagster.reporting.drawing.rows import RowDrawing
from batchrec_dagster.reporting.drawing.shapes import INK


def draw_svg(chart: Chart) -> Markup:
    """The chart as an SVG element, in the page's font.

    Screen readers skip it, because the figure's table has the same numbers.
    """
    drawing = RowDrawing(chart) if chart.kind == "horizontal bars" else LineDrawing(chart)
    return Markup(
        '<svg viewBox="0 0 {} {:.0f}" font-size="{}" fill="{}" aria-hidden="true"'
        ' focusable="false">{}</svg>'
    ).format(WIDTH, drawing.height, FONT_SIZE, INK, Markup().join(drawing.draw()))
