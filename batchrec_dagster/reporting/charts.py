"""Charts as SVG. They have attributes instead of inline styles, which the page forbids, and CSS
variables as colours, so that one drawing serves light and dark pages."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from markupsafe import Markup

# The longest label, in Latin letters; wide characters count for two.
ROOM = 22

# Characters that XML 1.0 cannot represent.
UNWRITABLE = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def make_labels(texts: Iterable[str]) -> dict[str, str]:
    """A label for each text: one line, short, distinct, and valid in XML."""
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
    for place in range(len(text)):
        if _letters(text[: place + 1]) > ROOM:
            return text[:place].rstrip() + "…"
    return text


def _letters(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


# Pixels of the drawing; the page scales it to its column. LETTER: the width of one, about.
WIDTH = 360
ROW = 19
PLOT_HEIGHT = 140
MARGIN = 8
LETTER = 7
LINE_HEIGHT = 16
TITLE = 24
COLOURS = ("var(--accent)", "var(--quiet)")
TICKS = 5

ChartKind = Literal["bars", "horizontal bars", "lines"]


# A label, and the value of each series: not negative; None where it has none.
ChartRow = tuple[str, *tuple[float | None, ...]]


@dataclass(frozen=True)
class Chart:
    """labels, values: titles of the axes; series: in the order of their colours; percent: whether
    values are shares. Horizontal bars leave room for long labels."""

    kind: ChartKind
    labels: str
    values: str
    series: Sequence[str]
    rows: Sequence[ChartRow]
    percent: bool = False

    def svg(self) -> Markup:
        names = make_labels(label for label, *_ in self.rows)
        points = [
            (label, number, value)
            for label, *values in self.rows
            for number, value in enumerate(values)
            if value is not None
        ]
        ticks = _ticks(max(value for *_, value in points), percent=self.percent)
        longest = LETTER * max(map(_letters, names.values()))
        flat = self.kind == "horizontal bars"
        # Of the values' axis, and of the labels'.
        room = LETTER * max(map(len, ticks.values()))
        slanted = not flat and len(names) > 4
        left = TITLE + 6 + (longest if flat else max(room, longest * 0.7 - 20 if slanted else 0))
        below = TITLE + LINE_HEIGHT + (longest * 0.7 if slanted else 0)
        wide = WIDTH - left - 16
        high = len(names) * len(self.series) * ROW if flat else PLOT_HEIGHT
        band = (high if flat else wide) / len(names)
        top = max(ticks)
        drawn = [*_value_axis(ticks, left, wide, high, flat=flat)]
        places = {label: (number + 0.5) * band for number, label in enumerate(names)}
        for label, at in places.items():
            if flat:
                drawn.append(_text(left - 6, MARGIN + at + 4, names[label], "end"))
            else:
                anchor, turn = ("end", -45) if slanted else ("middle", 0)
                below_axis = MARGIN + high + LINE_HEIGHT
                drawn.append(_text(left + at, below_axis, names[label], anchor, turn))
        along, up = (self.values, self.labels) if flat else (self.labels, self.values)
        drawn.append(_text(left + wide / 2, MARGIN + high + below, along, "middle"))
        drawn.append(_text(12, MARGIN + high / 2, up, "middle", -90))
        thick = band * 0.8 / len(self.series)
        for label, number, value in points:
            start, size = places[label] - band * 0.4 + number * thick, value / top
            if flat:
                drawn.append(_bar(left, MARGIN + start, wide * size, thick, number))
            elif self.kind == "bars":
                y = MARGIN + high * (1 - size)
                drawn.append(_bar(left + start, y, thick, high * size, number))
        if self.kind == "lines":
            spots = [
                (number, left + places[label], MARGIN + high * (1 - value / top))
                for label, number, value in points
            ]
            drawn += _lines(sorted(spots))
        return Markup(
            '<svg viewBox="0 0 {} {:.0f}" font-family="system-ui, sans-serif" font-size="12"'
            ' fill="var(--ink)" aria-hidden="true" focusable="false">{}</svg>'
        ).format(WIDTH, MARGIN + high + below + MARGIN, Markup().join(drawn))


def _ticks(largest: float, *, percent: bool) -> dict[float, str]:
    """Round values from zero to the largest or more, and the label of each."""
    rough = (largest if largest > 1e-6 else 1.0) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step * (100 if percent else 1)) + 1e-9))
    last = max(1, math.ceil(largest / step - 1e-9))
    shown = "{:.{}%}" if percent else "{:,.{}f}"
    return {number * step: shown.format(number * step, digits) for number in range(last + 1)}


def _value_axis(
    ticks: dict[float, str], left: float, wide: float, high: float, *, flat: bool
) -> Iterator[Markup]:
    for value, text in ticks.items():
        if flat:
            x = left + wide * value / max(ticks)
            yield _line(x, MARGIN, x, MARGIN + high)
            yield _text(x, MARGIN + high + LINE_HEIGHT, text, "middle")
        else:
            y = MARGIN + high * (1 - value / max(ticks))
            yield _line(left, y, left + wide, y)
            yield _text(left - 6, y + 4, text, "end")


def _text(x: float, y: float, text: str, anchor: str, turn: int = 0) -> Markup:
    return Markup(
        '<text text-anchor="{}" transform="translate({:.1f} {:.1f}) rotate({})">{}</text>'
    ).format(anchor, x, y, turn, text)


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" stroke="var(--line)"/>').format(
        x1, y1, x2, y2
    )


def _bar(x: float, y: float, width: float, height: float, number: int) -> Markup:
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1" fill="{}"/>'
    ).format(x, y, width, height, COLOURS[number])


def _lines(spots: Sequence[tuple[int, float, float]]) -> Iterator[Markup]:
    """A line for each series, with dots. spots: series, x, y; sorted."""
    line = Markup('<path d="M{}" fill="none" stroke="{}" stroke-width="2"/>')
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"/>')
    for number, group in groupby(spots, lambda spot: spot[0]):
        at = [(x, y) for _, x, y in group]
        yield line.format("L".join(f"{x:.1f} {y:.1f}" for x, y in at), COLOURS[number])
        yield from (dot.format(x, y, COLOURS[number]) for x, y in at)
