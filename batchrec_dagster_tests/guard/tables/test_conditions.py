"""Tests of rules' conditions, such as `ITEMS.STOCK > 0`, against a plain reading of the text.

An empty cell meets no condition. A category with `|` equals each of its values and the whole text.
Names match in any case, values do not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.seams.lists import find_matches

SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
CELLS = [None, "a", "b", "A", "a|b", "c|", "", "ß"]
NUMBERS = [None, -3.0, 0.0, 1.0, 0.1, 2.5, 1e300]
Cells = tuple[str | None, float | None]


@dataclass(frozen=True)
class Condition:
    """A condition as text, and as a function of a row's cells."""

    text: str
    matches: Callable[[Cells], bool]


def split(cell: str) -> set[str]:
    return {cell, *cell.split("|")}


def compare_word(sign: str, words: list[str]) -> Condition:
    is_among = sign in ("=", "IN")
    written = f'"{words[0]}"'
    if sign not in ("=", "!="):
        written = "(" + ", ".join(f'"{word}"' for word in words) + ")"
    else:
        words = words[:1]

    def matches(cells: Cells) -> bool:
        cell = cells[0]
        return cell is not None and bool(split(cell) & {*words}) is is_among

    return Condition(f"Items.kind {sign} {written}", matches)


def compare_number(sign: str, number: float) -> Condition:
    def matches(cells: Cells) -> bool:
        return cells[1] is not None and SIGNS[sign](cells[1], number)

    return Condition(f"ITEMS.Price {sign} {number}", matches)


def join(word: str, one: Condition, other: Condition) -> Condition:
    combine = any if word == "or" else all

    def matches(cells: Cells) -> bool:
        return combine((one.matches(cells), other.matches(cells)))

    return Condition(f"({one.text} {word} {other.text})", matches)


comparisons = st.one_of(
    st.builds(
        compare_word,
        st.sampled_from(["=", "!=", "IN", "NOT IN"]),
        st.lists(st.sampled_from(["a", "b", "A"]), min_size=1),
    ),
    st.builds(compare_number, st.sampled_from([*SIGNS]), st.sampled_from(NUMBERS[1:])),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.builds(join, st.sampled_from(["AND", "or"]), inner, inner),
    max_leaves=4,
)
rows = st.lists(st.tuples(st.sampled_from(CELLS), st.sampled_from(NUMBERS)), max_size=8)


@given(condition=conditions, rows=rows)
def test_a_condition_matches_what_its_text_says(condition: Condition, rows: list[Cells]) -> None:
    schema = {"KIND": pl.String, "PRICE": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    assert find_matches(condition.text, table) == [condition.matches(row) for row in rows]


@pytest.mark.parametrize("sign", SIGNS)
def test_whole_numbers_are_compared_as_numbers(sign: str) -> None:
    numbers = [None, 0, 1, 3]
    matches = find_matches(f"ITEMS.STOCK {sign} 0.5", pl.DataFrame({"stock": numbers}))
    assert matches == [number is not None and SIGNS[sign](number, 0.5) for number in numbers]
