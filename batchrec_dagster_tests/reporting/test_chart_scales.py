"""Axes of charts: round ticks that hold all values, and labels that fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.reporting.drawing.labels import LONGEST_LABEL, make_labels, measure_widest
from batchrec_dagster.reporting.drawing.scale import LEAST_TICK_GAP, choose_ticks, make_scale
from batchrec_dagster_tests.guard.repeats import repeats

VALUES = st.floats(0, 1e9) | st.floats(1e-6, 1)


def read_label(label: str) -> float:
    """The number that a tick's label says."""
    number = float(label.replace(",", "").rstrip("%"))
    return number / 100 if label.endswith("%") else number


@given(VALUES, st.integers(1, 5), st.booleans())
@settings(max_examples=repeats(300, 100), deadline=None)
def test_ticks_are_round_and_hold_the_largest_value(
    largest: float, most_steps: int, percent: bool
) -> None:
    ticks = choose_ticks(largest, most_steps, percent=percent)
    values = [tick.value for tick in ticks]
    step = values[1]
    assert values[0] == 0
    assert values == pytest.approx([step * number for number in range(len(ticks))])
    assert values[-1] >= largest * (1 - 1e-3)
    assert 2 <= len(ticks) <= most_steps + 1
    # The first digit of the step is all that it has.
    assert f"{step:.9e}".replace("10.", "1.")[:11] in {f"{digit}.000000000" for digit in (1, 2, 5)}
    # The labels say the ticks, without loss.
    assert [read_label(tick.label) for tick in ticks] == pytest.approx(values)
    assert ticks[0].label == ("0%" if percent else "0")


@given(VALUES, VALUES, st.integers(60, 400))
@settings(max_examples=repeats(100, 50), deadline=None)
def test_a_scale_keeps_the_order_and_the_proportion_of_values(
    value: float, other: float, length: int
) -> None:
    scale = make_scale(max(value, other), length, percent=False)
    assert scale.locate(0) == scale.locate(-1) == 0
    assert (scale.locate(value) <= scale.locate(other)) == (value <= other)
    assert scale.locate(scale.ticks[-1].value) == pytest.approx(length)
    assert scale.locate(value) + scale.locate(other) == pytest.approx(scale.locate(value + other))


@given(VALUES, st.integers(150, 400), st.booleans())
@settings(max_examples=repeats(100, 50), deadline=None)
def test_labels_along_an_axis_do_not_touch(largest: float, length: int, percent: bool) -> None:
    scale = make_scale(largest, length, percent=percent, are_labels_in_line=True)
    space = length / (len(scale.ticks) - 1)
    assert scale.label_width + LEAST_TICK_GAP <= space or len(scale.ticks) == 2


@given(st.lists(st.text(max_size=60), max_size=30))
@settings(max_examples=repeats(100, 25), deadline=None)
def test_labels_are_short_and_distinct(texts: list[str]) -> None:
    labels = make_labels(texts)
    assert len({*labels}) == len(labels) == len(texts)
    # One letter more for the ellipsis, and " (30)" for the last of equal ones.
    assert measure_widest(labels) <= 7 * (LONGEST_LABEL + 1 + 5)
