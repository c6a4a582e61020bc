"""Tests that CreateFilter takes the expressions of AWS's guide, and names mistakes in others."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.personalize import Local, Reply
from batchrec_dagster_tests.guard.servers.personalize_data import (
    write_interactions_schema,
    write_schema,
)

pytestmark = pytest.mark.slow

# The columns of Items and Users by type.
ITEMS = {
    "string": ("GENRE", "genres", "CATEGORY", "CATEGORY_L1", "CATEGORY_L2", "OWNER"),
    "double": ("PRICE",),
    "int": ("YEAR", *(f"F{number}" for number in range(12))),
    "long": ("CREATION_TIMESTAMP",),
    "boolean": ("ADULT",),
}
USERS = {"long": ("AGE",), "string": ("GENDER", "MEMBERSHIP_STATUS")}


# The guide's examples. The examples on DESCRIPTION predate the refusal of textual fields.
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
# These are written as in AWS's samples, workshops and API reference.
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


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """Return a local Personalize with a dataset group and its three datasets, without rows."""
    local = Local(tmp_path_factory.mktemp("shop"))
    group = local.create_group()
    plot = {"name": "DESCRIPTION", "textual": True}
    schemas = {
        "Interactions": write_interactions_schema({"name": "EVENT_VALUE", "type": "float"}),
        "Items": write_schema("Items", {"name": "ITEM_ID"}, plot, *list_fields(ITEMS)),
        "Users": write_schema("Users", {"name": "USER_ID"}, *list_fields(USERS)),
    }
    for kind, schema in schemas.items():
        answer = local.client.create_dataset(
            name=kind,
            datasetGroupArn=group,
            datasetType=kind,
            schemaArn=local.client.create_schema(name=kind, schema=schema)["schemaArn"],
        )
        local.wait_until_active(answer["datasetArn"])
    return local


def list_fields(columns: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for kind, names in columns.items() for name in names]


def create_filter(local: Local, expression: str) -> Reply:
    """Return the answer to CreateFilter, and delete the created filter."""
    (group,) = local.client.list_dataset_groups()["datasetGroups"]
    reply = local.send(
        "CreateFilter",
        {
            "name": "any",
            "datasetGroupArn": group["datasetGroupArn"],
            "filterExpression": expression,
        },
    )
    if reply.status == 200:
        arn = local.wait_until_active(reply.content["filterArn"])
        local.client.delete_filter(filterArn=arn)
        local.wait_until_gone(arn)
    else:
        assert (reply.status, reply.content["__type"]) == (400, "InvalidInputException")
        assert reply.content["message"]
    return reply


@pytest.mark.parametrize("expression", [*DOCUMENTED, *SAMPLED])
def test_expressions_of_the_guide_and_samples_are_accepted(shop: Local, expression: str) -> None:
    for text in (expression, expression.replace(" ", "\n\t ").replace(".", " . ")):
        reply = create_filter(shop, text)
        assert reply.status == 200, reply.content


# Wrong expressions, and the words of the refusal.
REFUSED = {
    "": "filterExpression",
    "DROP ItemID": "DROP",
    "INCLUDE Items WHERE": "Items",
    "INCLUDE ItemID IF": "WHERE",
    "INCLUDE ItemID WHERE Items.YEAR BETWEEN 1 AND 2": "BETWEEN",
    "INCLUDE ItemID WHERE Items.YEAR = 1 XOR Items.YEAR = 2": "XOR",
    "INCLUDE ItemID WHERE Items.YEAR == 1": "character 34",
    "INCLUDE ItemID WHERE Items.GENRE IN (“a”)": "character 38",
    'INCLUDE ItemID WHERE Items.GENRE IN ("a': "character 38",
    'INCLUDE ItemID WHERE Items.GENRE IN ("a"': ",",
    "INCLUDE ItemID WHERE Items.GENRE IN ()": ")",
    "INCLUDE ItemID WHERE Items.YEAR = 1 |": "INCLUDE",
    "INCLUDE ItemID WHERE Items.YEAR = 1 IF CurrentUser.AGE = 1 OR CurrentUser.AGE = 2": "OR",
    "INCLUDE ItemID WHERE (Items.YEAR = 1": ")",
    "INCLUDE ActionID WHERE Actions.VALUE > 1": "ActionID",
    "INCLUDE ItemID WHERE Items.YEAR = 1 | EXCLUDE UserID WHERE Users.AGE = 1": "UserID",
    'INCLUDE ItemID WHERE Films.GENRE IN ("a")': "Items and Interactions",
    'INCLUDE UserID WHERE Film.GENRE IN ("a")': "Users and Interactions",
    'INCLUDE ItemID WHERE Items.GENER IN ("a")': "GENRE, genres",
    "EXCLUDE ItemID WHERE Interactions.EVENT_VALUE > 1": "EVENT_TYPE",
    "EXCLUDE ItemID WHERE Items.ADULT = 1": "boolean",
    'EXCLUDE ItemID WHERE Items.DESCRIPTION IN ("boot")': "textual",
    'EXCLUDE ItemID WHERE Items.YEAR = 1 AND Interactions.EVENT_TYPE IN ("*")': "|",
    'EXCLUDE UserID WHERE Users.AGE = 1 OR Interactions.EVENT_TYPE IN ("*")': "|",
    "EXCLUDE ItemID WHERE Users.AGE = 1": "CurrentUser.AGE",
    "EXCLUDE UserID WHERE Items.YEAR = 1": "Items.YEAR",
    "EXCLUDE ItemID WHERE CurrentUser.AGE = 1": "IF",
    "EXCLUDE ItemID WHERE Items.YEAR = 1 IF Users.AGE = 1": "CurrentUser",
    "EXCLUDE ItemID WHERE Items.YEAR = 1 IF CurrentUser.DIV = 1": "CurrentUser.DIV",
    "EXCLUDE ItemID WHERE Items.YEAR = 1 IF CurrentUser.GENDER > 20": "numbers",
    "EXCLUDE UserID WHERE Users.AGE = 1 IF CurrentUser.AGE = 1": "IF",
    "EXCLUDE ItemID WHERE Items.YEAR IN (1, 2)": "int",
    'EXCLUDE ItemID WHERE Items.YEAR = "1"': "int",
    "EXCLUDE ItemID WHERE Items.GENRE IN (1)": "string",
    "EXCLUDE ItemID WHERE Items.YEAR = (1, 2)": "one value",
    'EXCLUDE ItemID WHERE Items.GENRE IN "a"': "parentheses",
    'EXCLUDE ItemID WHERE Items.GENRE IN ("*")': "*",
    "EXCLUDE ItemID WHERE Items.YEAR = 1 OR " * 70: "2500",
    "INCLUDE ItemID WHERE Items.GENRE IN ($GENRE)": "character 38",
    "EXCLUDE ItemID WHERE Items.YEAR = CurrentUser.AGE": "CurrentUser",
    "EXCLUDE ItemID WHERE CurrentItem.YEAR = 1": "CURRENTITEM.YEAR",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_a_refusal_names_the_problem(shop: Local, expression: str) -> None:
    reply = create_filter(shop, expression)
    assert reply.status == 400
    assert REFUSED[expression] in reply.content["message"]


def test_a_missing_dataset_is_named(local: Local) -> None:
    local.create_group()
    for expression, words in (
        ("EXCLUDE ItemID WHERE Items.YEAR = 1", "Items dataset"),
        ('EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")', "Interactions dataset"),
    ):
        reply = create_filter(local, expression)
        assert reply.status == 400
        assert words in reply.content["message"]


def test_a_filter_has_ten_fields_at_most(shop: Local) -> None:
    def write(numbers: range) -> str:
        return "EXCLUDE ItemID WHERE " + " AND ".join(f"Items.F{n} = 1" for n in numbers)

    for expression in (write(range(10)), f"{write(range(10))} | {write(range(3))}"):
        assert create_filter(shop, expression).status == 200
    for expression in (
        write(range(11)),
        f"{write(range(10))} IF CurrentUser.AGE = 1",
        f"{write(range(5))} | {write(range(5, 11))}",
    ):
        assert "10" in create_filter(shop, expression).content["message"]


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


@settings(max_examples=repeats(200, 40))
@given(TEXT)
def test_any_text_is_accepted_or_refused(shop: Local, text: str) -> None:
    create_filter(shop, text)


@pytest.mark.parametrize("opening", [" (", "(", "((Items.YEAR=1 OR "])
def test_deep_parentheses_end_in_an_answer(shop: Local, opening: str) -> None:
    for depth in (10, 140, 1200, 2400):
        for closing_count in (0, depth, depth + 1):
            text = f"INCLUDE ItemID WHERE {opening * depth}Items.YEAR=1{')' * closing_count}"
            if create_filter(shop, text).status == 200:
                assert closing_count == depth
