"""Charts as SVG, drawn by Vega-Lite when the report is made.

vl-convert is one wheel without dependencies that contains Vega-Lite and its runtime. Its SVG has
attributes instead of inline styles, which the page forbids, and CSS variables as colours, so that
one drawing serves light and dark pages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import vl_convert
from markupsafe import Markup

# The longest label, in Latin letters; wide characters count for two.
ROOM = 22

# Characters that XML 1.0 cannot represent: vl-convert crashes the process on them.
UNWRITABLE = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def readable(texts: Iterable[str]) -> dict[str, str]:
    """A label for each text: one line, short, distinct, and valid in XML.

    Vega also cuts long labels, but between the halves of an emoji, and then fails.
    """
    labels: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        label = cut = _cut(" ".join(UNWRITABLE.sub("\ufffd", text).split()))
        number = 1
        while label in labels.values():
            number += 1
            label = f"{cut} ({number})"
        labels[text] = label
    return labels


def _cut(text: str) -> str:
    room = ROOM
    for place, character in enumerate(text):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return text[:place].rstrip() + "…"
    return text


# Pixels of the drawing; the page scales it to its column.
WIDTH = 360
ROW = 19
PLOT_HEIGHT = 210

Point = tuple[str, str, float]


def bars(points: Sequence[Point], *, across: str, up: str, series: Sequence[str]) -> Markup:
    """Vertical bars, side by side for each series. points: (label, series, value)."""
    return _drawn(
        points,
        mark={"type": "bar", "cornerRadiusEnd": 2},
        height=PLOT_HEIGHT,
        encoding={
            "x": _labels(across, angle=_angle(points)),
            "y": _numbers(up),
            "xOffset": {"field": "series", "sort": list(series)},
            "color": _colour(series),
        },
    )


def horizontal_bars(
    points: Sequence[Point], *, up: str, across: str, series: Sequence[str], percent: bool = False
) -> Markup:
    """Horizontal bars, with room for long labels. points: (label, series, value)."""
    rows = len({label for label, *_ in points})
    return _drawn(
        points,
        mark={"type": "bar", "cornerRadiusEnd": 2},
        height=80 + rows * ROW * len(series),
        encoding={
            "y": _labels(up, angle=0),
            "x": _numbers(across, percent=percent),
            "yOffset": {"field": "series", "sort": list(series)},
            "color": _colour(series),
        },
    )


def lines(points: Sequence[Point], *, across: str, up: str, series: Sequence[str]) -> Markup:
    """A line for each series, through points in their order. points: (label, series, value)."""
    return _drawn(
        points,
        mark={"type": "line", "point": {"size": 50}, "strokeWidth": 2},
        height=PLOT_HEIGHT,
        encoding={
            "x": _labels(across, angle=_angle(points)),
            "y": _numbers(up),
            "color": _colour(series),
        },
    )


def _angle(points: Sequence[Point]) -> int:
    """Slanted labels, unless there are few enough to fit side by side."""
    return 0 if len({label for label, *_ in points}) <= 4 else -45


def _labels(title: str, *, angle: int) -> dict[str, Any]:
    axis = {
        "labelAngle": angle,
        "labelLimit": 0,
        "titlePadding": 16,
        "ticks": False,
        "domain": False,
    }
    return {"field": "label", "type": "nominal", "sort": None, "title": title, "axis": axis}


def _numbers(title: str, *, percent: bool = False) -> dict[str, Any]:
    axis: dict[str, Any] = {"tickCount": 5, "domain": False, "ticks": False, "labelFlush": False}
    if percent:
        axis["format"] = "%"
    return {"field": "value", "type": "quantitative", "title": title, "axis": axis}


def _colour(series: Sequence[str]) -> dict[str, Any]:
    colours = ["var(--accent)", "var(--quiet)"]
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(series), "range": colours[: len(series)]},
        "legend": None,  # In the page instead, where it wraps.
    }


def _drawn(
    points: Sequence[Point], *, mark: dict[str, Any], height: int, encoding: dict[str, Any]
) -> Markup:
    labels = readable(label for label, *_ in points)
    values = [
        {"label": labels[label], "series": name, "value": value} for label, name, value in points
    ]
    svg = vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "width": WIDTH,
            "height": height,
            "autosize": {"type": "fit", "contains": "padding"},
            "background": None,
            "data": {"values": values},
            "mark": mark,
            "encoding": encoding,
            "config": {
                "aria": False,
                "font": "system-ui, sans-serif",
                "view": {"stroke": None},
                "axis": {
                    "labelColor": "var(--ink)",
                    "titleColor": "var(--ink)",
                    "titleFontWeight": "normal",
                    "gridColor": "var(--line)",
                    "labelFontSize": 12,
                    "titleFontSize": 12,
                    "titlePadding": 8,
                },
            },
        },
        allowed_base_urls=[],
    )
    # The page gives the size and the text alternative; Vega has escaped the data.
    return Markup(  # noqa: S704
        re.sub(
            r'^<svg [^>]*?(viewBox="[^"]*")>', r'<svg \1 aria-hidden="true" focusable="false">', svg
        )
    )
