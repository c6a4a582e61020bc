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
        label = short_text = _shorten(" ".join(UNWRITABLE.sub("\ufffd", text).split()))
        number = 1
        while label in labels.values():
            number += 1
            label = f"{short_text} ({number})"
        labels[text] = label
    return labels


def _shorten(text: str) -> str:
    for length in range(len(text)):
        if _measure_width(text[: length + 1]) > ROOM:
            return text[:length].rstrip() + "…"
    return text


def _measure_width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


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

    def draw_svg(self) -> Markup:
        names = make_labels(label for label, *_ in self.rows)
        points = [
            (label, number, value)
            for label, *values in self.rows
            for number, value in enumerate(values)
            if value is not None
        ]
        ticks = _choose_ticks(max(value for *_, value in points), percent=self.percent)
        label_width = LETTER * max(map(_measure_width, names.values()))
        is_horizontal = self.kind == "horizontal bars"
        # Of the values' axis, and of the labels'.
        tick_width = LETTER * max(map(len, ticks.values()))
        are_slanted = not is_horizontal and len(names) > 4
        plot_left = (
            TITLE
            + 6
            + (
                label_width
                if is_horizontal
                else max(tick_width, label_width * 0.7 - 20 if are_slanted else 0)
            )
        )
        title_offset = TITLE + LINE_HEIGHT + (label_width * 0.7 if are_slanted else 0)
        plot_width = WIDTH - plot_left - 16
        plot_height = len(names) * len(self.series) * ROW if is_horizontal else PLOT_HEIGHT
        band = (plot_height if is_horizontal else plot_width) / len(names)
        top = max(ticks)
        shapes = [
            *_draw_value_axis(
                ticks, plot_left, plot_width, plot_height, is_horizontal=is_horizontal
            )
        ]
        positions = {label: (number + 0.5) * band for number, label in enumerate(names)}
        for label, position in positions.items():
            if is_horizontal:
                shapes.append(_draw_text(plot_left - 6, MARGIN + position + 4, names[label], "end"))
            else:
                anchor, turn = ("end", -45) if are_slanted else ("middle", 0)
                below_axis = MARGIN + plot_height + LINE_HEIGHT
                shapes.append(
                    _draw_text(plot_left + position, below_axis, names[label], anchor, turn)
                )
        horizontal_title, vertical_title = (
            (self.values, self.labels) if is_horizontal else (self.labels, self.values)
        )
        shapes.append(
            _draw_text(
                plot_left + plot_width / 2,
                MARGIN + plot_height + title_offset,
                horizontal_title,
                "middle",
            )
        )
        shapes.append(_draw_text(12, MARGIN + plot_height / 2, vertical_title, "middle", -90))
        bar_width = band * 0.8 / len(self.series)
        for label, number, value in points:
            start, size = positions[label] - band * 0.4 + number * bar_width, value / top
            if is_horizontal:
                shapes.append(
                    _draw_bar(plot_left, MARGIN + start, plot_width * size, bar_width, number)
                )
            elif self.kind == "bars":
                y = MARGIN + plot_height * (1 - size)
                shapes.append(
                    _draw_bar(plot_left + start, y, bar_width, plot_height * size, number)
                )
        if self.kind == "lines":
            dots = [
                (number, plot_left + positions[label], MARGIN + plot_height * (1 - value / top))
                for label, number, value in points
            ]
            shapes += _draw_series(sorted(dots))
        return Markup(
            '<svg viewBox="0 0 {} {:.0f}" font-family="system-ui, sans-serif" font-size="12"'
            ' fill="var(--ink)" aria-hidden="true" focusable="false">{}</svg>'
        ).format(WIDTH, MARGIN + plot_height + title_offset + MARGIN, Markup().join(shapes))


def _choose_ticks(largest: float, *, percent: bool) -> dict[float, str]:
    """Round values from zero to the largest or more, and the label of each."""
    rough = (largest if largest > 1e-6 else 1.0) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step * (100 if percent else 1)) + 1e-9))
    last = max(1, math.ceil(largest / step - 1e-9))
    pattern = "{:.{}%}" if percent else "{:,.{}f}"
    return {number * step: pattern.format(number * step, digits) for number in range(last + 1)}


def _draw_value_axis(
    ticks: dict[float, str],
    plot_left: float,
    plot_width: float,
    plot_height: float,
    *,
    is_horizontal: bool,
) -> Iterator[Markup]:
    for value, text in ticks.items():
        if is_horizontal:
            x = plot_left + plot_width * value / max(ticks)
            yield _draw_line(x, MARGIN, x, MARGIN + plot_height)
            yield _draw_text(x, MARGIN + plot_height + LINE_HEIGHT, text, "middle")
        else:
            y = MARGIN + plot_height * (1 - value / max(ticks))
            yield _draw_line(plot_left, y, plot_left + plot_width, y)
            yield _draw_text(plot_left - 6, y + 4, text, "end")


def _draw_text(x: float, y: float, text: str, anchor: str, turn: int = 0) -> Markup:
    return Markup(
        '<text text-anchor="{}" transform="translate({:.1f} {:.1f}) rotate({})">{}</text>'
    ).format(anchor, x, y, turn, text)


def _draw_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" stroke="var(--line)"/>').format(
        x1, y1, x2, y2
    )


def _draw_bar(x: float, y: float, width: float, height: float, number: int) -> Markup:
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1" fill="{}"/>'
    ).format(x, y, width, height, COLOURS[number])


def _draw_series(dots: Sequence[tuple[int, float, float]]) -> Iterator[Markup]:
    """A line for each series, with dots. spots: series, x, y; sorted."""
    line = Markup('<path d="M{}" fill="none" stroke="{}" stroke-width="2"/>')
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"/>')
    for number, group in groupby(dots, lambda circle: circle[0]):
        points = [(x, y) for _, x, y in group]
        yield line.format("L".join(f"{x:.1f} {y:.1f}" for x, y in points), COLOURS[number])
        yield from (circle.format(x, y, COLOURS[number]) for x, y in points)
