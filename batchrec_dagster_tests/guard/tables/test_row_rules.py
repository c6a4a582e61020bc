"""Tests of which rows of ratings become interactions.

Every rule, alone and with others, is compared with a plain version in Python. Rows keep the order
of the file.
"""

from __future__ import annotations

import csv
import io
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.builders import write_source
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation

COLUMNS = {
    **{"user": "user", "item": "item", "rating": "rating", "timestamp": "time"},
    **{"event_type": "type", "event_value": "value"},
}
DAY = 86_400


class Row(NamedTuple):
    user: str
    item: str
    rating: float
    time: int
    type: str
    value: str
    price: int

    @property
    def cells(self) -> tuple[str, str, int, str, str]:
        """Return the written cells of the row."""
        return self.user, self.item, self.time, self.type, self.value


def keep_by_rules(
    rows: list[Row], rules: dict[str, Any], erased: Collection[str] = ()
) -> tuple[list[Row], dict[str, int]]:
    """Return the rows that the block `interactions` keeps, and the number left out by reason."""
    left_out: Counter[str] = Counter()

    def keep(condition: Callable[[int, Row], bool], reason: str) -> None:
        nonlocal rows
        stay = [row for index, row in enumerate(rows) if condition(index, row)]
        left_out[reason] += len(rows) - len(stay)
        rows = stay

    keep(lambda _, row: row.user not in erased, "of a user who was erased")
    if (min_rating := rules["min_rating"]) is not None:
        keep(lambda _, row: row.rating >= min_rating, "rating below min_rating")
    if rules["filter"] is not None:
        keep(lambda _, row: row.price > 2, "not in the filter")
    if (window := rules["window"]) is not None:
        newest = max((row.time for row in rows), default=0)
        first = newest - DAY * window["days"]
        keep(lambda _, row: row.time >= first, "before the window")
    if rules["duplicates"] == "drop":
        cells = [row.cells for row in rows]
        keep(lambda index, row: cells.index(row.cells) == index, "duplicate of an earlier row")
    if rules["latest_per_pair"]:
        latest: dict[tuple[str, str], tuple[int, int]] = {}
        for index, row in enumerate(rows):
            pair = row.user, row.item
            latest[pair] = max(latest.get(pair, (0, 0)), (row.time, index))
        keep(
            lambda index, row: latest[row.user, row.item][1] == index,
            "not the latest of its user and item",
        )
    rows_before = -1
    while rows_before != (rows_before := len(rows)):
        for name in ("user", "item"):
            counts = Counter(getattr(row, name) for row in rows)
            minimum = rules[f"min_interactions_per_{name}"] or 0
            keep(
                lambda _, row, name=name, counts=counts, minimum=minimum: (  # type: ignore[misc]
                    counts[getattr(row, name)] >= minimum
                ),
                f"fewer than min_interactions_per_{name}",
            )
    return rows, {reason: count for reason, count in left_out.items() if count}


ROWS = st.builds(
    Row,
    st.sampled_from(["1", "01", "b", "é, f"]),
    st.sampled_from(["x", "y", '"z"']),
    st.sampled_from([1.0, 3.0, 3.5, 5.0]),
    st.integers(0, 6).map(lambda half_days: 1_500_000_000 + half_days * DAY // 2),
    st.sampled_from(["view", "buy"]),
    st.sampled_from(["", "1.50"]),
    st.integers(1, 4),
)
RULES = st.fixed_dictionaries(
    {
        "min_rating": st.sampled_from([None, 3.5]),
        "filter": st.sampled_from([None, "price > 2"]),
        "window": st.sampled_from([None, {"days": 1}, {"days": 2}]),
        "duplicates": st.sampled_from(["keep", "drop"]),
        "latest_per_pair": st.booleans(),
        "min_interactions_per_user": st.sampled_from([None, 1, 2, 3]),
        "min_interactions_per_item": st.sampled_from([None, 2, 3]),
    }
)


NO_RULES = {
    **dict.fromkeys(["min_rating", "filter", "window"]),
    **{"duplicates": "keep", "latest_per_pair": False},
    **dict.fromkeys(["min_interactions_per_user", "min_interactions_per_item"]),
}


def check_against_plain_rules(
    folder: Path, rows: list[Row], rules: dict[str, Any], erased: Collection[str] = ()
) -> int:
    """Return the number of rows left out. Files with a bad row are read by another path."""
    expected_rows, left_out = keep_by_rules(rows, rules, erased)
    for bad_rows in ([], [["bad", "x", "much", 1_500_000_000, "view", "", 1]]):
        text = io.StringIO(newline="")
        csv.writer(text).writerows([Row._fields, *rows, *bad_rows])
        source = write_source(folder, text.getvalue())
        ratings = {"source": source, "columns": COLUMNS, "on_bad_rows": "skip"}
        blocks = {"ratings": ratings, "interactions": rules}
        interactions = preparation.prepare(folder, blocks, erased=erased)
        pairs = zip(interactions.rows, interactions.events, strict=True)
        assert [(*row, *event) for row, event in pairs] == [row.cells for row in expected_rows]
        reasons = {"the rating is not a number": 1} if bad_rows else {}
        assert interactions.left_out == {**left_out, **reasons}
        assert interactions.rows_read == len(rows) + len(bad_rows)
        assert interactions.erased_users == len({row.user for row in rows} & {*erased})
    return sum(left_out.values())


@pytest.mark.parametrize(
    "rule",
    [
        {"min_rating": 3.5},
        {"filter": "price > 2"},
        {"window": {"days": 2}},
        {"duplicates": "drop"},
        {"latest_per_pair": True},
        {"min_interactions_per_user": 10},
        {"min_interactions_per_item": 14},
        {"min_rating": 3.5, "min_interactions_per_user": 3, "min_interactions_per_item": 3},
    ],
    ids=lambda rule: ", ".join(rule),
)
def test_a_rule_leaves_out_what_it_says(tmp_path: Path, rule: dict[str, Any]) -> None:
    chance = random.Random(2)
    rows = [
        Row(
            chance.choice(["1", "01", "b", "c", "é, f"]),
            chance.choice(["x", "y", '"z"']),
            chance.choice([1.0, 3.0, 3.5, 5.0]),
            1_500_000_000 + chance.randrange(7) * DAY // 2,
            chance.choice(["view", "buy"]),
            chance.choice(["", "1.50"]),
            chance.randrange(1, 5),
        )
        for _ in range(40)
    ]
    rows += rows[:5]
    with preparation.parts_of(7):
        left_out = check_against_plain_rules(tmp_path, rows, {**NO_RULES, **rule})
    assert 0 < left_out < len(rows)


@settings(deadline=None, max_examples=repeats(200, 8))
@given(
    rows=st.lists(ROWS, min_size=1, max_size=30),
    rules=RULES,
    erased=st.sets(st.sampled_from(["1", "01", "b", "é, f", "nobody"])),
)
def test_every_row_is_kept_or_left_out_for_a_reason(
    rows: list[Row], rules: dict[str, Any], erased: set[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_against_plain_rules(Path(folder), rows, rules, erased)


def test_a_row_of_an_erased_user_is_no_bad_row_and_is_never_shown(tmp_path: Path) -> None:
    gone = "person-of-no-return"
    lines = [f"{gone},10,bad,9", f"{gone},10,5,2001-01-01", "1,10,5,9", "2,ten,bad,9"]
    source = write_source(tmp_path, "\n".join(["user,item,rating,time", *lines, ""]))
    blocks = {
        "ratings": {"source": source, "on_bad_rows": "skip"},
        "interactions": {"min_rating": 1},
    }
    interactions = preparation.prepare(tmp_path, blocks, erased=[gone, "never-there"])
    assert interactions.rows == [("1", "10", 9)]
    assert interactions.erased_users == 1
    assert len(interactions.bad_rows) == 1
    assert gone not in str(interactions)
    assert gone not in (tmp_path / "interactions.csv").read_text()


def filter_rows(
    folder: Path, content: str, condition: str, **ratings: Any
) -> preparation.Interactions:
    settings = {"source": write_source(folder, content), **ratings}
    return preparation.prepare(folder, {"ratings": settings, "interactions": {"filter": condition}})


@pytest.mark.parametrize(
    ("condition", "users"),
    [
        ("price > 2", ["b"]),
        ("price > 2 OR type = 'view'", ["a", "b"]),
        ("type IN ('buy') AND NOT price = 4", []),
        ("value IS NULL", ["a"]),
        ("`two words` = 'x'", ["b"]),
        ("price / 2 > 1.4 AND UPPER(type) LIKE 'B%'", ["b"]),
        ("rating >= 4", ["a"]),
    ],
)
def test_a_filter_is_sql_over_the_columns_of_the_file(
    tmp_path: Path, condition: str, users: list[str]
) -> None:
    content = (
        "user,item,rating,time,type,value,price,two words\n"
        "a,1,4.5,1500000000,view,,1,y\n"
        "b,1,3,1500000000,buy,2,4,x\n"
    )
    interactions = filter_rows(tmp_path, content, condition)
    assert [user for user, _, _ in interactions.rows] == users


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("cost > 2", "has no column 'cost' (interactions.filter); it has: user, item, rating"),
        ("rating", "interactions.filter: it is not a condition"),
        ("rating LIKE 'a%'", "interactions.filter: "),
    ],
)
def test_a_filter_that_does_not_fit_the_file_says_why(
    tmp_path: Path, condition: str, message: str
) -> None:
    content = "user,item,rating,time,type,value\na,1,4.5,1500000000,view,\n"
    with pytest.raises(preparation.UserError) as error:
        filter_rows(tmp_path, content, condition)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cell_of_the_filter_that_is_not_of_the_type_of_the_others_is_a_bad_row(
    tmp_path: Path,
) -> None:
    rows = [f"u{number},1,{number % 9},1500000000\n" for number in range(5000)]
    rows[4321] = "u4321,1,dear,1500000000\n"
    content = "user,item,price,time\n" + "".join(rows)
    with pytest.raises(preparation.UserError, match=r"data.csv, line 4323: price is not of type"):
        filter_rows(tmp_path, content, "price > 2")
    interactions = filter_rows(tmp_path, content, "price > 2", on_bad_rows="skip")
    assert len(interactions.rows) == sum(number % 9 > 2 for number in range(5000) if number != 4321)


@pytest.mark.parametrize("delimiter", [";", "::", ","])
def test_a_comma_may_stand_for_the_point_in_numbers(tmp_path: Path, delimiter: str) -> None:
    numbers = [("3,5", "7,25"), ("3,4", "1"), ("4", ""), (",5e1", "-2,5"), ("1.234,5", "1.234,56")]

    def build_content(rows: list[tuple[str, str]]) -> str:
        lines = [["user", "item", "rating", "time", "price"]]
        lines += [[f"u{n}", "10", rating, "1000", price] for n, (rating, price) in enumerate(rows)]
        return "".join(
            delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in line) + "\n"
            for line in lines
        )

    columns = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time"}
    columns |= {"event_value": "price"}
    ratings = {"delimiter": delimiter, "columns": columns, "on_bad_rows": "skip"}
    rules = {"min_rating": 3.5, "filter": "price > 1 OR price IS NULL"}

    def read(rows: list[tuple[str, str]], decimal: str) -> preparation.Interactions:
        source = write_source(tmp_path, build_content(rows))
        settings = {**ratings, "source": source, "decimal": decimal}
        return preparation.prepare(tmp_path, {"ratings": settings, "interactions": rules})

    interactions = read([*numbers, ("3.5", "1")], ",")
    assert [user for user, _, _ in interactions.rows] == ["u0", "u2", "u4"]
    assert [float(value or 0) for (value,) in interactions.events] == [7.25, 0, 1234.56]
    assert interactions.left_out["the rating is not a number"] == 1
