"""The shapes of a chart as SVG elements. Positions are in pixels, from the top left corner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup

COLOURS = ("var(--accent)", "var(--quiet)", "var(--bad-ink)")
"""The colour of each series."""
INK, SOFT, LINE = "var(--ink)", "var(--soft)", "var(--line)"
# The colour behind a chart.
CARD = "var(--card)"
# Half the length of the short lines at the ends of an interval.
CAP = 4.0

Anchor = Literal["start", "middle", "end"]


def draw_text(x: float, y: float, text: str, anchor: Anchor) -> Markup:
    """Text on the line at y, whose start, middle or end is at x."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )


def draw_title(x: float, y: float, text: str, anchor: Anchor) -> Markup:
    """The title of an axis, which is paler than its labels."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}">{}</text>').format(
        x, y, anchor, SOFT, text
    )


def draw_grid_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line behind the values, at a tick."""
    return _draw_path(f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", LINE, 1)


def draw_bar(
    x: float, y: float, width: float, height: float, colour: str, *, is_grey: bool
) -> Markup:
    """A bar whose top left corner is at x and y.

    is_grey: whether only its edge has the colour, and is dashed.
    """
    style = Markup('fill="{}"').format(colour)
    if is_grey:
        style = Markup('fill="{}" stroke="{}" stroke-dasharray="3 2"').format(LINE, colour)
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1" {}/>').format(
        x, y, width, height, style
    )


def draw_connection(points: Sequence[tuple[float, float]], colour: str) -> Markup:
    """A line from each point to the next."""
    return _draw_path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), colour, 2)


def draw_dot(x: float, y: float, colour: str) -> Markup:
    """A dot around x and y."""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"/>').format(x, y, colour)


def draw_horizontal_interval(x1: float, x2: float, y: float, colour: str) -> Markup:
    """A line from x1 to x2 with a short one across at both ends."""
    caps = "".join(f"M{x:.1f} {y - CAP:.1f}v{2 * CAP:.1f}" for x in (x1, x2))
    return _draw_interval(f"M{x1:.1f} {y:.1f}H{x2:.1f}{caps}", colour)


def draw_vertical_interval(x: float, y1: float, y2: float, colour: str) -> Markup:
    """A line from y1 to y2 with a short one across at both ends."""
    caps = "".join(f"M{x - CAP:.1f} {y:.1f}h{2 * CAP:.1f}" for y in (y1, y2))
    return _draw_interval(f"M{x:.1f} {y1:.1f}V{y2:.1f}{caps}", colour)


def _draw_interval(path: str, colour: str) -> Markup:
    """The path with an edge, so that it can be seen on a bar, too."""
    return _draw_path(path, CARD, 4) + _draw_path(path, colour, 1.5)


def _draw_path(path: str, colour: str, width: float) -> Markup:
    return Markup('<path d="{}" fill="none" stroke="{}" stroke-width="{:g}"/>').format(
        path, colour, width
    )
