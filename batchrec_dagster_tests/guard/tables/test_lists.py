"""Tests that a batch inference job's output becomes all users' lists, or is refused.

The lines have Personalize's format, and are read in pieces of any size.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.seams.lists import make_list

ITEMS = ["1", "2", "3", "é", "5"]
Row = tuple[str, int, str, float | None]
users = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), unique=True)


def format_line(user: str, items: Sequence[str], error: str | None = None) -> str:
    """Return a line of Personalize's output, with scores that fall from item to item."""
    output = {"recommendedItems": [*items], "scores": [1 / (1 + n) for n in range(len(items))]}
    return json.dumps({"input": {"userId": user}, "output": output, "error": error})


@st.composite
def batches(draw: st.DrawFn) -> Any:
    """Draw users, shuffled answers, seen items, the length of lists, and the lines per piece."""
    user_ids = draw(users)
    lists_of_items = st.lists(st.sampled_from(ITEMS), max_size=5, unique=True)
    answers = [(user, draw(lists_of_items)) for user in draw(st.permutations(user_ids))]
    pairs = st.tuples(st.sampled_from([*user_ids, "no one"]), st.sampled_from([*ITEMS, "6"]))
    return (
        user_ids,
        answers,
        draw(st.none() | st.lists(pairs)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
    )


@given(batch=batches())
def test_a_list_has_the_best_items_that_its_user_did_not_have(batch: Any) -> None:
    user_ids, answers, seen, num_results, lines_at_once = batch
    expected: list[Row] = []
    for user, items in answers:
        unseen = [
            (index, item)
            for index, item in enumerate(items)
            if seen is None or (user, item) not in seen
        ]
        for rank, (index, item) in enumerate(unseen[:num_results], 1):
            expected.append((user, rank, item, 1 / (1 + index)))
    made = make_list(
        [format_line(user, items) for user, items in answers],
        user_ids,
        num_results=num_results,
        seen=seen,
        lines_at_once=lines_at_once,
    )
    assert made.rows.rows() == expected
    assert made.rows.schema == {
        "user_id": pl.String,
        "rank": pl.Int32,
        "item_id": pl.String,
        "score": pl.Float64,
    }
    assert not made.failed_users
    # Without any row, nothing is published.
    assert bool(made.refused_by) is not bool(expected)
    is_short = {user for user, rank, *_ in expected if rank == num_results} != {*user_ids}
    assert bool(made.warnings) is (is_short and bool(user_ids))


ANSWERS = ["list", "list", "list", "error", "twice", "missing", "duplicate"]


def write_lines(answers: Sequence[str], *, has_stranger: bool) -> list[str]:
    """Return an output's lines with the given kinds of answers for the users u0, u1, …."""
    lines = []
    for index, answer in enumerate(answers):
        user = f"u{index}"
        if answer == "error":
            # A line with an error counts as an error, even if it has items.
            lines.append(format_line(user, ITEMS, "Service error"))
        elif answer != "missing":
            items = [ITEMS[0], *ITEMS] if answer == "duplicate" else ITEMS
            lines += [format_line(user, items)] * (2 if answer == "twice" else 1)
    return lines + [format_line("stranger", ITEMS)] * has_stranger


@given(
    answers=st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=8),
    has_stranger=st.sampled_from([False, False, True]),
    max_share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    lines_at_once=st.integers(1, 9),
    seed=st.integers(0, 9),
)
@example(["list"] * 4 + ["error"], False, 0.2, 2, 0)
@example(["list"] * 4 + ["error"], False, 0.1, 2, 0)
@example(["list", "missing"], False, 1.0, 2, 0)
@example(["list", "twice"], False, 1.0, 2, 0)
@example(["list"], True, 1.0, 2, 0)
@example(["list", "duplicate"], False, 1.0, 2, 0)
@example(["error", "error"], False, 1.0, 2, 0)
def test_an_output_that_is_not_whole_is_refused_but_for_the_declared_share_of_errors(
    answers: list[str], has_stranger: bool, max_share: float, lines_at_once: int, seed: int
) -> None:
    lines = write_lines(answers, has_stranger=has_stranger)
    random.Random(seed).shuffle(lines)
    made = make_list(
        lines,
        [f"u{index}" for index in range(len(answers))],
        num_results=len(ITEMS),
        max_failed_share=max_share,
        lines_at_once=lines_at_once,
    )
    errors = answers.count("error")
    failed = {f"u{index}" for index, answer in enumerate(answers) if answer == "error"}
    is_whole = not (has_stranger or {"missing", "twice", "duplicate"} & {*answers})
    has_few_errors = not errors or (errors < len(lines) and errors <= max_share * len(lines))
    has_lists = is_whole and has_few_errors and errors < len(answers)
    assert bool(made.refused_by) is not has_lists
    assert {*made.failed_users} == failed
    assert not failed & {*made.rows["user_id"]}
    if has_lists:
        everyone = {f"u{index}" for index in range(len(answers))}
        assert {*made.rows["user_id"]} == everyone - failed
        assert made.rows.height == (len(everyone) - len(failed)) * len(ITEMS)


def test_scores_that_personalize_leaves_out_are_null() -> None:
    lines = [
        '{"input":{"userId":"a"},"output":{"recommendedItems":["1","2","3"],"scores":[0.5]}}',
        '{"input":{"userId":"b"},"output":{"recommendedItems":["1, NaN","2"],"scores":[0.5,NaN]}}',
        '{"input":{"userId":"c"},"output":{"recommendedItems":["1"],"scores":[0.5,0.25]}}',
        '{"input":{"userId":"d"},"output":{"recommendedItems":["4"],"scores":null}}',
        '{"input":{"userId":"e"},"output":{"recommendedItems":["4"],"reasons":["popular"]}}',
    ]
    made = make_list(lines, [*"abcde"], num_results=3)
    assert made.rows.select("user_id", "item_id", "score").rows() == [
        ("a", "1", 0.5),
        ("a", "2", None),
        ("a", "3", None),
        ("b", "1, NaN", 0.5),
        ("b", "2", None),
        ("c", "1", 0.5),
        ("d", "4", None),
        ("e", "4", None),
    ]


def test_a_file_that_is_no_batch_output_is_refused() -> None:
    with pytest.raises(ValueError, match="not a batch inference output file"):
        make_list(['{"input": NaN'], ["a"], num_results=3)
