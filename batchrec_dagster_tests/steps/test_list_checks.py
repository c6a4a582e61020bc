"""Every check of lists, with tables that hold and tables that break it."""

import polars as pl
import pytest

from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster.config.rules import ExcludeSeen
from batchrec_dagster.steps.list_checks import (
    check_every_answered,
    check_items_known,
    check_lists_full,
    check_no_duplicates,
    check_no_failed,
    check_rows_titled,
)
from batchrec_dagster.steps.rule_checks import check_no_seen_items
from batchrec_dagster.storage.edition import Finding

USERS = pl.Series(["a", "b", "c"])
SHARE = "recommendations.max_failed_share"


def test_every_user_answered() -> None:
    assert check_every_answered("user", USERS, pl.Series(["c", "a", "b"])).passed
    missing = check_every_answered("user", USERS, pl.Series(["a"]))
    assert not missing.passed
    assert "1 of 3 users have a result; 2 missing" in missing.text
    assert not check_every_answered("user", USERS, pl.Series(["a", "b", "c", "a"])).passed
    unknown = check_every_answered("user", USERS, pl.Series(["a", "b", "c", "d"]))
    assert not unknown.passed
    assert "3 of 3 users have a result; 1 results are of users that were not" in unknown.text
    empty = check_every_answered("user", USERS, USERS, why_empty="there is nothing")
    assert empty.blocks
    assert empty.text.startswith("3 of 3 users have a result; all lists are empty")


@pytest.mark.parametrize(
    ("failed", "lines", "max_share", "is_passed"),
    [
        (0, 2, 0.0, True),
        (1, 1_000, 0.001, True),
        (2, 1_000, 0.001, False),
        # 0.29 * 100 is less than 29.
        (29, 100, 0.29, True),
        (1, 2, 1.0, True),
        (2, 2, 1.0, False),
    ],
)
def test_a_share_of_the_users_may_fail_but_not_all(
    failed: int, lines: int, max_share: float, is_passed: bool
) -> None:
    check = check_no_failed("user", failed, lines, ("b", "no"), max_share, SHARE)
    assert check.blocks is not is_passed
    assert check.numbers == {"lines": lines, "failed": failed}


def test_failed_users_are_named_with_the_setting() -> None:
    few = check_no_failed("user", 3, 12_000, ("b", "User error"), 0.001, SHARE)
    most = "(at most 0.1 % may: recommendations.max_failed_share)"
    first = "the first: User error"
    assert (
        few.text == f"3 of 12,000 users failed {most}; they have no list in this edition; {first}"
    )
    many = check_no_failed("user", 6, 300, ("b", "User error"), 0.001, SHARE)
    assert many.text == f"6 of 300 users failed {most}; {first}"
    named = check_no_failed("user", 6, 300, ("b-1", "No user b-1 in b-12"), 0.001, SHARE)
    assert named.text.endswith("; the first: No user … in b-12")
    assert check_no_failed("user", 0, 300, None, 0.001, SHARE).text == "0 of 300 users failed"


def test_no_failed_segments() -> None:
    assert check_no_failed("segment", 0, 2, None, 0.0, "segments.items").passed
    check = check_no_failed("segment", 1, 2, ("b", "User error"), 0.0, "segments.items")
    assert check.blocks
    assert check.text == (
        "1 of 2 segments failed; the first, segment 'b': User error; fix segments.items"
    )
    # Another job would return the same.
    assert not check.makes_output_unusable


def test_every_segment_answered() -> None:
    def check_segments(*segments: str) -> Finding:
        return check_every_answered("segment", pl.Series(["1", "2"]), pl.Series(segments))

    assert check_segments("2", "1").passed
    assert not check_segments("2", "1", "1").passed
    missing = check_segments("2")
    assert not missing.passed
    assert "1 of 2 segments have a result; missing: '1'" in missing.text


def test_no_duplicates() -> None:
    assert check_no_duplicates(0).passed
    check = check_no_duplicates(1, "user")
    assert not check.passed
    assert check.text.startswith("1 users")


def test_no_seen_items() -> None:
    bought = ExcludeSeen(events=["purchase"], days=60)
    assert check_no_seen_items(0, bought).passed
    check = check_no_seen_items(1, bought)
    assert check.blocks
    assert check.text == "1 rows have an item that its user had by purchase in the last 60 days"


def test_lists_full_is_a_warning() -> None:
    assert check_lists_full(2, 2, 1, RecommendationSettings(), "recommendations").passed
    assert check_lists_full(95, 100, 2, RecommendationSettings(), "recommendations").passed
    short = check_lists_full(1, 2, 2, RecommendationSettings(), "recommendations")
    assert not short.passed
    assert short.text.startswith("1 of 2 users have all 2 items")
    assert not short.blocks
    without_failed = check_lists_full(2, 2, 1, RecommendationSettings(), "recommendations")
    assert without_failed.passed
    assert without_failed.text.startswith("2 of 2 users have all 1 items")


def test_items_that_the_items_file_does_not_have_are_a_warning() -> None:
    listed_ids, known_ids = pl.Series(["1.0", "2.0", "3"]), pl.Series(["1", "2", "3"])
    assert check_items_known(listed_ids.head(0), known_ids, "recommendations").passed
    assert check_items_known(pl.Series(["1", "2", "4"]), known_ids, "recommendations").passed
    other = check_items_known(listed_ids, known_ids, "recommendations")
    assert not other.passed
    assert not other.blocks
    assert other.text.startswith("1 of the 3 items in the lists are in the items file")
    assert "The lists have '1.0', the file '1'" in other.text
    assert (
        "ratings.columns.item"
        in check_items_known(listed_ids, known_ids.head(0), "recommendations").text
    )


def test_a_filter_that_lets_items_through_which_the_file_does_not_have_is_named() -> None:
    settings = RecommendationSettings(filter='EXCLUDE ItemID WHERE Items.STOCK NOT IN ("yes")')
    listed_ids, known_ids = pl.Series(["1", "2", "3"]), pl.Series(["1", "2"])
    check = check_items_known(listed_ids, known_ids, "recommendations", settings.open_filter)
    assert not check.passed
    assert not check.blocks
    assert check.text == (
        "2 of the 3 items in the lists are in the items file. recommendations.filter: EXCLUDE …"
        " Items.STOCK NOT IN lets items through that the items file does not have: write INCLUDE"
        " ItemID WHERE Items.STOCK IN (…)"
    )
    assert check_items_known(known_ids, known_ids, "recommendations", settings.open_filter).passed


@pytest.mark.parametrize(
    ("expression", "is_open"),
    [
        ('EXCLUDE ItemID WHERE Items.STOCK NOT IN ("yes")', True),
        ('EXCLUDE ItemID WHERE Items.PRICE < 1 AND Items.STOCK != "yes"', True),
        ('EXCLUDE ItemID WHERE Items.STOCK IN ("no")', False),
        ('INCLUDE ItemID WHERE Items.STOCK NOT IN ("no")', False),
        ('EXCLUDE ItemID WHERE Interactions.EVENT_TYPE NOT IN ("click")', False),
        (None, False),
    ],
)
def test_only_an_exclusion_of_all_other_items_lets_unknown_ones_through(
    expression: str | None, *, is_open: bool
) -> None:
    assert (RecommendationSettings(filter=expression).open_filter is not None) is is_open


def test_results_without_a_title_are_a_warning() -> None:
    assert check_rows_titled(0, 0).passed
    assert check_rows_titled(95, 5).passed
    untitled = check_rows_titled(57_648, 30_247)
    assert not untitled.passed
    assert not untitled.blocks
    assert untitled.text.startswith("30,247 of 87,895 results were left out, as they have no title")
