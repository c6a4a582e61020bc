"""Which rows are kept: every option, alone and together, against a plain version in Python."""

from __future__ import annotations

import csv
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.preparation.layout import Layout, PreparationError
from batchrec_dagster.preparation.polars import prepare as local
from batchrec_dagster.preparation.polars import row_filters
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import (
    BEFORE_WINDOW,
    BELOW_MIN_RATING,
    DUPLICATE,
    ERASED_USER,
    FEW_OF_ITEM,
    FEW_OF_USER,
    NOT_IN_FILTER,
    NOT_LATEST,
    PreparationResult,
    Rules,
)
from batchrec_dagster.preparation.spark.task import SparkTask
from batchrec_dagster.storage.hashed_users import NOBODY, SuppressedUsers
from batchrec_dagster_tests.guard.repeats import repeats

LAYOUT = Layout(",", "user", "item", "rating", "time", "s", "type", "value")
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
    def cells(self) -> tuple[str, ...]:
        return self.user, self.item, str(self.time), self.type, self.value


def keep_by_rules(
    rows: list[Row], rules: Rules, erased: Collection[str] = ()
) -> tuple[list[Row], dict[str, int]]:
    """What the docstring of Rules says, in plain Python."""
    left_out: Counter[str] = Counter()

    def keep(condition: Callable[[int, Row], bool], reason: str) -> None:
        nonlocal rows
        stay = [row for place, row in enumerate(rows) if condition(place, row)]
        left_out[reason] += len(rows) - len(stay)
        rows = stay

    keep(lambda _, row: row.user not in erased, ERASED_USER)
    if (min_rating := rules.min_rating) is not None:
        keep(lambda _, row: row.rating >= min_rating, BELOW_MIN_RATING)
    if rules.filter is not None:
        keep(lambda _, row: row.price > 2, NOT_IN_FILTER)
    if (days := rules.window_days) is not None:
        newest = max((row.time for row in rows), default=0)
        keep(lambda _, row: row.time >= newest - DAY * days, BEFORE_WINDOW)
    if rules.duplicates == "drop":
        rows_so_far = [row.cells for row in rows]
        keep(lambda place, row: rows_so_far.index(row.cells) == place, DUPLICATE)
    if rules.latest_per_pair:
        latest = {(row.user, row.item): (row.time, place) for place, row in enumerate(rows)}
        for place, row in enumerate(rows):
            pair = row.user, row.item
            latest[pair] = max(latest[pair], (row.time, place))
        keep(lambda place, row: latest[row.user, row.item][1] == place, NOT_LATEST)
    before = -1
    while before != (before := len(rows)):
        few = find_ids_with_fewer([row.user for row in rows], rules.min_interactions_per_user)
        keep(lambda _, row, few=few: row.user not in few, FEW_OF_USER)  # type: ignore[misc]
        few = find_ids_with_fewer([row.item for row in rows], rules.min_interactions_per_item)
        keep(lambda _, row, few=few: row.item not in few, FEW_OF_ITEM)  # type: ignore[misc]
    return rows, {reason: count for reason, count in left_out.items() if count}


def find_ids_with_fewer(ids: list[str], minimum: int | None) -> set[str]:
    return {name for name, count in Counter(ids).items() if count < (minimum or 0)}


def prepare(
    folder: Path,
    rows: list[Row],
    rules: Rules,
    reading: ReadSettings,
    suppressed: SuppressedUsers = NOBODY,
) -> tuple[list[tuple[str, ...]], PreparationResult]:
    source, target = folder / "ratings.csv", folder / "interactions.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    with open_ratings([RawFile(source, "ratings.csv")], reading, rules, suppressed) as ratings:
        result = ratings.write_interactions(target)
    with target.open(newline="") as file:
        header, *lines = (tuple(line) for line in csv.reader(file))
    assert header == ("USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE", "EVENT_VALUE")
    return lines, result


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
RULES = st.builds(
    Rules,
    min_rating=st.sampled_from([None, 3.5]),
    filter=st.sampled_from([None, "price > 2"]),
    window_days=st.sampled_from([None, 1, 2]),
    duplicates=st.sampled_from(["keep", "drop"]),
    latest_per_pair=st.booleans(),
    min_interactions_per_user=st.sampled_from([None, 1, 2, 3]),
    min_interactions_per_item=st.sampled_from([None, 2, 3]),
    event_type=st.just(True),
)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["straight", "the other", "in parts"])
@settings(deadline=None, max_examples=repeats(30, 10))
@given(
    rows=st.lists(ROWS, min_size=1, max_size=30),
    rules=RULES,
    erased=st.sets(st.sampled_from(["1", "01", "b", "é, f", "nobody"])),
)
def test_every_row_is_kept_or_left_out_for_a_reason(
    way: str, rows: list[Row], rules: Rules, erased: set[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        if way == "the other":
            patch.setattr(local, "write_clean", lambda *_: None)
        if way == "in parts":
            patch.setattr(row_filters, "PART_ROWS", 4)
            patch.setattr(local, "BYTES_AT_ONCE", 0)
        lines, result = prepare(
            Path(folder), rows, rules, ReadSettings.of(LAYOUT), NOBODY.add(erased)
        )
    expected_rows, left_out = keep_by_rules(rows, rules, erased)
    assert result.erased_users == len(erased.intersection(row.user for row in rows))
    assert lines == [row.cells for row in expected_rows]
    assert result.left_out == left_out
    assert result.rows_read == len(rows)
    assert (
        result.rows_kept == len(expected_rows) == result.rows_read - sum(result.left_out.values())
    )


@settings(deadline=None)
@given(RULES)
def test_rules_and_layouts_come_back_from_json(rules: Rules) -> None:
    task = SparkTask([], LAYOUT, rules, destination="", users="", work="")
    assert SparkTask.from_json(json.loads(json.dumps(asdict(task)))) == task


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
    source, target = tmp_path / "r.csv", tmp_path / "i.csv"
    source.write_text(
        "user,item,rating,time,type,value,price,two words\n"
        "a,1,4.5,1500000000,view,,1,y\n"
        "b,1,3,1500000000,buy,2,4,x\n"
    )
    rules = Rules(filter=condition)
    with open_ratings([RawFile(source, "r.csv")], ReadSettings.of(LAYOUT), rules) as ratings:
        ratings.write_interactions(target)
    assert [line.split(",")[0] for line in target.read_text().splitlines()[1:]] == users


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
    source = tmp_path / "r.csv"
    source.write_text("user,item,rating,time,type,value\na,1,4.5,1500000000,view,\n")
    with (
        pytest.raises(PreparationError) as error,
        open_ratings([RawFile(source, "r.csv")], ReadSettings.of(LAYOUT), Rules(filter=condition)),
    ):
        pass
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cell_that_is_not_of_the_type_of_the_others_is_found_in_its_row(tmp_path: Path) -> None:
    source = tmp_path / "r.csv"
    rows = [f"u{number},1,{number % 9},1500000000\n" for number in range(5000)]
    rows[4321] = "u4321,1,dear,1500000000\n"
    source.write_text("user,item,price,time\n" + "".join(rows))
    reading = ReadSettings(columns={"user": "user", "item": "item", "timestamp": "time"})
    with open_ratings([RawFile(source, "r.csv")], reading, Rules(filter="price > 2")) as ratings:
        assert ratings.recognised_layout.types["price"] == "long"
        with pytest.raises(PreparationError, match=r"r.csv, line 4323: price is not of type long"):
            ratings.write_interactions(tmp_path / "i.csv")
    skipping = Rules("skip", filter="price > 2")
    with open_ratings([RawFile(source, "r.csv")], reading, skipping) as ratings:
        result = ratings.write_interactions(tmp_path / "i.csv")
    assert result.left_out["price is not of type long"] == 1
