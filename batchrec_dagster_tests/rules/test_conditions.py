"""A rule's condition matches the items that the local Personalize's filters match."""

from __future__ import annotations

import operator

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.filters.columns import evaluate, make_column
from batchrec_dagster.personalize.filter_grammar import parse_condition
from batchrec_dagster.rules.conditions import find_matches

WORDS = ["a", "b", "A", "a|b", "c|", "", "ß"]
NUMBERS = [-3.0, 0.0, 1.0, 0.1, 2.5, 1e300]

texts = st.sampled_from(WORDS[:3])
comparisons = st.one_of(
    st.tuples(st.just("KIND"), st.sampled_from(["=", "!="]), texts.map('"{}"'.format)),
    st.tuples(
        st.just("kind"),
        st.sampled_from(["IN", "not in"]),
        st.lists(texts, min_size=1).map(
            lambda words: "(" + ", ".join(f'"{w}"' for w in words) + ")"
        ),
    ),
    st.tuples(
        st.just("Price"),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(NUMBERS).map(str),
    ),
).map(lambda parts: "ITEMS.{} {} {}".format(*parts))
conditions = st.recursive(
    comparisons,
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "or"]), inner).map(
        lambda parts: "({} {} {})".format(*parts)
    ),
    max_leaves=4,
)
rows = st.tuples(st.none() | st.sampled_from(WORDS), st.none() | st.sampled_from(NUMBERS))


@given(condition=conditions, rows=st.lists(rows, max_size=8))
def test_a_condition_matches_what_a_filter_matches(
    condition: str, rows: list[tuple[str | None, float | None]]
) -> None:
    schema = {"KIND": pl.String, "PRICE": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    columns = {name: make_column(cells) for name, cells in table.to_dict().items()}
    expected = evaluate(parse_condition(condition), columns)
    assert find_matches(parse_condition(condition), table).to_list() == expected.tolist()


@given(value=st.sampled_from(NUMBERS), sign=st.sampled_from(["<", ">="]))
def test_a_whole_number_column_is_compared_as_numbers(value: float, sign: str) -> None:
    numbers = [None, 0, 1, 3]
    compare = operator.lt if sign == "<" else operator.ge
    matches = find_matches(parse_condition(f"ITEMS.N {sign} {value}"), pl.DataFrame({"n": numbers}))
    assert matches.to_list() == [
        number is not None and compare(number, value) for number in numbers
    ]
