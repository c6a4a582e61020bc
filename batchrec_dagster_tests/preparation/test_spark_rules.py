"""Spark applies every rule as the local engine does, and leaves out who was erased."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from batchrec_dagster.preparation.rules import ERASED_USER, Rules
from batchrec_dagster.storage.erased import NOBODY
from batchrec_dagster_tests.guard.repeats import nightly, repeats
from batchrec_dagster_tests.preparation.spark_support import (
    COMMA,
    DIRTY,
    HEADER,
    QUOTED,
    SKIP,
    prepare_by_both,
    spark,
)

__all__ = ["spark"]

pytestmark = [pytest.mark.slow, nightly("Spark takes seconds for each")]

RULES = st.builds(
    Rules,
    on_bad_rows=st.sampled_from(["skip", "skip", "skip", "fail"]),
    min_rating=st.none() | st.sampled_from([3.5, 4]),
    filter=st.none() | st.just("rating <> 4 OR kind = 'a'"),
    window_days=st.none() | st.integers(1, 3),
    duplicates=st.sampled_from(["keep", "drop"]),
    latest_per_pair=st.booleans(),
    min_interactions_per_user=st.none() | st.integers(1, 4),
    min_interactions_per_item=st.none() | st.integers(1, 4),
    event_type=st.booleans(),
)


@given(
    rules=RULES,
    event_type=st.sampled_from([None, "kind"]),
    event_value=st.sampled_from([None, "rating"]),
    unit=st.sampled_from(["auto", "s", "ms"]),
    dirt=st.sampled_from([[], DIRTY[:12], QUOTED]),
    seed=st.integers(0, 99),
    erased=st.sets(st.sampled_from(["u1", "u2", "1", "a,b", "é", "x"])),
)
@settings(max_examples=repeats(12, 2), deadline=None)
def test_any_rules(
    spark: SparkSession,
    rules: Rules,
    event_type: str | None,
    event_value: str | None,
    unit: str,
    dirt: list[str],
    seed: int,
    erased: set[str],
) -> None:
    chance = random.Random(seed)
    rows = [
        f"u{chance.randrange(8)},i{chance.randrange(9)},{chance.choice([1, 3.5, 4, 5])},"
        f"{1_000_000_000 + chance.randrange(40) * 10_000},{chance.choice('ab')}"
        for _ in range(80)
    ]
    for line in dirt:
        rows.insert(chance.randrange(len(rows)), line)
    content = HEADER.strip() + ",kind\n" + "\n".join(rows)
    types = {"rating": "double", "kind": "string"} if rules.filter else {}
    layout = replace(
        COMMA,
        timestamp_unit=unit,
        event_type=event_type,
        event_value=event_value,
        types=types,
    )
    with tempfile.TemporaryDirectory() as folder:
        prepare_by_both(spark, Path(folder), content, layout, rules, NOBODY.add(erased))


def test_rows_of_erased_users_are_as_if_they_were_not_there(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Nothing is wrong with them, their times do not count, and no message shows them."""
    gone = "person-of-no-return"
    lines = [
        f"{gone},10,bad,1000",
        f"{gone},10,5,2001-01-01",
        f"{gone},10,5,1000,more",
        f"another field,{gone},10,5,1000",
        "1,10,5,1000",
        "2,ten,bad,1000",
        "another-person,10,5,99",
    ]
    suppressed = NOBODY.add([gone, "another-person", "never-there"])
    outcome = prepare_by_both(
        spark, tmp_path, HEADER + "\n".join(lines) + "\n", suppressed=suppressed
    )
    assert outcome.lines == ("1,10,1000",)
    assert outcome.left_out[ERASED_USER] == 4
    assert outcome.erased_users == 2
    assert len(outcome.examples) == 2
    assert gone not in str(outcome)


def test_the_last_of_the_rows_of_a_pair_and_a_time_stays(
    spark: SparkSession, tmp_path: Path
) -> None:
    """In the order of the source, also of rows in several files and blocks."""
    header = "userId,movieId,rating,timestamp,kind\n"
    rows = "".join(f"1,{row % 7},5,1000,{row}\n" for row in range(60))
    layout = replace(COMMA, event_type="kind")
    rules = replace(SKIP, latest_per_pair=True, event_type=True)
    spark.conf.set("spark.sql.files.openCostInBytes", "1")
    try:
        files: dict[str, str | bytes] = {"a.csv": header + rows, "b.csv": f"{header}1,3,5,1000,b\n"}
        outcome = prepare_by_both(spark, tmp_path, files, layout, rules)
    finally:
        spark.conf.unset("spark.sql.files.openCostInBytes")
    assert "1,3,1000,b" in outcome.lines
    assert len(outcome.lines) == 7
