"""The axis of a chart's values: its ticks, and where on it a value is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchrec_dagster.reporting.drawing.labels import LETTER

# An axis has at most this many steps between its ticks.
MOST_STEPS = 5
# The least space between the labels of two ticks, in pixels.
LEAST_TICK_GAP = 12
# Axes of values that are all smaller than this end at 1.
LEAST_VALUE = 1e-6


@dataclass(frozen=True)
class Tick:
    """A value that the axis names."""

    value: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis from zero to its last tick."""

    ticks: Sequence[Tick]
    """At equal distances. The first is zero."""
    length: float
    """In pixels of the drawing."""

    def locate(self, value: float) -> float:
        """How far the value is from the start of the axis. Nothing is before the start."""
        return self.length * max(0.0, value) / self.ticks[-1].value

    @property
    def label_width(self) -> float:
        """About the width of the widest label."""
        return LETTER * max(len(tick.label) for tick in self.ticks)


def make_scale(
    largest: float, length: float, *, percent: bool, are_labels_in_line: bool = False
) -> Scale:
    """A scale that reaches to the largest value or a little further.

    length: that of the axis, in pixels.
    percent: whether the values are shares.
    are_labels_in_line: whether the labels stand next to each other along the axis, so that there
        are only as many as fit.
    """
    for steps in range(MOST_STEPS, 0, -1):
        scale = Scale(choose_ticks(largest, steps, percent=percent), length)
        space = length / (len(scale.ticks) - 1)
        if not are_labels_in_line or scale.label_width + LEAST_TICK_GAP <= space:
            break
    return scale


def choose_ticks(largest: float, most_steps: int, *, percent: bool) -> list[Tick]:
    """Round values at equal distances, from zero to the largest value or a little more.

    A step is 1, 2 or 5 times a power of ten.

    most_steps: how many steps there are at most.
    percent: whether the labels are percentages.
    """
    shortest_step = (largest if largest > LEAST_VALUE else 1.0) / most_steps
    power = 10.0 ** math.floor(math.log10(shortest_step))
    # The factors leave room for what floating point loses.
    step = next(
        power * factor for factor in (1, 2, 5, 10) if power * factor >= shortest_step * 0.999
    )
    steps = max(1, math.ceil(largest / step - 1e-3))
    unit = step * 100 if percent else step
    decimals = max(0, -math.floor(math.log10(unit) + 1e-9))
    pattern = "{:.{}%}" if percent else "{:,.{}f}"
    zero = Tick(0.0, pattern.format(0.0, 0))
    return [
        zero,
        *(
            Tick(number * step, pattern.format(number * step, decimals))
            for number in range(1, steps + 1)
        ),
    ]
