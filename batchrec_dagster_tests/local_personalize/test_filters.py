"""Filter expressions: which are accepted, which are refused, and the messages."""

from __future__ import annotations

import contextlib
import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.personalize.filter_check import (
    FilterTraits,
    check_expression,
    find_traits,
)
from batchrec_dagster.personalize.filter_grammar import FilterExpressionError
from batchrec_dagster.personalize.schemas import Field, Schema
from batchrec_dagster_tests.guard.repeats import repeats


def build_schema(dataset_type: str, **types: str) -> Schema:
    """A schema with a field for each type; the type "textual" stands for a textual string."""
    fields = [
        Field(name, "string" if kind == "textual" else kind, textual=kind == "textual")
        for name, kind in types.items()
    ]
    return Schema(dataset_type, tuple(fields))


INTERACTIONS = build_schema(
    "INTERACTIONS",
    USER_ID="string",
    ITEM_ID="string",
    TIMESTAMP="long",
    EVENT_TYPE="string",
    EVENT_VALUE="float",
)
ITEMS = build_schema(
    "ITEMS",
    ITEM_ID="string",
    GENRE="string",
    genres="string",
    CATEGORY="string",
    CATEGORY_L1="string",
    CATEGORY_L2="string",
    OWNER="string",
    DESCRIPTION="textual",
    PRICE="double",
    YEAR="int",
    CREATION_TIMESTAMP="long",
    ADULT="boolean",
)
USERS = build_schema(
    "USERS", USER_ID="string", AGE="long", GENDER="string", MEMBERSHIP_STATUS="string"
)
SCHEMAS = {"INTERACTIONS": INTERACTIONS, "ITEMS": ITEMS, "USERS": USERS}

# The examples of the guide. Those on DESCRIPTION are from before textual fields were refused.
DOCUMENTED = [
    'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("click")',
    'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("click", "stream")',
    'INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("click")',
    'INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")',
    'EXCLUDE ItemID WHERE Items.CATEGORY IN ("shoe")',
    'EXCLUDE ItemID WHERE Items.CATEGORY_L1 IN ("shoe") AND Items.CATEGORY_L2 NOT IN ("boot")',
    "INCLUDE ItemID WHERE Items.PRICE <= 10",
    "INCLUDE ItemID WHERE Items.CREATION_TIMESTAMP < 1633240824",
    'INCLUDE ItemID WHERE Items.GENRE IN ("Comedy")',
    'EXCLUDE ItemID WHERE Items.GENRE IN ("Comedy") IF CurrentUser.AGE = 30',
    'INCLUDE ItemID WHERE Items.CATEGORY_L1 IN ("watch") AND Items.CATEGORY_L2 IN ("luxury")'
    " IF CurrentUser.AGE > 18",
    'INCLUDE ItemID WHERE Items.OWNER IN ("in-house")',
    'INCLUDE UserID WHERE Users.MEMBERSHIP_STATUS IN ("silver")',
    "EXCLUDE UserID WHERE Users.AGE < 30",
    'INCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("click", "rating")',
    'EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("click")',
    'INCLUDE ItemID WHERE Items.CATEGORY IN ("shoe") |'
    ' INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("favorite")',
    'INCLUDE ItemID WHERE Items.GENRE IN ("Comedy") |'
    ' EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("click", "stream")',
]
# These are written as in the samples, workshops and the API reference of AWS.
SAMPLED = [
    'EXCLUDE itemId WHERE INTERACTIONS.event_type in ("*")',
    'EXCLUDE ItemID WHERE INTERACTIONS.event_type IN ("Purchase")',
    "INCLUDE ItemID WHERE Interactions.event_type IN ('watched','favorited')",
    "INCLUDE ItemID WHERE Items.YEAR >= 1970 AND Items.YEAR < 1980",
    "INCLUDE ItemID WHERE Items.creation_timestamp > 1633240824",
    'INCLUDE ItemID WHERE Items.GENRE IN ("Comedy") IF CURRENTUSER.AGE > 20',
    'INCLUDE ItemID WHERE Items.GENRE IN ("Comedy") IF CURRENTUSER.GENDER = "F"',
    'INCLUDE ItemID WHERE Items.GENRES IN ("Comedy")',
    'EXCLUDE itemId WHERE ITEMS.CATEGORY_L1 IN ("cold dispensed","hot dispensed")',
    'exclude UserId where Users.GENDER in ("F")',
    'EXCLUDE itemId WHERE INTERACTIONS.event_type = "click"',
    "EXCLUDE ItemID WHERE Items.PRICE > (5)",
]


@pytest.mark.parametrize("expression", [*DOCUMENTED, *SAMPLED])
def test_expressions_of_the_guide_and_samples_are_accepted(expression: str) -> None:
    check_expression(expression, SCHEMAS)
    spaced_expression = expression.replace(" ", "\n\t ").replace(".", " . ")
    check_expression(spaced_expression, SCHEMAS)


REFUSED = {
    "": "ends too early.*expected: INCLUDE or EXCLUDE",
    "DROP ItemID": "unexpected 'DROP' at character 1; expected: INCLUDE or EXCLUDE",
    "INCLUDE Items WHERE": "unexpected 'Items' at character 9; expected: ItemID or UserID",
    "INCLUDE ItemID IF": "'IF' at character 16; expected: WHERE",
    "INCLUDE ItemID WHERE Items.YEAR BETWEEN 1 AND 2": r"'BETWEEN' at character 33; .*>=\.",
    "INCLUDE ItemID WHERE Items.YEAR = 1 XOR Items.YEAR = 2": "'XOR' at character 37; .*AND, OR",
    "INCLUDE ItemID WHERE Items.YEAR == 1": "unexpected '=' at character 34",
    "INCLUDE ItemID WHERE Items.GENRE IN (“a”)": "unexpected '“' at character 38",
    'INCLUDE ItemID WHERE Items.GENRE IN ("a': "unexpected '\"' at character 38",
    'INCLUDE ItemID WHERE Items.GENRE IN ("a"': 'too early.*","',
    "INCLUDE ItemID WHERE Items.GENRE IN ()": r"unexpected '\)'",
    "INCLUDE ItemID WHERE Items.YEAR = 1 |": "too early.*INCLUDE or EXCLUDE",
    "INCLUDE ItemID WHERE Items.YEAR = 1 IF CurrentUser.AGE = 1 OR CurrentUser.AGE = 2": "'OR'",
    "INCLUDE ItemID WHERE (Items.YEAR = 1": r'too early.*"\)"',
    "INCLUDE ActionID WHERE Actions.VALUE > 1": "ActionID is for action recommendations",
    "INCLUDE ItemID WHERE Items.YEAR = 1 | EXCLUDE UserID WHERE Users.AGE = 1": "not both",
    'INCLUDE ItemID WHERE Films.GENRE IN ("a")': "FILMS.GENRE is of no known dataset: allowed are"
    " Items and Interactions",
    'INCLUDE UserID WHERE Film.GENRE IN ("a")': "allowed are Users and Interactions",
    'INCLUDE ItemID WHERE Items.GENER IN ("a")': r"Items.GENER is not in the schema.*GENRE, genres",
    "EXCLUDE ItemID WHERE Interactions.EVENT_VALUE > 1": "filters see EVENT_TYPE only",
    "EXCLUDE ItemID WHERE Items.ADULT = 1": "Invalid Expression: Items.ADULT is of type boolean",
    'EXCLUDE ItemID WHERE Items.DESCRIPTION IN ("boot")': "textual metadata",
    'EXCLUDE ItemID WHERE Items.YEAR = 1 AND Interactions.EVENT_TYPE IN ("*")': "chain two",
    'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*") OR Items.YEAR = 1': "chain two",
    'EXCLUDE UserID WHERE Users.AGE = 1 OR Interactions.EVENT_TYPE IN ("*")': "chain two",
    "EXCLUDE ItemID WHERE Users.AGE = 1": "use IF CurrentUser.AGE",
    "EXCLUDE UserID WHERE Items.YEAR = 1": "cannot choose users",
    "EXCLUDE ItemID WHERE CurrentUser.AGE = 1": "only in an IF condition at the end",
    "EXCLUDE ItemID WHERE Items.YEAR = 1 IF Users.AGE = 1": "IF checks conditions of CurrentUser",
    "EXCLUDE ItemID WHERE Items.YEAR = 1 IF CurrentUser.DIV = 1": "CurrentUser.DIV is not in the",
    "EXCLUDE ItemID WHERE Items.YEAR = 1 IF CurrentUser.GENDER > 20": "> compares numbers",
    "EXCLUDE UserID WHERE Users.AGE = 1 IF CurrentUser.AGE = 1": "IF is allowed with ItemID only",
    "EXCLUDE ItemID WHERE Items.YEAR IN (1, 2)": "YEAR is of type int: IN and NOT IN compare",
    'EXCLUDE ItemID WHERE Items.YEAR = "1"': "of type int, compare it with a number without",
    "EXCLUDE ItemID WHERE Items.GENRE IN (1)": "of type string, compare it with quoted strings",
    "EXCLUDE ItemID WHERE Items.YEAR = (1, 2)": "takes one value, not 2",
    'EXCLUDE ItemID WHERE Items.GENRE IN "a"': "takes a list in parentheses",
    'EXCLUDE ItemID WHERE Items.GENRE IN ("*")': 'cannot take "\\*"',
    "EXCLUDE ItemID WHERE Items.YEAR = 1 OR " * 70: "2500 at most",
    "INCLUDE ItemID WHERE Items.GENRE IN ($GENRE)": r"unexpected '\$' at character 38",
    "EXCLUDE ItemID WHERE Items.YEAR = CurrentUser.AGE": "unexpected 'CurrentUser'",
    "EXCLUDE ItemID WHERE Items.YEAR = CurrentItem.YEAR": "unexpected 'CurrentItem'",
    "EXCLUDE ItemID WHERE CurrentItem.YEAR = 1": "CURRENTITEM.YEAR is of no known dataset",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_a_refusal_names_the_problem(expression: str) -> None:
    with pytest.raises(FilterExpressionError, match=REFUSED[expression]):
        check_expression(expression, SCHEMAS)


def test_a_missing_dataset_is_named() -> None:
    with pytest.raises(
        FilterExpressionError, match=r"no Users dataset\. Create it, with the field AGE"
    ):
        check_expression(
            "EXCLUDE ItemID WHERE Items.YEAR = 1 IF CurrentUser.AGE = 1", {"ITEMS": ITEMS}
        )
    with pytest.raises(FilterExpressionError, match="has no Interactions dataset"):
        check_expression('EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")', {})


def test_a_filter_has_ten_fields_at_most_and_a_group_twenty() -> None:
    items = build_schema("ITEMS", ITEM_ID="string", **{f"F{n}": "int" for n in range(30)})
    schemas = {"ITEMS": items, "USERS": USERS}

    def build_expression(numbers: range) -> str:
        return "EXCLUDE ItemID WHERE " + " AND ".join(f"Items.F{n} = 1" for n in numbers)

    check_expression(build_expression(range(10)), schemas)
    check_expression(" | ".join([build_expression(range(10)), build_expression(range(3))]), schemas)
    for expressions in (
        build_expression(range(11)),
        build_expression(range(10)) + " IF CurrentUser.AGE = 1",
        build_expression(range(5)) + " | " + build_expression(range(5, 11)),
    ):
        with pytest.raises(FilterExpressionError, match="11 distinct dataset fields; 10 at most"):
            check_expression(expressions, schemas)


def test_the_traits_of_a_filter() -> None:
    plain = FilterTraits(False, uses_interactions=False)
    assert find_traits(DOCUMENTED[4]) == plain
    assert find_traits(DOCUMENTED[0]) == replace(plain, uses_interactions=True)
    assert find_traits(DOCUMENTED[-1]) == replace(plain, uses_interactions=True)
    assert find_traits(DOCUMENTED[-4]) == replace(plain, filters_users=True, uses_interactions=True)


# --- wild text ---

WORDS = (
    "INCLUDE EXCLUDE ItemID UserID WHERE IF AND OR NOT IN . , ( ) | = != < <= 1 -1e9 $P *"
    ' Items Users Interactions CurrentUser CurrentItem GENRE YEAR AGE EVENT_TYPE "a" "b\''
)
SPOILT = st.tuples(
    st.sampled_from([*DOCUMENTED, *SAMPLED]), st.integers(0, 120), st.text(max_size=5)
).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :])
TEXT = st.one_of(
    st.text(max_size=100),
    st.text(string.printable, max_size=300),
    st.lists(st.sampled_from(WORDS.split(" ")), max_size=40).map(" ".join),
    SPOILT,
)


@pytest.mark.slow
@settings(max_examples=repeats(200, 40), deadline=None)
@given(TEXT)
def test_any_text_is_accepted_or_refused(text: str) -> None:
    with contextlib.suppress(FilterExpressionError):
        check_expression(text, SCHEMAS)


@pytest.mark.parametrize("opening", [" (", "(", "((Items.YEAR=1 OR "])
def test_deep_parentheses_end_in_an_answer(opening: str) -> None:
    for depth in (10, 140, 1200, 2400):
        for closing_count in (0, depth, depth + 1):
            text = f"INCLUDE ItemID WHERE {opening * depth}Items.YEAR=1{')' * closing_count}"
            try:
                check_expression(text, SCHEMAS)
            except FilterExpressionError:
                continue
            assert closing_count == depth
