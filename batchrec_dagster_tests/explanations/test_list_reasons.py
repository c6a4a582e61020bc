"""The reasons of lists, compared with a plain reading of the interactions."""

from __future__ import annotations

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.explanations.item_overlaps import DISCOUNT, choose_counted_users
from batchrec_dagster.explanations.list_reasons import BECAUSE, NEW, POPULAR, ListReasons
from batchrec_dagster.steps.list_reasons import RowReasons, merge_pieces
from batchrec_dagster_tests.guard.repeats import repeats

USERS, ITEMS = [f"u{n}" for n in range(6)], [f"i{n}" for n in range(7)]
INTERACTIONS = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS)), max_size=30)
LISTS = st.dictionaries(
    st.sampled_from(USERS), st.lists(st.sampled_from(ITEMS), min_size=1, unique=True), min_size=1
)


def build_interactions(pairs: list[tuple[str, str]]) -> pl.LazyFrame:
    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    return pl.DataFrame(pairs, schema=schema, orient="row").lazy()


def build_rows(lists: dict[str, list[str]]) -> pl.DataFrame:
    rows = [(user, item) for user, items in lists.items() for item in items]
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")


def score_overlap(pairs: set[tuple[str, str]], item: str, other: str) -> float:
    """The cosine of the audiences of two items, discounted for few users."""
    audiences = [{user for user, listed in pairs if listed == name} for name in (item, other)]
    both = len(audiences[0] & audiences[1])
    if not both:
        return 0.0
    return both / math.sqrt(len(audiences[0]) * len(audiences[1])) * both / (both + DISCOUNT)


@settings(max_examples=repeats(100, 25), deadline=None)
@given(INTERACTIONS, LISTS, st.data())
def test_reasons_are_what_the_histories_say(
    interactions: list[tuple[str, str]], lists: dict[str, list[str]], data: st.DataObject
) -> None:
    rows = build_rows(lists)
    given_reasons = [data.draw(st.sampled_from([None, None, "pinned"])) for _ in range(rows.height)]
    reasons = ListReasons(build_interactions(interactions), pl.Series(USERS))
    explained = reasons.explain(rows, pl.Series(given_reasons, dtype=pl.String))
    pairs = {*interactions}
    known_items = {item for _, item in pairs}
    for (user, item), given_reason, (reason, reason_item) in zip(
        rows.iter_rows(), given_reasons, explained.iter_rows(), strict=True
    ):
        history = {listed for name, listed in pairs if name == user}
        scores = {other: score_overlap(pairs, item, other) for other in history - {item}}
        best = max(scores.values(), default=0.0)
        expected = None
        if given_reason:
            expected = given_reason
        elif item not in known_items:
            expected = NEW
        elif not history:
            expected = POPULAR
        elif best:
            expected = BECAUSE
        assert reason == expected
        if reason == BECAUSE:
            assert scores[reason_item] == pytest.approx(best)
        else:
            assert reason_item is None


def test_control_padding_and_rules_have_their_own_reasons() -> None:
    pairs = [(user, item) for user in USERS for item in ITEMS[:4]]
    rows = build_rows(dict.fromkeys(USERS[:2], ITEMS[:3])).with_columns(
        score=pl.Series([0.5, 0.25, None, None, None, None]),
        arm=pl.Series(["model"] * 3 + ["control"] * 3),
        reason=pl.Series(["pinned", *[None] * 5], dtype=pl.String),
    )
    history = ListReasons(build_interactions(pairs), pl.Series(USERS))
    reasons = RowReasons(history)
    table = reasons.add(rows)
    assert table["reason"].to_list() == ["pinned", BECAUSE, *[POPULAR] * 4]
    assert reasons.counts == {"pinned": 1, BECAUSE: 1, POPULAR: 4}
    reasons.start()
    assert not reasons.counts


def test_users_are_counted_evenly_within_the_bounds() -> None:
    counts = pl.DataFrame({"user_id": USERS, "interactions": [10] * 6})
    assert choose_counted_users(counts).to_list() == USERS
    assert choose_counted_users(counts, 300).to_list() == USERS[::2]


def test_pieces_are_merged_and_nothing_is_lost() -> None:
    pieces = [pl.DataFrame({"n": [n], "items": [["a"] * n]}) for n in (3, 0, 3, 2, 1)]
    merged = [*merge_pieces(pieces, 5)]
    assert [piece.height for piece in merged] == [3, 2]
    assert pl.concat(merged).equals(pl.concat(pieces))
    assert [piece.height for piece in merge_pieces(pieces[:1], 5)] == [1]
