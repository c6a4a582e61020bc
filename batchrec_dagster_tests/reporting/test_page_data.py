"""The users and items of the page: nothing is lost between the report's rows and the script's."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.reporting.page_data import pack_people
from batchrec_dagster.reporting.people import People
from batchrec_dagster_tests.repeats import repeats
from batchrec_dagster_tests.unpacked_page import unpack_page_data

NUMBER = st.integers(0, 20_000)
TEXT = st.none() | st.text(min_size=1, max_size=4)


@st.composite
def make_people(draw: st.DrawFn) -> People:
    """Users and items of any numbers and texts, whose histories have the newest day first."""
    near = st.lists(NUMBER, max_size=2)
    item = st.tuples(st.text(), TEXT, NUMBER, NUMBER, near, TEXT, TEXT)
    rows: list[list[Any]] = []
    for days in draw(st.lists(st.lists(NUMBER, max_size=4), max_size=3)):
        history = [value for day in sorted(days, reverse=True) for value in (draw(NUMBER), day)]
        rows.append([draw(st.text()), len(days), history, draw(st.lists(st.integers(-3, 9)))])
    similar_items = draw(st.none() | st.dictionaries(NUMBER, near, max_size=2))
    items: list[list[Any]] = [[*cells] for cells in draw(st.lists(item, max_size=4))]
    return People(1, 1, items, rows, similar_items)


@given(make_people())
@settings(max_examples=repeats(100, 25), deadline=None)
def test_the_script_gets_the_rows_of_the_report(people: People) -> None:
    data = unpack_page_data(json.dumps(pack_people(people)))
    assert (data["items"], data["people"]) == (people.items, people.people)
    assert data.get("similar") == (
        None
        if people.similar_items is None
        # JSON has texts as keys.
        else {str(place): items for place, items in people.similar_items.items()}
    )


def test_what_no_item_has_takes_no_characters() -> None:
    rows: list[list[Any]] = [
        ["a", None, 2, 1, [], None, None],
        ["b", None, 2, 1, [0, 2], None, "https://b.example"],
    ]
    people = People(1, 1, rows, [["u", 3, [1, 20_005, 0, 20_003, 1, 20_003], [0, -1, 0]]])
    assert pack_people(people) == {
        "items": {
            "id": ["a", "b"],
            "users": [2, 2],
            "lists": [1, 1],
            "near": {1: [0, 2]},
            "link": [None, "https://b.example"],
        },
        "people": [["u", 3, [1, 20_005, 0, 2, 1, 0], [0, -1, 0]]],
    }
