"""Tests that every decoder reads the same cells from lines of JSON."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.preparation.polars.json_table import (
    format_json_cell,
    parse_json,
    parse_json_cells,
)
from batchrec_dagster.preparation.polars.row_table import FLAW, ROW, TEXT
from batchrec_dagster_tests.guard.repeats import repeats

NAMES = {"user": "userId", "item": "né", "rating": "stars", "event_value": "price"}
NUMBERS = (
    "0 -0 -0.0 5 -5 12.0 12.5 12.50 1e3 1E3 1.5e300 1e400 0.1 0.10 0.1234567 123456789.5"
    " 9007199254740993 18446744073709551616 9007199254740993.5 0.000001 4.35 -0.5 -1.50"
    " 0.12345678901234567891"
    f" {'9' * 29} {'9' * 31} {'9' * 50}"
).split()
NO_NUMBERS = ["01", "+5", ".5", "5.", "NaN", "Infinity", "-Infinity", "nan", "TRUE"]
WORDS = [
    "",
    "a",
    "7",
    "1e3",
    "true",
    " x ",
    "né",
    "😀",
    "\ufffd",
    "\x00",
    'say "hi": yes',
    "\\",
    "[1]",
]
TEXTS = [
    *(json.dumps(word) for word in WORDS),
    *(json.dumps(word, ensure_ascii=False) for word in WORDS),
    *(r'"\ud800"', r'"x\ud83dx"', r'"\udc00"', r'"\/"', r'"\x"', '"tab\there"', '"open'),
]
OTHERS = [
    "true",
    "false",
    "null",
    "TRUE",
    '{"userId": 1}',
    "[1]",
    "[]",
    "{}",
    '{"a": {"b": [1.50]}}',
    "",
]
KEYS = [
    "userId",
    "né",
    "stars",
    "price",
    "other",
    r"n\u00e9",
    r"us\u0065rId",
    "UserId",
    r"say \"hi\"",
]
SPACES = ["", " ", "\t"]

values = st.sampled_from([*NUMBERS, *TEXTS, *OTHERS])
members = st.tuples(st.sampled_from(KEYS), st.sampled_from(SPACES), values)


def write_object(members: list[tuple[str, str, str]], separator: str) -> str:
    members_text = (f'"{key}"{space}:{space}{value}' for key, space, value in members)
    return "{" + separator.join(members_text) + "}"


objects = st.builds(write_object, st.lists(members, max_size=6), st.sampled_from([",", " , "]))
# A single line of these makes Polars refuse the whole batch of lines.
broken_lines = st.one_of(
    st.builds(write_object, st.lists(members, min_size=2), st.sampled_from([" ", ",,"])),
    objects.map(lambda text: text + " x"),
    objects.map(lambda text: f"[{text}]"),
    st.sampled_from(NO_NUMBERS).map(lambda text: f'{{"userId": {text}}}'),
    st.sampled_from([*OTHERS, *NUMBERS, *TEXTS, "not json", '{"userId":1}{"userId":2}']),
)


def decode_by_json(line: str) -> dict[str, str | None]:
    parsed_object = parse_json(line)
    if parsed_object is None:
        return {FLAW: "not a JSON object", **dict.fromkeys(NAMES)}
    return {
        FLAW: None,
        **{role: format_json_cell(parsed_object.get(name)) for role, name in NAMES.items()},
    }


@pytest.mark.parametrize("value", [*NUMBERS, *TEXTS, *OTHERS])
def test_any_value(value: str) -> None:
    check([f'{{"userId": {value}, "né": {value}}}'] * 2)


def test_too_deeply_nested_json_is_refused() -> None:
    deep = "[" * 3000 + "]" * 3000
    check([f'{{"userId": "a", "other": {deep}}}'] * 2)


@pytest.mark.slow
@settings(max_examples=repeats(200, 40))
@given(st.lists(objects, min_size=2, max_size=6))
def test_decoded_is_what_pythons_json_has(texts: list[str]) -> None:
    check(texts)


@pytest.mark.slow
@given(st.lists(st.one_of(objects, broken_lines), min_size=2, max_size=6))
def test_broken_lines_are_broken_for_every_decoder(texts: list[str]) -> None:
    check(texts)


def decode(texts: list[str], names: dict[str, str]) -> list[dict[str, str | None]]:
    lines = pl.LazyFrame({ROW: range(len(texts)), TEXT: texts})
    cells = parse_json_cells(lines, names).select(FLAW, *names).collect()
    return cells.to_dicts()


def check(texts: list[str]) -> None:
    rows = decode(texts, NAMES)
    expected_rows = [decode_by_json(text) for text in texts if text.strip("\ufeff \t\r")]
    assert [drop_rating(row) for row in rows] == [drop_rating(row) for row in expected_rows]
    # Only the values of these numbers count, not their spelling.
    assert [parse_number(row["rating"]) for row in rows] == [
        parse_number(row["rating"]) for row in expected_rows
    ]


def drop_rating(row: dict[str, str | None]) -> dict[str, str | None]:
    return {role: text for role, text in row.items() if role != "rating"}


def parse_number(text: str | None) -> float | str | None:
    try:
        return float(text or "")
    except ValueError:
        return text


@pytest.mark.parametrize("name", ['say "hi"', "a/b", "back\\slash"])
def test_a_name_that_is_written_in_several_ways(name: str) -> None:
    texts = [json.dumps({name: "x"}), json.dumps({name: "y"}).replace("/", "\\/")] * 100
    decoded_rows = decode(texts, {"user": name})
    assert decoded_rows == [{FLAW: None, "user": "x"}, {FLAW: None, "user": "y"}] * 100


def test_a_column_of_two_roles_is_exact_for_both() -> None:
    names = {"rating": "stars", "event_value": "stars"}
    decoded_rows = decode(['{"stars": 4.0}'] * 100, names)
    assert decoded_rows == [{FLAW: None, "rating": "4.0", "event_value": "4.0"}] * 100
