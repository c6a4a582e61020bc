"""The items that an itemAttributes expression matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.data.item_attributes import ItemAttributes
from batchrec_dagster.personalize.item_attributes import (
    Condition,
    ItemAttributesError,
    parse_conditions,
)
from batchrec_dagster.personalize.schemas import ITEMS, Field, Schema

SCHEMA = Schema(
    ITEMS,
    (
        Field("ITEM_ID", "string"),
        Field("GENRES", "string", nullable=True, categorical=True),
        Field("YEAR", "int", nullable=True),
        Field("PRICE", "float"),
        Field("WEIGHT", "double"),
        Field("NEW", "boolean"),
        Field("TEXT", "string", textual=True),
    ),
)
ROWS = pl.DataFrame(
    {
        "ITEM_ID": ["a", "b", "c", "unknown", "a"],
        "GENRES": ["Drama", "Comedy|Action", None, "Comedy", "Comedy"],
        "YEAR": [1990, 1990, None, 1990, 1991],
        "PRICE": [1.0, 0.1, 0.3, 0.1, 0.1],
        "WEIGHT": [1.0, 0.1, 0.3, 0.1, 0.1],
        "NEW": [True, False, True, True, False],
        "TEXT": ["x"] * 5,
    },
    schema_overrides={"YEAR": pl.Int32, "PRICE": pl.Float32},
)


def _select_items(expression: str) -> list[str]:
    """The items, of a model that knows a, b and c, in its order: c, a, b."""
    ids = np.array(["c", "a", "b"], dtype=object)

    def read(dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
        assert dataset_type == ITEMS
        return ROWS.select(columns)

    return [str(item) for item in ids[ItemAttributes(SCHEMA, read, ids).find_items(expression)]]


@pytest.mark.parametrize(
    ("expression", "items"),
    [
        ('ITEMS.genres = "Comedy" AND ITEMS.genres = "Action"', ["b"]),
        ('ITEMS.GENRES = "Comedy"', ["a", "b"]),  # the last row of an item counts
        ('ITEMS.GENRES = "Drama"', []),
        ('ITEMS.GENRES = "Comedy|Action"', ["b"]),  # a cell as a whole, as in filters
        ('items . Genres="Comedy"and Items.YEAR = 1990', ["b"]),
        ("  ITEMS.YEAR = '1991'  ", ["a"]),
        ("ITEMS.PRICE = 0.1", ["a", "b"]),  # to the precision of a float
        ("ITEMS.WEIGHT = 3e-1", ["c"]),
        ("ITEMS.NEW = True", ["c"]),
        ('ITEMS.ITEM_ID = "c"', ["c"]),
        ('ITEMS.GENRES = "comedy"', []),  # values are told apart by case
    ],
)
def test_the_items_that_match_an_expression(expression: str, items: list[str]) -> None:
    assert _select_items(expression) == items


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "at character 1:"),
        ("   ", "at character 1:"),
        ('ITEMS.GENRES = "Comedy" OR ITEMS.GENRES = "Action"', "at character 25:"),
        ('ITEMS.GENRES = "Comedy" AND', "at character 28:"),
        ('ITEMS.GENRES = "Comedy" ITEMS.YEAR = 1990', "at character 25:"),
        ('ITEMS.GENRES != "Comedy"', "at character 1:"),
        ("ITEMS.YEAR > 1990", "at character 1:"),
        ('ITEMS.GENRES = "Comedy', "at character 1:"),
        ('Users.GENRES = "Comedy"', "at character 1:"),
        ('ITEMS.GENRE = "Comedy"', "the Items schema has no field GENRE"),
        ('ITEMS.TEXT = "x"', "TEXT is textual"),
        ('ITEMS.YEAR = "old"', "YEAR is of type int, but 'old' is not"),
        (f"ITEMS.YEAR = {10**30}", "YEAR is of type int"),
        (f"ITEMS.YEAR = {'9' * 5000}", "YEAR is of type int"),
        ("ITEMS.YEAR = 1990.5", "YEAR is of type int"),
        ("ITEMS.PRICE = inf", "PRICE is of type float"),
        ("ITEMS.NEW = 2", "NEW is of type boolean"),
    ],
)
def test_invalid_expressions(expression: str, reason: str) -> None:
    with pytest.raises(ItemAttributesError) as error:
        _select_items(expression)
    assert reason in str(error.value)


CONDITIONS = st.lists(
    st.tuples(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), st.text(max_size=8)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(conditions=CONDITIONS, quote=st.sampled_from("\"'"))
def test_any_value_can_be_written(conditions: list[tuple[str, str]], quote: str) -> None:
    def quote_value(value: str) -> str:
        return value.replace("\\", "\\\\").replace(quote, "\\" + quote)

    expression = " AND ".join(f"ITEMS.{f} = {quote}{quote_value(v)}{quote}" for f, v in conditions)
    assert parse_conditions(expression) == [Condition(*condition) for condition in conditions]


@settings(deadline=None)
@given(expression=st.text() | st.text("ITEMS.and =\"'\\1x"))
def test_any_text_is_read_or_refused(expression: str) -> None:
    try:
        assert parse_conditions(expression)
    except ItemAttributesError as error:
        assert "error at character" in str(error)  # noqa: PT017
