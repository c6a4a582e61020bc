"""Charts as SVG, drawn by Vega-Lite when the report is made.

vl-convert is one wheel without dependencies that contains Vega-Lite and its runtime. Its SVG has
attributes instead of inline styles, which the page forbids, and CSS variables as colours, so that
one drawing serves light and dark pages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal

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

BAR = {"type": "bar", "cornerRadiusEnd": 2}
LINE = {"type": "line", "point": {"size": 50}, "strokeWidth": 2}
COLOURS = ("var(--accent)", "var(--quiet)")
CONFIG = {
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
}

Kind = Literal["bars", "horizontal bars", "lines"]


def chart(
    kind: Kind,
    points: Sequence[tuple[str, str, float]],
    *,
    labels: str,
    values: str,
    series: Sequence[str],
    percent: bool = False,
) -> Markup:
    """The SVG of a chart; horizontal bars leave room for long labels.

    points: (label, series, value) in order; labels, values: titles of the axes; series: in the
    order of their colours; percent: whether values are shares.
    """
    names = readable(label for label, *_ in points)
    horizontal = kind == "horizontal bars"
    label_axis = {
        "labelAngle": 0 if horizontal or len(names) <= 4 else -45,
        "labelLimit": 0,
        "titlePadding": 16,
        "ticks": False,
        "domain": False,
    }
    value_axis: dict[str, Any] = {
        "tickCount": 5,
        "domain": False,
        "ticks": False,
        "labelFlush": False,
    }
    if percent:
        value_axis["format"] = "%"
    encoding: dict[str, Any] = {
        "y" if horizontal else "x": {
            **{"field": "label", "type": "nominal", "sort": None, "title": labels},
            "axis": label_axis,
        },
        "x" if horizontal else "y": {
            **{"field": "value", "type": "quantitative", "title": values},
            "axis": value_axis,
        },
        "color": {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": list(series), "range": COLOURS[: len(series)]},
            "legend": None,  # In the page instead, where it wraps.
        },
    }
    if kind != "lines":
        offset = "yOffset" if horizontal else "xOffset"
        encoding[offset] = {"field": "series", "sort": list(series)}
    rows = [{"label": names[label], "series": name, "value": v} for label, name, v in points]
    height = 80 + len(names) * ROW * len(series) if horizontal else PLOT_HEIGHT
    return _drawn(rows, LINE if kind == "lines" else BAR, height, encoding)


def _drawn(
    rows: list[dict[str, Any]], mark: dict[str, Any], height: int, encoding: dict[str, Any]
) -> Markup:
    import vl_convert  # of an extra

    svg = vl_convert.vegalite_to_svg(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "width": WIDTH,
            "height": height,
            "autosize": {"type": "fit", "contains": "padding"},
            "background": None,
            "data": {"values": rows},
            "mark": mark,
            "encoding": encoding,
            "config": CONFIG,
        },
        allowed_base_urls=[],
    )
    # The page gives the size and the text alternative; Vega has escaped the data.
    return Markup(  # noqa: S704
        re.sub(
            r'^<svg [^>]*?(viewBox="[^"]*")>', r'<svg \1 aria-hidden="true" focusable="false">', svg
        )
    )
