"""The SVG of the report's charts: whatever the labels, bars and ticks say the same numbers."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import get_args
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.reporting.charts import Chart, ChartKind
from batchrec_dagster.reporting.drawing.labels import make_labels
from batchrec_dagster.reporting.drawing.layout import WIDTH
from batchrec_dagster.reporting.drawing.svg import draw_svg
from batchrec_dagster_tests.guard.repeats import repeats


@given(
    st.dictionaries(st.text(max_size=60), st.floats(0, 1), min_size=1, max_size=100),
    st.sampled_from(get_args(ChartKind)),
)
@settings(max_examples=10, deadline=None)
def test_a_chart_accepts_any_labels(values: dict[str, float], kind: ChartKind) -> None:
    labels = make_labels(values)
    root = ElementTree.fromstring(draw_svg(Chart(kind, "", "y", ["A"], [*values.items()])))
    # Only white space around the text may differ.
    texts = [" ".join((text.text or "").split()) for text in root.iter("text")]
    drawn_labels = [label.strip() for label in labels if label.strip() in texts]
    if kind == "horizontal bars":
        assert len(drawn_labels) == len(labels)
    # The last label is the newest.
    assert labels[-1].strip() in drawn_labels


def test_labels_that_do_not_fit_are_left_out_and_those_drawn_are_in_the_chart() -> None:
    days = [f"2026-11-{day:02}" for day in range(1, 31)]
    root = ElementTree.fromstring(
        draw_svg(Chart("lines", "Day", "Users", ["A"], [(day, 1.0) for day in days]))
    )
    x_by_label = {text.text: float(text.attrib["x"]) for text in root.iter("text")}
    drawn_days = [day for day in days if day in x_by_label]
    assert drawn_days[-1] == days[-1]
    places = [x_by_label[day] for day in drawn_days]
    widths = [later - place for place, later in pairwise(places)]
    # Ten letters, each of 7 pixels.
    assert min(widths) >= 70
    assert places[0] >= 35
    assert places[-1] <= WIDTH - 35
    assert "transform" not in draw_svg(Chart("lines", "Day", "Users", ["A"], [("a", 1.0)]))


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=8),
)
@settings(max_examples=repeats(50, 15), deadline=None)
def test_bars_are_as_long_as_their_values_on_the_axis(
    pairs: list[tuple[float, float]],
) -> None:
    rows = [(f"l{n}", *pair) for n, pair in enumerate(pairs)]
    values = [value for pair in pairs for value in pair]
    svg = draw_svg(Chart("horizontal bars", "label", "value", ["A", "B"], rows))
    root = ElementTree.fromstring(svg)
    lengths = [float(bar.attrib["width"]) for bar in root.iter("rect")]
    spots = [re.findall(r"[\d.]+", path.attrib["d"])[0] for path in root.iter("path")]
    texts = [text.text or "" for text in root.iter("text")]
    ticks = [float(text.replace(",", "")) for text in texts if text[0].isdigit()]
    assert len(ticks) == len(spots) <= 6
    assert ticks[0] == 0
    assert ticks[-1] >= max(values) * (1 - 1e-6) - 1e-6
    scale = abs(float(spots[-1]) - float(spots[0])) / ticks[-1]
    assert lengths == pytest.approx([scale * value for value in values], abs=0.2)
    for bar in root.iter("rect"):
        assert float(bar.attrib["x"]) == pytest.approx(float(spots[0]), abs=0.2)


def test_an_axis_of_shares_is_in_percent_and_of_round_steps() -> None:
    svg = draw_svg(Chart("lines", "", "Share", ["A"], [("a", 0.031), ("b", 0.012)], percent=True))
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert texts[:6] == ["Share", "0%", "1%", "2%", "3%", "4%"]
    assert len(re.findall("<circle", svg)) == 2


@pytest.mark.parametrize("kind", get_args(ChartKind))
def test_intervals_are_drawn_to_scale_and_bars_without_one_are_grey(kind: ChartKind) -> None:
    chart = Chart(
        kind,
        "label",
        "value",
        ["A", "B"],
        [("many", 0.4, 0.2), ("few", 0.9, None)],
        intervals=[[(0.3, 0.5), (-0.1, 0.3)], [None, None]],
        needs_intervals=kind != "lines",
    )
    root = ElementTree.fromstring(draw_svg(chart))
    assert chart.has_intervals
    assert chart.has_grey_bars == (kind != "lines")
    is_horizontal = kind == "horizontal bars"
    paths = [path.attrib for path in root.iter("path")]
    ticks = [p["d"] for p in paths if p["stroke"] == "var(--line)"]
    # Where the axis has 0 and 1.
    start, end = (float(re.findall(r"[\d.]+", d)[0 if is_horizontal else 1]) for d in ticks[::5])
    drawn = [
        [float(number) for number in re.findall(r"[\d.]+", p["d"])[:3]]
        for p in paths
        if p.get("stroke-width") == "1.5"
    ]
    ends = [(a if is_horizontal else b, c) for a, b, c in drawn]
    shares = [[(value - start) / (end - start) for value in pair] for pair in ends]
    # No value is below 0.
    assert shares == [pytest.approx([0.3, 0.5], abs=0.01), pytest.approx([0, 0.3], abs=0.01)]
    dashed = [bar.attrib["fill"] for bar in root.iter("rect") if "stroke-dasharray" in bar.attrib]
    assert dashed == ([] if kind == "lines" else ["var(--line)"])
