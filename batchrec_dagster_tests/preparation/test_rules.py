"""Which rows are kept where they are read in parts, against a plain version in Python."""

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

from batchrec_dagster.preparation.layout import Columns, FileForm
from batchrec_dagster.preparation.polars import row_filters
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
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
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers
from batchrec_dagster_tests.guard.repeats import repeats

COLUMNS = Columns(
    {
        "user": "user",
        "item": "item",
        "rating": "rating",
        "timestamp": "time",
        "event_type": "type",
        "event_value": "value",
    },
    time_form="s",
)
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
    suppressed: ErasedUsers = NOBODY,
) -> tuple[list[tuple[str, ...]], PreparationResult]:
    source, target = folder / "ratings.csv", folder / "interactions.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    with open_ratings(
        [RawFile(source, "ratings.csv")], FileForm(), COLUMNS, rules, suppressed
    ) as ratings:
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
@settings(deadline=None, max_examples=repeats(30, 10))
@given(
    rows=st.lists(ROWS, min_size=1, max_size=30),
    rules=RULES,
    erased=st.sets(st.sampled_from(["1", "01", "b", "é, f", "nobody"])),
)
def test_rows_that_are_read_in_parts_are_kept_or_left_out_for_a_reason(
    rows: list[Row], rules: Rules, erased: set[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(row_filters, "PART_ROWS", 4)
        lines, result = prepare(Path(folder), rows, rules, NOBODY.add(erased))
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
def test_rules_and_columns_come_back_from_json(rules: Rules) -> None:
    task = SparkTask({}, FileForm(), COLUMNS, rules, "s", "file:///work")
    assert SparkTask.from_json(json.loads(json.dumps(asdict(task)))) == task
